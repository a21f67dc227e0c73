"""Segmenting from the panel: results, cancelling, errors, nodes that are removed during a run."""

from __future__ import annotations

import numpy as np
import pytest

from Testing import host
from Testing.helpers.threshold_model import two_blobs
from Testing.panel.helpers import blobs_volume, segmentations
from Testing.slicer.helpers import GRIDS, add_volume, add_warp, segment_names, segment_voxels

# The slow model takes about a second for a volume of this shape.
SLOW_SHAPE = (6, 10, 12)


def test_a_volume_of_a_file_becomes_named_segments(user, scene, tmp_path):
    import slicer

    path = str(tmp_path / "köpf.nrrd")
    stored = blobs_volume(GRIDS["axis-aligned"])
    assert slicer.util.saveNode(stored, path)
    scene.RemoveNode(stored)
    volume = slicer.util.loadVolume(path)
    user.choose_volume(volume)
    user.choose_model("threshold")
    assert user.ui.segmentButton.text == "&Segment"
    user.click(user.ui.segmentButton)
    assert user.ui.segmentButton.text == "&Cancel"
    assert user.ui.progressBar.isVisibleTo(user.ui.progressBar.parent())
    user.wait()
    (node,) = segmentations(scene)
    assert segment_names(node) == ["Anterior", "Posterior"]
    array = two_blobs()
    for value, name in ((1, "Anterior"), (2, "Posterior")):
        assert np.array_equal(segment_voxels(node, name, volume), array == value)
    millilitres = [f"{(array == value).sum() / 1000:.2f}" for value in (1, 2)]
    assert [[row[0], row[2]] for row in user.table] == [
        ["Anterior", millilitres[0]],
        ["Posterior", millilitres[1]],
    ]
    assert "cpu" in user.ui.deviceInfo.text
    assert user.status.startswith("Done: 2 classes")
    assert not host.messages.texts("error")


@pytest.mark.parametrize(
    "model", ["slow_loading", "slow", "hanging"], ids=["loading", "encoding", "hung"]
)
def test_cancel_leaves_the_scene_unchanged_and_the_next_run_works(user, scene, model):
    volume = blobs_volume()
    nodes = scene.GetNumberOfNodes()
    user.start(volume, model)
    user.wait_for_progress()
    user.click(user.ui.segmentButton)
    user.wait()
    assert user.status == "Cancelled; nothing was changed."
    assert scene.GetNumberOfNodes() == nodes
    assert not host.messages.texts("error")
    user.segment(volume)
    assert user.found == ["Anterior", "Posterior"]


def test_a_run_without_progress_is_reported_and_can_be_cancelled(open_panel, own_client, scene):
    user = open_panel(own_client(stalled_seconds=0.5))
    volume = blobs_volume()
    nodes = scene.GetNumberOfNodes()
    user.start(volume, "hanging")
    user.wait(lambda: "no progress for" in user.status, "a remark")
    assert "cancel" in user.status and user.status in user.ui.logText.plainText
    assert user.ui.segmentButton.text == "&Cancel"
    user.click(user.ui.segmentButton)
    user.wait()
    assert user.status == "Cancelled; nothing was changed."
    assert scene.GetNumberOfNodes() == nodes


@pytest.mark.parametrize("model", ["crashing", "huge_array"], ids=["crash", "memory"])
def test_a_failed_run_is_reported_and_the_next_one_works(user, scene, model):
    volume = blobs_volume()
    nodes = scene.GetNumberOfNodes()
    user.segment(volume, model)
    (message,) = host.messages.texts("error")
    assert "\n" not in message.strip()
    assert "memory" in message  # a crash is often caused by a lack of memory
    assert user.status == f"Failed: {message}"
    assert scene.GetNumberOfNodes() == nodes
    host.messages.clear()
    user.segment(volume)
    assert user.found == ["Anterior", "Posterior"]


def test_an_error_inside_the_panel_ends_the_run_and_the_next_one_works(user, scene, monkeypatch):
    from MaskSAMSlicerLib.panel.devices import DevicesView

    def fail(_self, _device):
        raise RuntimeError("a fault of the panel")

    volume = blobs_volume()
    with monkeypatch.context() as faulty:
        faulty.setattr(DevicesView, "show_used", fail)
        user.segment(volume)
    (error,) = host.errors
    assert str(error) == "a fault of the panel"
    host.errors.clear()
    assert user.status == "Ended after an error inside MaskSAM: see Slicer's error log."
    assert user.ui.segmentButton.text == "&Segment"
    user.segment(volume)
    assert user.found == ["Anterior", "Posterior"]


def test_a_worker_killed_during_a_run_is_reported_and_the_next_run_works(user, scene):
    volume = blobs_volume()
    nodes = scene.GetNumberOfNodes()
    user.start(volume, "hanging")
    user.wait_for_progress()
    user.worker.kill()
    user.wait()
    assert len(host.messages.texts("error")) == 1
    assert scene.GetNumberOfNodes() == nodes
    user.segment(volume)
    assert user.found == ["Anterior", "Posterior"]


def test_the_files_of_a_volume_are_gone_after_its_scene_was_closed(open_panel, own_client, scene):
    user = open_panel(own_client())
    user.segment(blobs_volume())
    client = user.widget.logic.segmentation.client
    assert list(client.folder.glob("volume-*"))
    host.close_scene()
    assert not list(client.folder.glob("volume-*"))
    assert client.needs_polling  # the worker holds the volume open
    user.wait(lambda: not client.needs_polling, "the end of the worker's session")


def test_a_scene_closed_during_a_run_stays_empty(user, scene):
    user.start(blobs_volume(), "slow")
    user.wait_for_progress()
    host.close_scene()
    user.wait()
    assert segmentations(scene) == []
    assert not host.messages.texts("error")
    user.segment(blobs_volume())
    assert len(segmentations(scene)) == 1


@pytest.mark.parametrize("removed", ["volume", "output"])
def test_a_node_removed_during_a_run_changes_nothing(user, scene, removed):
    volume = blobs_volume(shape=SLOW_SHAPE)
    output = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "output")
    user.choose_volume(volume)
    user.ui.outputSelector.setCurrentNode(output)
    user.start(volume, "slow")
    user.wait_for_progress()
    scene.RemoveNode(volume if removed == "volume" else output)
    user.wait()
    assert f"The {removed} was removed" in user.status
    assert all(segment_names(node) == [] for node in segmentations(scene))
    assert len(segmentations(scene)) == (1 if removed == "volume" else 0)


def test_an_existing_output_is_written_by_the_chosen_rule(user, scene):
    volume = blobs_volume()
    user.segment(volume)
    (node,) = segmentations(scene)
    user.ui.outputSelector.setCurrentNode(node)
    user.choose_rule("add")
    user.click(user.ui.segmentButton)
    user.wait()
    assert segmentations(scene) == [node]
    assert segment_names(node) == ["Anterior", "Posterior", "Anterior 2", "Posterior 2"]


def test_an_output_without_a_display_gets_one(user, scene):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "bare")
    assert node.GetDisplayNode() is None
    volume = blobs_volume()
    user.choose_volume(volume)
    user.ui.outputSelector.setCurrentNode(node)
    user.segment(volume)
    assert segment_names(node) == ["Anterior", "Posterior"]
    assert node.GetDisplayNode() is not None
    assert user.found == ["Anterior", "Posterior"]


def test_the_event_loop_is_not_blocked_during_a_run(user, scene):
    import qt

    under_way = []
    timer = qt.QTimer()
    timer.interval = 0
    timer.connect("timeout()", lambda: under_way.append(user.ui.progressBar.maximum > 0))
    user.start(blobs_volume(shape=SLOW_SHAPE), "slow")
    timer.start()
    user.wait()
    timer.stop()
    # If the run blocked the event loop, the timer would fire only between the stages of the run.
    assert under_way.count(True) > 20


def test_a_finished_run_keeps_no_voxels(user, scene):
    import gc
    import weakref

    volume = add_volume(two_blobs(), GRIDS["LPS"])
    user.segment(volume)
    logic = user.widget.logic.segmentation
    assert logic.run.job.result is None
    assert logic.run.request.volumes == ()
    reference = weakref.ref(volume)
    del volume
    host.close_scene()
    gc.collect()
    assert reference() is None or reference().GetScene() is None
    assert logic.run is None


def test_a_sheared_volume_is_refused(user, scene):
    sheared = GRIDS["LPS"].copy()
    sheared[0, 1] = 0.6
    volume = blobs_volume()
    volume.SetIJKToRASDirections(
        *(sheared[:3, :3] / np.linalg.norm(sheared[:3, :3], axis=0)).ravel()
    )
    nodes = scene.GetNumberOfNodes()
    user.start(volume, "threshold")
    assert "right angles" in user.ui.warningLabel.text
    assert not host.messages.texts("error")  # a wrong choice opens no dialog
    assert scene.GetNumberOfNodes() == nodes


def test_a_warped_volume_is_refused(user, scene):
    volume = blobs_volume()
    add_warp(volume)
    user.start(volume, "threshold")
    assert "Harden" in user.ui.warningLabel.text
    assert not host.messages.texts("error")
    assert not user.busy
    assert user.ui.segmentButton.text == "&Segment"


def test_a_new_roi_is_drawn_at_once(user, scene, application):
    roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    user.ui.roiSelector.nodeAddedByUser.emit(roi)
    interaction = application.applicationLogic().GetInteractionNode()
    selection = application.applicationLogic().GetSelectionNode()
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    assert selection.GetActivePlaceNodeID() == roi.GetID()
    assert "slice view" in user.status
    interaction.SwitchToViewTransformMode()

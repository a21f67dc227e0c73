"""What the panel must take care of: scripts beside it, edits after a run, odd nodes."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from Testing import host
from Testing.helpers.threshold_model import two_blobs
from Testing.panel.fixtures import blobs_volume
from Testing.slicer.module_tools import GRIDS, add_volume, segment_names


def test_an_output_without_a_display_is_used_and_shown(person, scene):
    volume = blobs_volume()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "bare")
    assert node.GetDisplayNode() is None
    person.choose_volume(volume)
    person.choose_model("threshold")
    person.ui.outputSelector.setCurrentNode(node)
    person.click(person.ui.segmentButton)
    person.wait()
    assert segment_names(node) == ["Anterior", "Posterior"]
    assert node.GetDisplayNode() is not None
    assert len(person.table) == 2


def test_undo_is_over_once_the_segments_were_edited(person, scene):
    import slicer

    volume = blobs_volume()
    person.segment(volume)
    node = scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    assert person.ui.undoButton.enabled
    segment_id = node.GetSegmentation().GetNthSegmentID(0)
    painted = np.zeros(two_blobs().shape, np.uint8)
    painted[2:4, 3:6, 3:6] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(painted, node, segment_id, volume)
    person.click(person.ui.undoButton)  # as quick as a person can be
    kept = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume)
    assert np.array_equal(kept, painted)
    assert not person.ui.undoButton.enabled


def test_a_script_s_run_is_seen_by_the_panel_and_can_be_cancelled_there(person, scene):
    logic = person.widget.logic
    volume = blobs_volume()
    seen = []

    def progress(stage, fraction, _left):
        seen.append((person.ui.segmentButton.text, person.ui.importButton.enabled))
        if fraction > 0 and person.ui.segmentButton.enabled:
            person.ui.segmentButton.click()

    with pytest.raises(RuntimeError):
        logic.segment(volume, model="slow", progress=progress)
    assert ("Cancel", False) in seen
    assert person.ui.segmentButton.text == "Segment"
    assert person.ui.importButton.enabled
    assert scene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None


def test_a_scene_closed_during_a_script_s_run_ends_it(person, scene):
    volume = blobs_volume()

    def progress(stage, fraction, _left):
        if fraction > 0 and scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode") is not None:
            host.close_scene()

    with pytest.raises(RuntimeError):
        person.widget.logic.segment(volume, model="slow", progress=progress)
    assert scene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None


def test_a_script_whose_progress_fails_leaves_the_module_usable(person, scene):
    volume = blobs_volume()

    def progress(*_what):
        raise KeyError("the script's own fault")

    with pytest.raises(KeyError):
        person.widget.logic.segment(volume, model="slow", progress=progress)
    assert not person.widget.panel.busy
    person.use_known_worker()
    person.segment(volume)
    assert len(person.table) == 2


def test_a_new_roi_is_drawn_at_once(person, scene, application):
    roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    person.ui.roiSelector.nodeAddedByUser.emit(roi)
    interaction = application.applicationLogic().GetInteractionNode()
    selection = application.applicationLogic().GetSelectionNode()
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    assert selection.GetActivePlaceNodeID() == roi.GetID()
    assert "slice view" in person.status
    interaction.SwitchToViewTransformMode()


def test_the_device_is_told_before_the_first_run(panel, scene):
    from Testing.panel.fixtures import Person

    person = Person(panel)
    person.wait(lambda: "Automatic means" in person.ui.deviceInfo.text, "the device")
    assert "cpu (" in person.ui.deviceInfo.text
    texts = [person.ui.deviceSelector.itemText(n) for n in range(person.ui.deviceSelector.count)]
    assert texts[0] == "Automatic"
    assert "not usable here" in texts[2]  # CUDA, on a machine without


def test_a_sheared_volume_is_refused_before_the_run(person, scene):
    sheared = GRIDS["LPS"].copy()
    sheared[0, 1] = 0.6
    volume = blobs_volume()
    volume.SetIJKToRASDirections(
        *(sheared[:3, :3] / np.linalg.norm(sheared[:3, :3], axis=0)).ravel()
    )
    nodes = scene.GetNumberOfNodes()
    person.choose_volume(volume)
    person.choose_model("threshold")
    person.click(person.ui.segmentButton)
    (message,) = host.messages.texts("error")
    assert "right angles" in message
    assert scene.GetNumberOfNodes() == nodes


def test_many_nodes_that_go_update_the_panel_once(person, scene, application, monkeypatch):
    for index in range(40):
        scene.AddNewNodeByClass("vtkMRMLModelNode", f"model {index}")
    application.processEvents()
    counted = []
    update = person.widget.panel.update
    monkeypatch.setattr(person.widget.panel, "update", lambda: counted.append(update()))
    for node in [scene.GetNthNodeByClass(n, "vtkMRMLModelNode") for n in range(40)]:
        scene.RemoveNode(node)
    application.processEvents()
    assert len(counted) == 1


def test_a_finished_run_keeps_no_voxels(person, scene):
    import gc
    import weakref

    array = two_blobs()
    volume = add_volume(array, GRIDS["LPS"])
    person.segment(volume)
    run = person.widget.logic.segmentation.run
    assert run.job.result is None
    assert run.choice.volumes == ()
    gone = weakref.ref(volume)
    del volume
    host.close_scene()
    gc.collect()
    assert gone() is None or gone().GetScene() is None
    assert person.widget.logic.segmentation.run is None


def test_reload_takes_the_library_anew(person, scene):
    import MaskSAMSlicerLib.panel.panel

    first = MaskSAMSlicerLib.panel.panel
    person.widget.onReload()
    import slicer

    again = slicer.modules.MaskSAMSlicerWidget
    assert sys.modules["MaskSAMSlicerLib.panel.panel"] is not first
    assert again is not person.widget
    assert again.ui.segmentButton.text == "Segment"


def test_a_model_s_text_is_never_markup():
    import dataclasses

    from MaskSAMSlicerLib.model_catalog import find_row

    row = dataclasses.replace(find_row("hippocampus"), description='<img src="http://x/y.png">')
    assert "<img" not in row.details()


def test_scripts_get_the_panel_s_own_logic(person, scene):
    import slicer

    logic = slicer.util.getModuleLogic("MaskSAMSlicer")
    assert logic is person.widget.logic
    node = logic.segment(blobs_volume(), model="threshold")
    assert segment_names(node) == ["Anterior", "Posterior"]

"""The section Learn: corrections, segmenting during learning, interruptions, results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Timer

import numpy as np
import psutil
import pytest
import SimpleITK as sitk

from MaskSAMCore.io.files import locked
from MaskSAMCore.training.export import export_run
from Testing import host
from Testing.helpers.blocked_packages import block_packages
from Testing.helpers.generated import generated_case
from Testing.helpers.known_learning import AFTER, BEFORE
from Testing.helpers.paths import KNOWN_WORKER
from Testing.helpers.threshold_model import two_blobs
from Testing.helpers.time_limits import LONG
from Testing.helpers.worker_tools import has_ended
from Testing.panel.helpers import (
    User,
    blobs_volume,
    box_node,
    clone,
    move_box,
    segmentations,
)
from Testing.panel.learner import Learner
from Testing.slicer.helpers import GRIDS, add_volume, matrix, segment_voxels, turn

# Packages that MaskSAM needs only outside Slicer, or for its extras. Others are not blocked,
# because Lightning uses them where they are installed.
UNINSTALLED = ("pydicom", "typer", "monai")


@pytest.fixture
def open_learner(open_panel, known_client, learnt_models: Path, tmp_path: Path) -> Callable:
    """Function that opens the panel with a client factory for learning and returns its user."""

    def open_with(learning_factory: Callable) -> Learner:
        learner = Learner(open_panel(known_client.for_logic, learning_factory), tmp_path / "kept")
        learner.choose_model("threshold")
        return learner

    return open_with


@pytest.fixture
def learner(open_learner, learning_client) -> Learner:
    """User of a panel whose worker for learning has known results."""
    return open_learner(learning_client.for_logic)


@pytest.fixture(scope="session")
def adaptable(trained: Path, made_once: Callable[..., Path]) -> Path:
    """A bundle trained to segment both classes of generated volumes."""
    return made_once("adapt-base", lambda folder: export_run(trained, folder / "base")) / "base"


def corrected(user: User, name: str, grid: str = "oblique"):
    """Segment a volume and paint over one segment; return the volume and the segmentation."""
    volume = add_volume(image_of(name), GRIDS[grid], name)
    user.segment(volume)
    node = segmentations(volume.GetScene())[-1]
    paint(node, "Anterior", volume)
    return volume, node


def image_of(name: str) -> np.ndarray:
    """Return an image that depends on the name; the known model finds both classes in it."""
    return two_blobs() + np.float32(0.01 * sum(name.encode()) / 100)


def paint(
    node, segment: str, volume, columns: slice = slice(2, 7), slices: slice = slice(1, 4)
) -> np.ndarray:
    """Replace a segment's voxels, as the Segment Editor does; return them as bool [K, J, I]."""
    import slicer

    voxels = np.zeros(two_blobs().shape, np.uint8)
    voxels[slices, 3:9, columns] = 1
    segment_id = node.GetSegmentation().GetSegmentIdBySegmentName(segment)
    slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, node, segment_id, volume)
    return voxels > 0


def test_corrections_are_offered_learnt_and_the_new_model_segments(learner, scene):
    user, ui = learner.user, learner.ui
    untouched = blobs_volume(name="untouched")
    user.segment(untouched)
    nodes = [corrected(user, f"head {n}", grid) for n, grid in enumerate(("oblique", "LPS"))]
    learner.open()
    assert learner.shown == {
        f"head {n}": {"Anterior": (True, "corrected"), "Posterior": (False, "unchanged")}
        for n in range(2)
    }
    learner.tick("head 1", "Posterior")
    assert ui.learnName.text == "threshold-ours"
    count = scene.GetNumberOfNodes()
    user.click(learner.button)
    assert learner.button.text == "Cance&l learning"
    assert not ui.installButton.enabled  # imported packages cannot be replaced
    learner.wait()
    assert ui.installButton.enabled
    assert scene.GetNumberOfNodes() == count
    # The corrections are kept as an nnU-Net dataset with the geometry of the volumes.
    assert learner.kept == {"head-0": ["Anterior"], "head-1": ["Anterior", "Posterior"]}
    labelmap = sitk.ReadImage(str(learner.folder / "labelsTr/head-1.nii.gz"))
    image = sitk.ReadImage(str(learner.folder / "imagesTr/head-1_0000.nii.gz"))
    assert image.GetOrigin() == labelmap.GetOrigin()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), image_of("head 1"))
    volume, node = nodes[1]
    values = json.loads((learner.folder / "dataset.json").read_text())["labels"]
    import slicer

    for name in ("Anterior", "Posterior"):
        voxels = slicer.util.arrayFromSegmentBinaryLabelmap(node, name, volume) > 0
        found = sitk.GetArrayFromImage(labelmap) == values[name]
        # Where segments overlap, the voxels belong to the later segment.
        assert (found & ~voxels).sum() == 0 and found.any(), name
    # The result is shown, and the new model is listed but not chosen.
    assert learner.status.startswith("'threshold-ours' is better")
    assert ui.learnPlot.isVisibleTo(ui.learnButton)
    table = ui.learnResults
    rows = [[table.item(r, c).text() for c in range(3)] for r in range(table.rowCount)]
    assert rows == [[name, f"{BEFORE[name]:.3f}", f"{AFTER[name]:.3f}"] for name in BEFORE]
    assert "threshold-ours" in user.shown_models
    assert user.widget.panel.picker.model.name == "threshold"
    user.click(ui.chooseModelButton)
    assert user.widget.panel.picker.model.name == "threshold-ours"
    user.segment(blobs_volume(name="fourth"), "threshold-ours")
    assert user.status.startswith("Done: 2 classes in 'fourth segmentation'")
    assert host.messages.texts("error") == []


def test_the_next_session_learns_from_the_kept_corrections_with_the_new_model(learner, scene):
    corrected(learner.user, "first")
    learner.open()
    learner.learn()
    host.close_scene()
    assert learner.shown == {}
    # The folder of the corrections is remembered for the new model, too.
    learner.user.choose_model("threshold-ours")
    assert Path(learner.ui.learnFolder.text) == learner.folder
    assert learner.ui.learnName.text == "threshold-ours-2"
    corrected(learner.user, "second")
    learner.ui.learnButton.collapsed = True
    learner.open()
    learner.learn()
    assert set(learner.kept) == {"first", "second"}
    assert "on 2 case(s)" in learner.status


def test_a_segmentation_of_the_users_own_is_added_by_a_click(learner, scene):
    volume = blobs_volume(GRIDS["sagittal"], "CT")
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for name in ("Lesion", "anterior"):
        node.GetSegmentation().AddEmptySegment(name, name)
    paint(node, "Lesion", volume)
    learner.open()
    assert learner.shown == {} and not learner.button.enabled
    learner.ui.learnSelector.setCurrentNode(node)
    learner.user.click(learner.ui.addCorrectionButton)
    assert learner.shown == {"CT": {"Lesion": (True, "added"), "anterior": (True, "added")}}
    learner.learn()
    # The empty segment 'anterior' means that the model's class 'Anterior' is absent.
    assert learner.kept == {"CT": ["Anterior", "Lesion"]}
    labelmap = sitk.GetArrayFromImage(sitk.ReadImage(str(learner.folder / "labelsTr/CT.nii.gz")))
    values = json.loads((learner.folder / "dataset.json").read_text())["labels"]
    assert set(np.unique(labelmap)) == {0, values["Lesion"]}
    learner.ui.learnTree.topLevelItem(0).setSelected(True)
    learner.user.click(learner.ui.removeCorrectionButton)
    assert learner.shown == {}


def test_a_segment_whose_name_no_class_can_have_is_not_ticked(learner, scene):
    volume = blobs_volume(name="CT")
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segmentation = node.GetSegmentation()
    for name in ("Lesion", "background"):
        segmentation.AddEmptySegment(name, name)
        paint(node, name, volume)
    learner.open()
    learner.ui.learnSelector.setCurrentNode(node)
    learner.user.click(learner.ui.addCorrectionButton)
    assert learner.shown == {"CT": {"Lesion": (True, "added"), "background": (False, "rename it")}}
    learner.tick_volume("CT")  # with all of its segments
    learner.learn()
    assert learner.kept == {"CT": ["Lesion"]}
    segmentation.GetSegment("background").SetName("rest")
    learner.open_again()
    assert learner.shown == {"CT": {"Lesion": (True, "added"), "rest": (True, "added")}}


def test_two_results_of_one_volume_are_kept_as_one_case(learner, scene):
    volume, first = corrected(learner.user, "head")
    learner.user.segment(volume)
    second = segmentations(scene)[-1]
    second.SetName("again")
    paint(second, "Posterior", volume, slice(12, 17))
    learner.open()
    name = first.GetName()
    assert list(learner.shown) == [f"head ({name})", "head (again)"]
    learner.tick(f"head ({name})", "Posterior")
    learner.user.click(learner.button)
    assert learner.ui.warningLabel.text == (
        f"'Posterior' is ticked in two segmentations of 'head', '{name}' and 'again': untick it in"
        " one of them."
    )
    assert not learner.logic.busy and not learner.folder.exists()
    learner.tick(f"head ({name})", "Posterior", False)
    for _ in range(2):
        learner.learn()
        assert learner.kept == {"head": ["Anterior", "Posterior"]}
    labelmap = sitk.GetArrayFromImage(sitk.ReadImage(str(learner.folder / "labelsTr/head.nii.gz")))
    values = json.loads((learner.folder / "dataset.json").read_text())["labels"]
    posterior = segment_voxels(second, "Posterior", volume)
    np.testing.assert_array_equal(labelmap == values["Posterior"], posterior)
    anterior = segment_voxels(first, "Anterior", volume)
    np.testing.assert_array_equal(labelmap == values["Anterior"], anterior & ~posterior)


def test_no_other_segmentation_of_a_volume_takes_corrected_voxels(learner, scene):
    volume, first = corrected(learner.user, "head")
    learner.user.segment(volume)
    second = segmentations(scene)[-1]
    wanted = paint(first, "Anterior", volume, slice(2, 20), slice(1, 9))
    assert (wanted & segment_voxels(second, "Posterior", volume)).any()
    learner.open()
    learner.ui.learnSelector.setCurrentNode(second)
    learner.user.click(learner.ui.addCorrectionButton)
    row = f"head ({second.GetName()})"
    learner.tick(row, "Posterior")
    learner.learn()
    labelmap = sitk.GetArrayFromImage(sitk.ReadImage(str(learner.folder / "labelsTr/head.nii.gz")))
    values = json.loads((learner.folder / "dataset.json").read_text())["labels"]
    np.testing.assert_array_equal(labelmap == values["Anterior"], wanted)
    paint(second, "Posterior", volume, slice(12, 17))
    learner.user.click(learner.button)
    assert learner.ui.warningLabel.text == (
        "'Anterior' and 'Posterior' overlap in two segmentations of 'head': erase the overlap from"
        " one of them, or untick one."
    )
    assert not learner.logic.busy and list(learner.kept) == ["head"]


def test_a_drawn_segmentation_is_learnt_with_all_channels_of_the_model(learner, scene):
    volumes = [add_volume(two_blobs() + n, GRIDS["LPS"], name) for n, name in enumerate("ab")]
    learner.choose_model("two_channels")
    learner.user.choose_volume(volumes[0])
    learner.user.widget.panel._parameters.parameterNode.SetNodeReferenceID(
        "channelVolume2", volumes[1].GetID()
    )
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volumes[0])
    node.GetSegmentation().AddEmptySegment("Anterior", "Anterior")
    paint(node, "Anterior", volumes[0])
    learner.open()
    learner.ui.learnSelector.setCurrentNode(node)
    learner.user.click(learner.ui.addCorrectionButton)
    paint(node, "Anterior", volumes[0], slice(3, 9))
    learner.learn()
    assert learner.kept == {"a": ["Anterior"]}, learner.ui.warningLabel.text
    assert len(list((learner.folder / "imagesTr").iterdir())) == 2


def test_a_clone_of_a_volume_is_the_same_image_and_replaces_no_correction(learner, scene):
    volume, first = corrected(learner.user, "head")
    copy = clone(volume)
    learner.user.segment(copy)
    second = segmentations(scene)[-1]
    for name, columns in (("Anterior", slice(9, 12)), ("Posterior", slice(12, 17))):
        paint(second, name, copy, columns)
    learner.open()
    assert list(learner.shown) == ["head", "head Copy"]
    learner.user.click(learner.button)
    assert learner.ui.warningLabel.text == (
        "'Anterior' is ticked in 'head segmentation' and 'head Copy segmentation', but their"
        " volumes 'head' and 'head Copy' are the same image: untick it in one of them."
    )
    assert not learner.logic.busy and not learner.folder.exists()
    learner.tick("head Copy", "Anterior", False)
    for _ in range(2):  # pressing the button twice makes no second case
        learner.learn()
        assert learner.kept == {"head": ["Anterior", "Posterior"]}
    labelmap = sitk.GetArrayFromImage(sitk.ReadImage(str(learner.folder / "labelsTr/head.nii.gz")))
    values = json.loads((learner.folder / "dataset.json").read_text())["labels"]
    for node, name in ((first, "Anterior"), (second, "Posterior")):
        voxels = segment_voxels(node, name, volume)
        np.testing.assert_array_equal(labelmap == values[name], voxels)
    # Without the first volume, the clone is a newer correction of the image, and the log says so.
    scene.RemoveNode(volume)
    learner.user.wait(lambda: list(learner.shown) == ["head Copy"], "the removal of the row")
    learner.tick("head Copy", "Anterior")
    learner.learn()
    assert "head-Copy replaces head, an earlier correction of the same image" in learner.log


def test_segments_changed_meanwhile_are_ticked_and_choices_of_the_user_stay(learner, scene):
    volume, node = corrected(learner.user, "head")
    learner.open()
    learner.tick("head", "Anterior", False)
    paint(node, "Posterior", volume, slice(9, 14))
    learner.ui.learnButton.collapsed = True
    learner.open()
    assert learner.shown["head"] == {
        "Anterior": (False, "corrected"),
        "Posterior": (True, "corrected"),
    }
    node.GetSegmentation().RemoveSegment(node.GetSegmentation().GetNthSegmentID(1))
    learner.user.widget.enter()
    assert learner.shown["head"]["Posterior"] == (True, "removed")
    scene.RemoveNode(volume)
    learner.user.wait(lambda: learner.shown == {}, "the removal of the row")


def test_an_error_inside_the_panel_ends_the_learning_and_the_next_one_works(learner, monkeypatch):
    from MaskSAMSlicerLib.panel.learning import LearningView

    def fail(_self, _count):
        raise RuntimeError("a fault of the panel")

    corrected(learner.user, "head")
    learner.open()
    with monkeypatch.context() as faulty:
        faulty.setattr(LearningView, "_on_kept", fail)
        learner.learn()
    (error,) = host.errors
    assert str(error) == "a fault of the panel"
    host.errors.clear()
    (message,) = host.messages.texts("error")
    assert learner.status == f"Failed: {message}"
    assert "see Slicer's error log" in message
    host.messages.clear()
    learner.learn()
    assert host.messages.texts("error") == []
    assert learner.kept == {"head": ["Anterior"]}


def test_what_an_undo_or_redo_brings_back_is_corrected_only_if_the_user_has_changed_it(
    learner, scene
):
    user, ui = learner.user, learner.user.ui
    untouched = blobs_volume(name="untouched")
    user.segment(untouched)
    for button in (ui.undoButton, ui.redoButton):
        user.click(button)
        learner.open_again()
        assert learner.shown == {}
    segment_in_box(user, (3, 3, 2), (9, 9, 5), untouched)
    for button in (ui.undoButton, ui.redoButton, ui.undoButton):
        user.click(button)
        learner.open_again()
        assert learner.shown == {}
    # The user paints into one class, and then a box changes the other one.
    node = segmentations(scene)[-1]
    paint(node, "Posterior", untouched, slice(12, 17))
    segment_in_box(user, (3, 3, 2), (8, 7, 5), untouched)
    for button in (None, ui.undoButton, ui.redoButton):
        if button is not None:
            user.click(button)
        learner.open_again()
        assert learner.shown["untouched"] == {
            "Anterior": (False, "unchanged"),
            "Posterior": (True, "corrected"),
        }


def segment_in_box(user: User, lower, upper, volume) -> None:
    """Show the boxes, move the one of Anterior, and segment again."""
    user.ui.showBoxesButton.setChecked(True)
    move_box(box_node("Anterior"), lower, upper, volume)
    user.segment_again()


def test_corrections_that_a_run_has_replaced_are_found_after_its_undo(learner, scene):
    volume, node = corrected(learner.user, "head")
    learner.user.ui.outputSelector.setCurrentNode(node)
    learner.user.choose_rule("replace")
    learner.user.segment(volume)
    learner.open_again()
    assert learner.shown == {}
    learner.user.click(learner.user.ui.undoButton)
    learner.open_again()
    assert learner.shown["head"] == {
        "Anterior": (True, "corrected"),
        "Posterior": (False, "unchanged"),
    }
    learner.user.click(learner.user.ui.redoButton)
    learner.open_again()
    assert not any(ticked for ticked, _state in learner.shown.get("head", {}).values())


def test_a_row_goes_with_the_volume_that_its_segmentation_is_made_on(learner, scene):
    user = learner.user
    first, second = blobs_volume(name="one"), blobs_volume(name="two")
    user.segment(first)
    (node,) = segmentations(scene)
    learner.open()
    learner.ui.learnSelector.setCurrentNode(node)
    user.click(learner.ui.addCorrectionButton)
    assert list(learner.shown) == ["one"]
    user.choose_volume(second)
    user.ui.outputSelector.setCurrentNode(node)
    user.choose_rule("replace")
    user.click(user.ui.segmentButton)
    user.wait()
    learner.open_again()
    assert list(learner.shown) == ["two"]


def test_a_correction_whose_volume_was_removed_is_not_offered_again(learner, scene):
    volume, _node = corrected(learner.user, "head 0")
    corrected(learner.user, "head 1")
    learner.open()
    assert len(learner.shown) == 2
    scene.RemoveNode(volume)
    host.select_module(None)
    host.select_module("MaskSAMSlicer")
    learner.open_again()
    assert list(learner.shown) == ["head 1"]
    learner.learn()
    assert learner.kept == {"head-1": ["Anterior"]}


def test_segmenting_goes_on_while_a_model_learns_at_low_priority(learner, scene):
    user = learner.user
    learner.choose_model("hanging")
    volume = blobs_volume(name="head")
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.GetSegmentation().AddEmptySegment("Anterior", "Anterior")
    paint(node, "Anterior", volume)
    learner.open()
    learner.ui.learnSelector.setCurrentNode(node)
    user.click(learner.ui.addCorrectionButton)
    user.click(learner.button)
    learner.wait_until_it_learns()
    user.segment(volume)
    assert user.found == ["Anterior", "Posterior"]
    assert learner.logic.busy and "left" in learner.status
    own = psutil.Process().nice()
    assert f"priority {min(19, own + 10)}, anew, 15 min" in learner.log
    user.click(learner.button)
    assert not learner.button.enabled
    learner.wait()
    assert learner.status.startswith("Cancelled; the corrections")
    assert learner.kept == {"head": ["Anterior"]}
    assert host.messages.texts("error") == []


@pytest.mark.parametrize("go_on", [True, False], ids=["going on", "anew"])
def test_an_interrupted_learning_goes_on_or_begins_anew_as_the_user_chooses(
    learner, scene, go_on: bool
):
    box = learner.ui.resumeCheckBox
    corrected(learner.user, "head")
    learner.choose_model("crashing")
    learner.open()
    assert not box.isVisibleTo(learner.ui.learnButton)
    learner.learn()
    (message,) = host.messages.texts("error")
    assert "what was learnt until the last save are kept" in message
    host.messages.clear()
    assert box.isVisibleTo(learner.ui.learnButton) and box.checked
    # If learning begins anew, the model crashes again at the same place.
    box.checked = go_on
    learner.learn()
    assert ("going on" in learner.log) == go_on
    assert ("crashing-ours" in learner.user.shown_models) == go_on
    assert len(learner.kept) == 1


def test_an_interrupted_learning_cannot_go_on_with_another_correction_but_begins_anew(
    learner, scene
):
    corrected(learner.user, "head 0")
    learner.choose_model("crashing")
    learner.open()
    learner.learn()
    host.messages.clear()
    corrected(learner.user, "head 1")
    learner.choose_model("crashing")
    learner.open_again()
    assert learner.ui.resumeCheckBox.checked
    learner.learn()
    text = learner.ui.warningLabel.text
    assert "the corrections are kept" in text and "'crashing-ours' was interrupted" in text
    assert f"untick '{learner.ui.resumeCheckBox.text.replace('&', '')}'" in text
    assert "--resume" not in text
    assert list(learner.kept) == ["head-0", "head-1"]
    assert host.messages.texts("error") == []
    # What was learnt stays until the user begins anew.
    assert learner.ui.resumeCheckBox.isVisibleTo(learner.ui.learnButton)
    learner.ui.resumeCheckBox.checked = False
    learner.learn()
    (message,) = host.messages.texts("error")
    assert message.startswith("learning ended unexpectedly")  # as it does when begun anew


def test_a_killed_worker_loses_neither_corrections_nor_what_was_learnt(learner, scene):
    corrected(learner.user, "head")
    learner.choose_model("hanging")
    learner.open()
    learner.user.click(learner.button)
    learner.wait_until_it_learns()
    psutil.Process(learner.logic.client.pid).kill()
    learner.wait()
    assert learner.kept == {"head": ["Anterior"]}
    learner.learn()
    assert "going on" in learner.log
    assert "hanging-ours" in learner.user.shown_models


def test_a_cancelled_learning_keeps_the_corrections_first(learner, scene):
    for number in range(2):
        corrected(learner.user, f"head {number}")
    learner.open()
    learner.folder.mkdir()
    with locked(learner.folder):  # no correction can be kept in a locked folder
        learner.user.click(learner.button)
        learner.wait_until_it_keeps()
        learner.user.click(learner.button)
        assert learner.status == "Cancelling once the corrections are kept ..."
        assert not learner.button.enabled
        host.close_scene()
    learner.wait()
    assert learner.kept == {"head-0": ["Anterior"], "head-1": ["Anterior"]}
    assert learner.status.startswith("Cancelled; the corrections")
    assert "anew" not in learner.log  # nothing was learnt


def test_the_learning_of_a_script_can_be_cancelled_in_the_panel_and_so_can_the_next(learner, scene):
    volume, node = corrected(learner.user, "head")
    learner.open()
    enabled = []

    def cancel(stage: str, _fraction: float, _seconds_left: float | None) -> None:
        if stage == "Learning":
            enabled.append(learner.button.enabled)
            learner.button.click()

    for name in ("first", "second"):
        with pytest.raises(RuntimeError, match="cancelled"):
            learner.logic.adapt(
                [(volume, node)], "hanging", name, folder=learner.folder, progress=cancel
            )
        assert learner.status == "Cancelled."
        assert learner.button.text == "&Learn" and learner.button.enabled
    assert enabled == [True, True]


def test_a_worker_killed_while_it_keeps_corrections_says_that_they_are_not_kept(learner, scene):
    for number in range(2):
        corrected(learner.user, f"head {number}")
    learner.open()
    learner.folder.mkdir()
    with locked(learner.folder):
        learner.user.click(learner.button)
        learner.wait_until_it_keeps()
        psutil.Process(learner.logic.client.pid).kill()
        learner.wait()
    (message,) = host.messages.texts("error")
    assert message.endswith("press Learn again (0 of 2 corrected volumes are kept)")
    assert learner.status == f"Failed: {message}"
    host.messages.clear()
    learner.learn()
    assert len(learner.kept) == 2 and "threshold-ours" in learner.user.shown_models


def test_a_disk_that_becomes_full_says_how_many_corrections_are_kept(
    open_learner, own_client, scene
):
    learner = open_learner(own_client(largest_file=20_000))
    corrected(learner.user, "head")
    noise = np.random.default_rng(0).random((20, 30, 40), np.float32)
    volume = add_volume(noise, GRIDS["LPS"], "whole head")
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.GetSegmentation().AddEmptySegment("Anterior", "Anterior")
    learner.open()
    learner.ui.learnSelector.setCurrentNode(node)
    learner.user.click(learner.ui.addCorrectionButton)
    learner.learn()
    assert "cannot write" in learner.status
    assert learner.status.endswith("(1 of 2 corrected volumes are kept)")
    assert list(learner.kept) == ["head"]


def test_quitting_waits_until_the_corrections_are_kept(open_learner, own_client, scene):
    import slicer

    learner = open_learner(own_client())
    for number in range(2):
        corrected(learner.user, f"head {number}")
    learner.open()
    learner.folder.mkdir()
    with ExitStack() as stack:
        stack.enter_context(locked(learner.folder))
        learner.user.click(learner.button)
        learner.wait_until_it_keeps()
        worker = psutil.Process(learner.logic.client.pid)
        Timer(0.5, stack.close).start()  # quitting begins while nothing can be kept
        slicer.app.aboutToQuit.emit()
    assert learner.kept == {"head-0": ["Anterior"], "head-1": ["Anterior"]}
    assert has_ended(worker)
    assert not learner.logic.busy and "anew" not in learner.log  # nothing was learnt


def test_a_scene_closed_during_learning_loses_nothing(learner, scene):
    corrected(learner.user, "head")
    learner.choose_model("hanging")
    learner.open()
    learner.user.click(learner.button)
    learner.wait_until_it_learns()
    host.close_scene()
    assert learner.logic.busy and learner.shown == {}
    learner.user.click(learner.button)
    learner.wait()
    assert learner.kept == {"head": ["Anterior"]}
    learner.choose_model("hanging")
    learner.learn()  # from the kept corrections, with an empty scene
    assert "hanging-ours" in learner.user.shown_models


def test_a_full_disk_is_told_in_the_warning_line_and_leaves_no_half_case(
    open_learner, own_client, scene
):
    learner = open_learner(own_client(largest_file=64))
    corrected(learner.user, "head")
    learner.open()
    learner.learn()
    assert "cannot write" in learner.ui.warningLabel.text
    assert not learner.folder.exists()
    assert host.messages.texts("error") == []


def test_a_model_that_is_not_better_changes_nothing(learner, scene):
    corrected(learner.user, "head")
    learner.choose_model("sided")
    learner.open()
    before = learner.user.shown_models
    learner.learn()
    assert learner.status == "'sided' is not better after learning: nothing was changed"
    assert learner.user.shown_models == before
    assert not learner.ui.chooseModelButton.isVisibleTo(learner.ui.learnButton)


@pytest.mark.parametrize(
    ("name", "message"),
    [("threshold", "There is a model named 'threshold'"), ("a/b", "letters, digits")],
)
def test_names_that_cannot_be_are_refused_in_the_warning_line(learner, scene, name, message):
    corrected(learner.user, "head")
    learner.open()
    learner.ui.learnName.text = name
    learner.user.click(learner.button)
    assert message in learner.ui.warningLabel.text
    assert not learner.logic.busy and not learner.folder.exists()
    assert host.messages.texts("error") == []


def test_the_panel_stays_narrow_with_everything_of_learning_shown(learner, scene):
    """In Slicer, the panel has no horizontal scroll bar."""
    corrected(learner.user, "T1 mprage sagittal with a name of more than sixty characters in all")
    window = host.open_window("MaskSAMSlicer", (1400, 1000))
    try:
        learner.open()
        window.refresh()
        width = learner.user.widget.parent.minimumSizeHint.width
        assert width() < 320
        learner.learn()
        window.refresh()
        for name in ("learnPlot", "learnResults", "chooseModelButton"):
            assert getattr(learner.ui, name).isVisible(), name
        assert learner.user.widget.parent.minimumSizeHint.width() < 320
    finally:
        window.close()


def test_the_packages_for_learning_are_installed_with_the_same_button(
    learner, scene, tmp_path: Path, monkeypatch
):
    from MaskSAMSlicerLib import installer

    folder, commands = tmp_path / "python", []

    def pip(arguments):
        commands.append(arguments)
        found = folder / "lightning-99.0.dist-info" / "METADATA"
        found.parent.mkdir(parents=True)
        found.write_text("Metadata-Version: 2.1\nName: lightning\nVersion: 99.0\n")
        return 0, ""

    monkeypatch.setattr(installer, "worker_folder", lambda: folder)
    monkeypatch.setattr(installer, "LEARNING", installer.Extra(("lightning>=99",), 30, 132))
    monkeypatch.setattr(installer, "_run_pip", pip)
    corrected(learner.user, "head")
    learner.open()
    learner.user.click(learner.button)
    assert not learner.logic.busy
    assert (
        "30 MB" in learner.ui.installLabel.text and "lightning>=99" in learner.ui.installLabel.text
    )
    learner.user.click(learner.ui.installButton)
    (arguments,) = commands
    assert str(folder) in arguments and arguments[-1] == "lightning>=99"
    frame = learner.ui.installFrame
    assert not frame.isVisibleTo(frame.parent())
    learner.learn()
    assert "threshold-ours" in learner.user.shown_models


def test_an_installation_ends_the_worker_for_learning(open_learner, own_client, scene, monkeypatch):
    from MaskSAMSlicerLib import installer

    learner = open_learner(own_client())
    corrected(learner.user, "head")
    learner.open()
    learner.learn()
    worker = psutil.Process(learner.logic.client.pid)
    monkeypatch.setattr(installer, "missing", lambda: [installer.NUMPY_1])
    learner.user.widget.panel.check_packages()
    monkeypatch.setattr(installer, "missing", list)
    learner.user.click(learner.ui.installButton)
    learner.user.wait(lambda: has_ended(worker), "the worker's end")
    learner.learn()
    assert "threshold-ours-2" in learner.user.shown_models


def test_a_class_drawn_in_three_volumes_is_learnt_for_real_and_found_in_a_fourth(
    open_panel, real_client, learnt_models, adaptable: Path, tmp_path: Path, scene
):
    """The real engine learns for 30 steps, and the shipped worker segments.

    The worker for learning cannot import the packages in ``UNINSTALLED``.
    """
    import slicer

    from MaskSAMSlicerLib.worker.client import WorkerClient

    (tmp_path / "blocked").mkdir()
    environment = {"PYTHONPATH": block_packages(tmp_path / "blocked", UNINSTALLED)}

    def client(on_log: Callable[[str], None]) -> WorkerClient:
        command = (*KNOWN_WORKER, "--learning-steps", "30")
        return WorkerClient(
            command=command, on_log=on_log, hang_seconds=LONG, environment=environment
        )

    model = shutil.copytree(adaptable, learnt_models / "base").name
    learner = Learner(open_panel(real_client.for_logic, client), tmp_path / "kept")
    learner.user.widget.panel.picker.read_catalog()
    learner.choose_model(model)
    grid, caps = matrix(turn((17, -23, 31)), (1.0, 1.0, 2.0)), []
    for seed in range(20, 24):
        array, labelmap = generated_case(seed)
        volume = add_volume(array, grid, f"head {seed}")
        cap = labelmap == 1
        cap[: int(np.median(np.nonzero(cap)[0]))] = False
        caps.append((volume, cap))
    for volume, cap in caps[:3]:
        learner.user.segment(volume, model)
        node = segmentations(scene)[-1]
        segment_id = node.GetSegmentation().AddEmptySegment("", "Cap")
        voxels = cap.astype(np.uint8)
        slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, node, segment_id, volume)
    learner.open()
    assert len(learner.shown) == 3
    assert {states["Cap"] for states in learner.shown.values()} == {(True, "added")}
    learner.learn()
    assert "is better and is written" in learner.status, learner.log
    assert learner.ui.learnResults.rowCount == 1
    learner.user.click(learner.ui.chooseModelButton)
    volume, cap = caps[3]
    learner.user.segment(volume, f"{model}-ours")
    found = segment_voxels(segmentations(scene)[-1], "Cap", volume)
    assert 2 * (found & cap).sum() / (found.sum() + cap.sum()) > 0.1

"""Sequences in the panel: the choice of frames, progress, cancelling, undo and tables."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest

from Testing import host
from Testing.helpers.threshold_model import OBLIQUE
from Testing.panel.helpers import blobs_volume, segmentations
from Testing.slicer.helpers import add_roi, segment_names, segment_voxels
from Testing.slicer.sequences import add_sequence, frames, show_frame


@pytest.fixture
def sequence(user, scene):
    """Browser and volume of a sequence of three frames, chosen in the panel for a run on all."""
    browser, volume = add_sequence(frames(), OBLIQUE)
    user.choose_volume(volume)
    user.choose_model("threshold")
    choose_frames(user, "all")
    return browser, volume


def choose_frames(user, which: str) -> None:
    """Choose the frames to segment: "shown" or "all"."""
    selector = user.ui.framesSelector
    selector.currentIndex = selector.findData(which)


def test_frames_can_be_chosen_for_sequences_only(user, scene):
    parent = user.ui.inputsButton
    user.choose_volume(blobs_volume())
    assert not user.ui.framesSelector.isVisibleTo(parent)
    _browser, volume = add_sequence(frames(), OBLIQUE)
    user.choose_volume(volume)
    assert user.ui.framesSelector.isVisibleTo(parent)
    texts = [user.ui.framesSelector.itemText(n) for n in range(user.ui.framesSelector.count)]
    assert texts == ["the shown frame", "all 3 frames"]
    assert user.widget._parameters.frames == "shown"


def test_the_shown_frame_becomes_one_segmentation(user, scene, sequence):
    browser, volume = sequence
    choose_frames(user, "shown")
    show_frame(browser, 2)
    user.click(user.ui.segmentButton)
    user.wait()
    (node,) = segmentations(scene)
    assert browser.GetSequenceNode(node) is None
    assert np.array_equal(segment_voxels(node, "Posterior", volume), frames()[2] == 2)


def test_the_table_shows_the_classes_of_the_shown_frame(user, scene, sequence, tmp_path):
    browser, _volume = sequence
    user.click(user.ui.segmentButton)
    user.wait()
    assert user.status.startswith("Done: 3 frames")
    assert user.found == ["Anterior", "Posterior"]
    show_frame(browser, 1)
    assert user.found == ["Anterior"]
    path = tmp_path / "volumes.csv"
    host.messages.answers.append(str(path))
    user.click(user.ui.exportButton)
    with path.open(encoding="utf-8-sig") as stream:
        rows = list(csv.reader(stream))
    assert [row[0].split(" ", 1)[1] for row in rows[1:]] == [
        "frame 1 (0 ms)",
        "frame 1 (0 ms)",
        "frame 2 (40 ms)",
        "frame 3 (80 ms)",
        "frame 3 (80 ms)",
    ]


def test_the_table_follows_the_frames_when_one_is_removed(user, scene, sequence):
    browser, _volume = sequence
    user.click(user.ui.segmentButton)
    user.wait()
    show_frame(browser, 1)
    assert user.found == ["Anterior"]
    master = browser.GetMasterSequenceNode()
    master.RemoveDataNodeAtValue("40")
    assert user.found == ["Anterior", "Posterior"]  # the third frame has moved up
    show_frame(browser, 0)
    show_frame(browser, 1)
    assert user.found == ["Anterior", "Posterior"]
    master.SetDataNodeAtValue(master.GetNthDataNode(0), "20")
    show_frame(browser, 1)
    assert user.found == []  # a frame without a result


def test_each_frame_has_an_intracranial_volume_of_its_own(user, scene, sequence, tmp_path):
    browser, _volume = sequence
    user.choose_model("head")
    user.click(user.ui.segmentButton)
    user.wait()
    (node,) = segmentations(scene)
    show_frame(browser, 1)
    assert user.found == ["Anterior", "intracranial volume"]
    show_frame(browser, 2)
    assert user.found == ["Anterior", "Posterior", "intracranial volume"]
    node.GetSegmentation().RemoveSegment(node.GetSegmentation().GetNthSegmentID(0))
    path = tmp_path / "volumes.csv"
    host.messages.answers.append(str(path))
    user.click(user.ui.exportButton)
    with path.open(encoding="utf-8-sig") as stream:
        rows = [row for row in csv.DictReader(stream) if row["structure"] == "intracranial volume"]
    assert [row["case"].split(" ", 1)[1] for row in rows] == ["frame 1 (0 ms)", "frame 2 (40 ms)"]


def test_the_volumes_of_a_frame_are_those_of_its_own_voxel_size(user, scene, sequence):
    browser, volume = sequence
    browser.GetMasterSequenceNode().GetNthDataNode(2).SetSpacing(1, 1, 3)
    user.click(user.ui.segmentButton)
    user.wait()
    (node,) = segmentations(scene)
    for number, voxel_mm3 in ((0, 1), (2, 3)):
        show_frame(browser, number)
        shown = {row[0]: float(row[2]) for row in user.table}
        for name, ml in shown.items():
            voxels = segment_voxels(node, name, volume).sum()
            assert ml == pytest.approx(voxels * voxel_mm3 / 1000, abs=0.006)


def test_the_notes_about_a_frame_are_shown_with_it(user, scene, sequence):
    browser, _volume = sequence
    user.click(user.ui.segmentButton)
    user.wait()
    encoded = []
    for number in range(3):  # the worker notes how many windows it has encoded so far
        show_frame(browser, number)
        (note,) = re.findall(r"encoded (\d+)", user.ui.resultsInfo.text)
        encoded.append(int(note))
    assert encoded[0] < encoded[1] < encoded[2]


def test_one_undo_reverts_all_frames(user, scene, sequence):
    browser, _volume = sequence
    user.click(user.ui.segmentButton)
    user.wait()
    (node,) = segmentations(scene)
    user.click(user.ui.undoButton)
    for number in range(3):
        show_frame(browser, number)
        assert not segment_names(node)
    user.click(user.ui.redoButton)
    assert segment_names(node) == ["Anterior", "Posterior"]


def about_to_replace_a_frame(user, scene):
    """Segment all frames, choose to replace the result of the shown one, and return the node."""
    user.click(user.ui.segmentButton)
    user.wait()
    (node,) = segmentations(scene)
    choose_frames(user, "shown")
    user.choose_rule("replace")
    return node


def test_a_run_on_one_of_the_frames_is_undone_only_while_that_frame_is_shown(user, scene, sequence):
    from MaskSAMSlicerLib.mrml.run_record import SegmentationRecord

    browser, volume = sequence
    node = about_to_replace_a_frame(user, scene)
    user.ui.roiSelector.setCurrentNode(add_roi((4, 4, 0), (16, 12, 9), OBLIQUE))
    show_frame(browser, 2)
    record = SegmentationRecord.load(node)
    show_frame(browser, 0)
    user.click(user.ui.segmentButton)
    user.wait()
    assert not np.array_equal(segment_voxels(node, "Posterior", volume), frames()[0] == 2)
    assert user.ui.undoButton.enabled
    show_frame(browser, 2)
    assert not user.ui.undoButton.enabled
    assert SegmentationRecord.load(node) == record
    show_frame(browser, 0)
    user.click(user.ui.undoButton)
    assert np.array_equal(segment_voxels(node, "Posterior", volume), frames()[0] == 2)


def begun_run_on_frames(user):
    """Start a run on twelve frames; return browser and volume once the second has begun."""
    browser, volume = add_sequence([part[:4, :10, :10] for part in frames()] * 4, OBLIQUE)
    user.choose_volume(volume)
    user.choose_model("slow")
    choose_frames(user, "all")
    user.click(user.ui.segmentButton)
    user.wait(lambda: "Frame 2 of 12" in user.status, "the second frame")
    return browser, volume


def test_frames_done_stay_when_the_user_cancels(user, scene):
    browser, _ = begun_run_on_frames(user)
    user.click(user.ui.segmentButton)
    user.wait()
    (node,) = segmentations(scene)
    done = browser.GetSequenceNode(node).GetNumberOfDataNodes()
    assert 1 <= done < 12
    assert user.status == f"Cancelled; {done} frames are done."
    assert segment_names(node) == ["Anterior"]
    assert user.ui.undoButton.enabled
    show_frame(browser, 11)
    assert not segment_names(node)
    assert not host.messages.texts("error")


def test_a_killed_worker_leaves_the_frames_done_and_its_message_says_so(user, scene):
    browser, _ = begun_run_on_frames(user)
    assert user.ui.segmentButton.toolTip == "Cancel the run; the frames that are done stay."
    user.worker.kill()
    user.wait()
    (node,) = segmentations(scene)
    done = browser.GetSequenceNode(node).GetNumberOfDataNodes()
    assert 1 <= done < 12
    assert user.status.startswith("Failed: the segmentation process ")
    assert user.status.endswith(f"({done} of 12 frames done)")
    assert "nothing was changed" not in user.status
    [message] = host.messages.texts("error")
    assert message == user.status.removeprefix("Failed: ")
    assert "was ended by the system" in user.ui.logText.plainText


def test_an_empty_output_stays_as_it_is_when_the_user_cancels_in_the_first_frame(user, scene):
    browser, volume = add_sequence([part[:4, :10, :10] for part in frames()], OBLIQUE)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    user.choose_volume(volume)
    user.choose_model("slow")
    choose_frames(user, "all")
    user.ui.outputSelector.setCurrentNode(node)
    nodes = scene.GetNumberOfNodes()
    user.click(user.ui.segmentButton)
    user.click(user.ui.segmentButton)
    user.wait()
    assert user.status == "Cancelled; nothing was changed."
    assert scene.GetNumberOfNodes() == nodes
    assert browser.GetSequenceNode(node) is None


def test_a_run_is_cancelled_while_a_frame_without_a_result_is_shown(user, scene):
    browser, _ = begun_run_on_frames(user)
    show_frame(browser, 11)
    user.click(user.ui.segmentButton)
    user.wait()
    (node,) = segmentations(scene)
    assert user.status.startswith("Cancelled; ")
    assert not segment_names(node)
    assert not host.messages.texts("error")
    show_frame(browser, 0)
    assert segment_names(node) == ["Anterior"]


@pytest.mark.parametrize("removed", ["browser", "sequence"])
def test_a_run_ends_with_the_frames_done_once_the_sequence_is_removed(user, scene, removed):
    browser, volume = begun_run_on_frames(user)
    (node,) = segmentations(scene)
    scene.RemoveNode(browser if removed == "browser" else browser.GetSequenceNode(volume))
    user.wait()
    assert "was removed during the run" in user.ui.warningLabel.text
    assert segmentations(scene) == [node]
    assert not host.messages.texts("error")


def test_a_run_ends_with_an_error_once_its_output_is_removed(user, scene):
    begun_run_on_frames(user)
    (node,) = segmentations(scene)
    scene.RemoveNode(node)
    user.wait()
    assert "The output was removed during the run" in user.ui.warningLabel.text
    assert not host.messages.texts("error")
    user.choose_model("threshold")
    user.click(user.ui.segmentButton)
    user.wait()
    assert user.status.startswith("Done: 12 frames")


def test_a_run_on_frames_ends_when_the_scene_closes(user, scene):
    begun_run_on_frames(user)
    host.close_scene()
    user.wait()
    assert user.status.startswith("Cancelled")
    assert not segmentations(scene)
    assert not host.messages.texts("error")


def test_the_frames_of_a_sequence_have_no_boxes(user, scene, sequence):
    user.click(user.ui.segmentButton)
    user.wait()
    boxes = user.ui.boxesButton
    assert not boxes.isVisibleTo(boxes.parent())
    choose_frames(user, "shown")
    user.click(user.ui.segmentButton)
    user.wait()
    assert boxes.isVisibleTo(boxes.parent())


def test_the_result_of_one_frame_is_not_written_into_another(user, scene, sequence):
    browser, volume = sequence
    node = about_to_replace_a_frame(user, scene)
    show_frame(browser, 0)
    user.click(user.ui.segmentButton)
    show_frame(browser, 2)
    user.wait()
    assert "shows another frame than when the run began" in user.ui.warningLabel.text
    assert not host.messages.texts("error")
    for number in (0, 2):
        show_frame(browser, number)
        assert np.array_equal(segment_voxels(node, "Posterior", volume), frames()[number] == 2)
    user.click(user.ui.segmentButton)
    user.wait()
    assert user.status.startswith("Done: 2 classes")
    assert np.array_equal(segment_voxels(node, "Posterior", volume), frames()[2] == 2)


def test_a_second_run_on_all_frames_keeps_the_first(user, scene, sequence):
    browser, _volume = sequence
    for _run in range(2):
        user.click(user.ui.segmentButton)
        user.wait()
    first, second = segmentations(scene)
    assert browser.GetSequenceNode(first) is not browser.GetSequenceNode(second)
    assert (first.GetDisplayVisibility(), second.GetDisplayVisibility()) == (0, 1)

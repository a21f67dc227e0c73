"""All frames of a sequence (4D volumes) segmented into a sequence of segmentations."""

from __future__ import annotations

import numpy as np
import pytest

from Testing.helpers.threshold_model import OBLIQUE, one_class, two_blobs
from Testing.slicer.helpers import (
    add_roi,
    add_transform,
    add_volume,
    matrix,
    segment_names,
    segment_voxels,
    turn,
)
from Testing.slicer.sequences import SHAPE, add_sequence, frames, show_frame


def assert_frames(node, browser, volume, arrays) -> None:
    """Check that each frame shows the segments of its array, exactly."""
    for number, array in enumerate(arrays):
        show_frame(browser, number)
        for value, name in ((1, "Anterior"), (2, "Posterior")):
            if (array == value).any():
                assert np.array_equal(segment_voxels(node, name, volume), array == value)
            else:
                assert name not in segment_names(node)


def test_every_frame_gets_its_own_segments(known, scene):
    arrays = frames()
    browser, volume = add_sequence(arrays, OBLIQUE)
    show_frame(browser, 1)
    progress = []
    node = known.segment(
        volume, model="threshold", allFrames=True, progress=lambda *one: progress.append(one)
    )
    assert browser.IsProxyNodeID(node.GetID())
    assert browser.GetSequenceNode(node).GetNumberOfDataNodes() == len(arrays)
    assert browser.GetSelectedItemNumber() == 1  # the run does not change the frame shown
    assert_frames(node, browser, volume, arrays)
    assert node.GetTransformNodeID() == volume.GetTransformNodeID()
    fractions = [fraction for _stage, fraction, _left in progress]
    assert fractions == sorted(fractions) and fractions[-1] <= 1
    assert any("Frame 3 of 3" in stage for stage, *_ in progress)


def test_frames_are_segmented_under_transforms_and_inside_an_roi(known, scene):
    arrays = frames()
    browser, volume = add_sequence(arrays, OBLIQUE)
    to_world = matrix(turn((12, -7, 33)), (1, 1, 1))
    add_transform(to_world, volume)
    lower, upper = (4, 4, 0), (16, 12, 9)
    roi = add_roi(lower, upper, to_world @ OBLIQUE)
    node = known.segment(volume, model="threshold", roiNode=roi, allFrames=True)
    (i0, j0, k0), (i1, j1, k1) = lower, upper
    for number, array in enumerate(arrays):
        inside = np.zeros(SHAPE, bool)
        inside[k0:k1, j0:j1, i0:i1] = True
        show_frame(browser, number)
        if "Posterior" in segment_names(node):
            voxels = segment_voxels(node, "Posterior", volume)
            assert not (voxels & ~inside).any()
            assert np.array_equal(voxels, inside & (array == 2))


@pytest.mark.parametrize("shown", [0, 1])
def test_each_frame_keeps_the_record_of_its_run(known, scene, tmp_path, shown):
    import slicer

    from MaskSAMSlicerLib.mrml.corrections import class_states, images_of

    def check(node, volume, browser):
        for number, states in enumerate((both, {"Anterior": "unchanged"}, both)):
            show_frame(browser, number)
            found = class_states(node, volume, ())
            assert {one.name: one.state for one in found} == states
            assert images_of(node) == [volume]

    both = {"Anterior": "unchanged", "Posterior": "unchanged"}
    browser, volume = add_sequence(frames(), OBLIQUE)
    show_frame(browser, shown)
    node = known.segment(volume, model="threshold", allFrames=True)
    check(node, volume, browser)
    names = [one.GetName() for one in (node, volume, browser)]
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    scene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    check(*map(slicer.util.getNode, names))


def test_a_copy_of_what_a_frame_shows_belongs_to_that_frame(known, scene):
    arrays = frames()
    browser, volume = add_sequence(arrays, OBLIQUE)
    show_frame(browser, 0)
    node = known.segment(volume, model="threshold", allFrames=True)
    show_frame(browser, 2)
    copy = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "copy")
    copy.Copy(node)
    show_frame(browser, 0)
    with pytest.raises(ValueError, match="made from frame 3 of 'cine': show that frame"):
        known.update(copy, boxNodes=[])
    show_frame(browser, 2)
    known.update(copy, boxNodes=[])
    assert np.array_equal(segment_voxels(copy, "Posterior", volume), arrays[2] == 2)


def test_segments_of_an_earlier_run_on_the_frames_are_not_corrected(known):
    from MaskSAMSlicerLib.mrml.corrections import class_states

    browser, volume = add_sequence(frames(), OBLIQUE)
    node = known.segment(volume, model="threshold", allFrames=True)
    known.segment(volume, model="threshold", allFrames=True, segmentationNode=node, rule="add")
    show_frame(browser, 0)
    states = [one.state for one in class_states(node, volume, ())]
    assert states == ["unchanged"] * 4


def test_the_sequence_is_saved_with_the_scene(known, scene, tmp_path):
    import slicer

    arrays = frames()
    browser, volume = add_sequence(arrays, OBLIQUE)
    node = known.segment(volume, model="threshold", allFrames=True)
    name, volume_name, browser_name = node.GetName(), volume.GetName(), browser.GetName()
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    scene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    node, volume, browser = (slicer.util.getNode(n) for n in (name, volume_name, browser_name))
    assert_frames(node, browser, volume, arrays)


def test_one_undo_removes_all_frames_and_redo_restores_them(known, scene):
    arrays = frames()
    browser, volume = add_sequence(arrays, OBLIQUE)
    node = known.segment(volume, model="threshold", allFrames=True)
    undo = known.run.outcome.undo
    assert undo.can_undo and not undo.can_redo
    undo.undo()
    for number in range(len(arrays)):
        show_frame(browser, number)
        assert not segment_names(node)
    assert undo.can_redo and not undo.can_undo
    undo.redo()
    assert_frames(node, browser, volume, arrays)


def test_undo_of_a_repeated_run_restores_the_run_before(known, scene):
    arrays = frames()
    browser, volume = add_sequence(arrays, OBLIQUE)
    node = known.segment(volume, model="threshold", allFrames=True)
    roi = add_roi((4, 4, 0), (16, 12, 9), OBLIQUE)
    again = known.segment(
        volume, model="threshold", roiNode=roi, segmentationNode=node, allFrames=True
    )
    assert again is node
    show_frame(browser, 0)
    assert not np.array_equal(segment_voxels(node, "Posterior", volume), arrays[0] == 2)
    known.run.outcome.undo.undo()
    assert_frames(node, browser, volume, arrays)


def test_what_the_user_paints_into_a_frame_stays_and_ends_the_undo(known, scene):
    import slicer

    arrays = frames()
    browser, volume = add_sequence(arrays, OBLIQUE)
    node = known.segment(volume, model="threshold", allFrames=True)
    show_frame(browser, 0)
    painted = (arrays[0] == 1).copy()
    painted[0, 0, 0] = True
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        painted.astype(np.uint8), node, "Anterior", volume
    )
    show_frame(browser, 2)
    show_frame(browser, 0)
    assert np.array_equal(segment_voxels(node, "Anterior", volume), painted)
    assert not known.run.outcome.undo.can_undo


def test_frames_done_stay_if_a_later_one_fails(known, scene):
    arrays = [*frames()[:2], one_class(shape=(1, 17, 23))]
    browser, volume = add_sequence(arrays, OBLIQUE)
    with pytest.raises(RuntimeError, match="single slice"):
        known.segment(volume, model="threshold", allFrames=True)
    node = known.run.outcome.node
    assert len(known.run.outcome.frames) == 2
    assert_frames(node, browser, volume, arrays[:2])
    show_frame(browser, 2)
    assert not segment_names(node)


def test_a_frame_of_several_channels_takes_each_channel_in_its_frame(known, scene):
    arrays = frames()
    browser, flair = add_sequence(arrays, OBLIQUE, "FLAIR")
    _other, t1 = add_sequence([one_class()] * len(arrays), OBLIQUE, "T1", browser)
    node = known.segment([t1, flair], model="two_channels", allFrames=True)
    assert_frames(node, browser, flair, arrays)


def test_names_in_place_of_nodes_are_told(known, scene):
    _browser, volume = add_sequence(frames(), OBLIQUE)
    with pytest.raises(ValueError, match="'MR' is not a volume node"):
        known.segment("MR", model="threshold", allFrames=True)
    with pytest.raises(ValueError, match="'mine' is not a segmentation node"):
        known.segment(volume, model="threshold", allFrames=True, segmentationNode="mine")


def test_a_single_volume_has_no_frames(known, scene):
    with pytest.raises(ValueError, match="one frame only"):
        known.segment(add_volume(two_blobs(), OBLIQUE), model="threshold", allFrames=True)


def test_a_segmentation_of_one_volume_is_no_output_for_frames(known, scene):
    _browser, volume = add_sequence(frames(), OBLIQUE)
    node = known.segment(volume, model="threshold")
    with pytest.raises(ValueError, match="not one for each frame"):
        known.segment(volume, model="threshold", segmentationNode=node, allFrames=True)

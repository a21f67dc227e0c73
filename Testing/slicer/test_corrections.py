"""Corrected segmentations as cases on the grid of their volume."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from MaskSAMCore.labels import Code, Label, Terminology
from MaskSAMCore.terminology import terminology_entry
from Testing.helpers.threshold_model import LABELS, two_blobs
from Testing.slicer.helpers import (
    GRIDS,
    add_roi,
    add_transform,
    add_volume,
    add_warp,
    matrix,
    segment_voxels,
    turn,
)
from Testing.slicer.sequences import add_sequence, frames, show_frame

SHAPE = two_blobs().shape
CODED = Label(
    9,
    "Mass",
    (1, 0, 0),
    Terminology(
        Code("SCT", "49755003", "Morphologically Altered Structure"),
        Code("SCT", "4147007", "Mass"),
        region=Code("SCT", "12738006", "Brain"),
    ),
)


def drawn(volume, **segments: np.ndarray):
    """Return a segmentation that the user has drawn on the grid of a volume."""
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for name, voxels in segments.items():
        segment_id = node.GetSegmentation().AddEmptySegment(name, name)
        slicer.util.updateSegmentBinaryLabelmapFromArray(
            voxels.astype(np.uint8), node, segment_id, volume
        )
    return node


def block(lower: tuple[int, int, int], upper: tuple[int, int, int]) -> np.ndarray:
    """Return a block of voxels (k, j, i) as bool [K, J, I]."""
    voxels = np.zeros(SHAPE, bool)
    voxels[tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))] = True
    return voxels


def case_of(volume, node, checked=None, labels=LABELS):
    from MaskSAMSlicerLib.mrml.corrections import CorrectedNodes, corrected_case

    return corrected_case(CorrectedNodes([volume], node, checked), labels)


def values(case) -> dict[str, int]:
    """Return the values of the classes of a case by class name."""
    return {label.name: label.value for label in case.labels}


@pytest.mark.parametrize("grid", GRIDS, ids=list(GRIDS))
def test_image_and_labelmap_share_the_grid_of_the_volume(scene, grid):
    volume = add_volume(two_blobs(), GRIDS[grid], "head")
    one, other = block((1, 2, 3), (5, 9, 8)), block((6, 4, 2), (9, 12, 17))
    case = case_of(volume, drawn(volume, Anterior=one, Lesion=other))
    assert (case.name, values(case)) == ("head", {"Anterior": 1, "Lesion": 2})
    assert set(case.checked) == {"Anterior", "Lesion"}
    np.testing.assert_array_equal(case.labelmap, one + 2 * other)
    np.testing.assert_allclose(case.channels[0].ijk_to_ras, GRIDS[grid])
    np.testing.assert_array_equal(case.channels[0].array, two_blobs())


def test_parent_transforms_are_applied_to_both(scene):
    volume = add_volume(two_blobs(), GRIDS["oblique"])
    voxels = block((1, 2, 3), (5, 9, 8))
    node = drawn(volume, Anterior=voxels)
    to_world = matrix(turn((12, -7, 33)), (1, 1, 1))
    transform = add_transform(to_world, volume, node)
    case = case_of(volume, node)
    np.testing.assert_array_equal(case.labelmap, voxels)
    np.testing.assert_allclose(case.channels[0].ijk_to_ras, to_world @ GRIDS["oblique"])
    # The segmentation moves away from the volume by whole voxels.
    steps = np.eye(4)
    steps[:3, 3] = (GRIDS["oblique"] @ [2, 3, 1, 0])[:3]
    node.SetAndObserveTransformNodeID(None)
    volume.SetAndObserveTransformNodeID(None)
    scene.RemoveNode(transform)
    add_transform(steps, node)
    np.testing.assert_array_equal(case_of(volume, node).labelmap, block((2, 5, 5), (6, 12, 10)))


def test_a_segmentation_on_another_grid_is_resampled_to_that_of_the_volume(scene):
    volume = add_volume(two_blobs(), GRIDS["LPS"])
    # The grid has voxels of half the size and shares the volume's corner.
    half = GRIDS["LPS"] @ np.diag([0.5, 0.5, 0.5, 1.0])
    half[:3, 3] = (GRIDS["LPS"] @ [-0.25, -0.25, -0.25, 1])[:3]
    fine = add_volume(np.zeros([2 * n for n in SHAPE], np.int16), half)
    voxels = block((1, 2, 3), (5, 9, 8))
    twice = voxels.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    node = drawn(fine, Anterior=twice)
    np.testing.assert_array_equal(case_of(volume, node).labelmap, voxels)
    # Resampling leaves nothing behind in the scene.
    assert scene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode") == 0
    assert node.GetSegmentation().GetNumberOfSegments() == 1


def test_only_checked_segments_are_taken_and_absent_classes_may_be_checked(scene):
    volume = add_volume(two_blobs(), GRIDS["sagittal"])
    node = drawn(volume, lesion=block((1, 2, 3), (5, 9, 8)), rest=block((6, 4, 2), (9, 12, 17)))
    labels = (*LABELS, Label(3, "Lesion", (0, 0, 1)))
    case = case_of(volume, node, ["lesion", "Posterior"], labels)
    # The class is spelled as in the model, not as the segment.
    assert values(case) == {"Lesion": 1, "Posterior": 2}
    np.testing.assert_array_equal(case.labelmap, block((1, 2, 3), (5, 9, 8)))


def test_classes_have_the_colors_and_codes_of_their_segments(scene):
    volume = add_volume(two_blobs(), GRIDS["oblique"])
    node = drawn(volume, posterior=block((1, 2, 3), (5, 9, 8)))
    segment = node.GetSegmentation().GetSegment("posterior")
    segment.SetColor(0.25, 0.5, 0.75)
    segment.SetTag(segment.GetTerminologyEntryTagName(), terminology_entry(CODED))
    present, absent = case_of(volume, node, ["posterior", "Anterior"]).labels
    assert present == Label(1, "Posterior", (0.25, 0.5, 0.75), CODED.terminology)
    assert absent == replace(LABELS[0], value=2)


@pytest.mark.parametrize("beyond", [False, True], ids=["inside", "drawn beyond"])
def test_the_result_in_an_roi_is_cropped_to_it_with_all_that_was_drawn(known, beyond):
    from MaskSAMSlicerLib.mrml.corrections import class_states

    volume = add_volume(two_blobs(), GRIDS["oblique"])
    roi = add_roi((2, 3, 1), (20, 15, 10), GRIDS["oblique"])
    node = known.segment(volume, model="threshold", roiNode=roi)
    assert {one.state for one in class_states(node, volume, LABELS)} == {"unchanged"}
    added = drawn(volume, Lesion=block((0, 3, 3), (5, 9, 8))) if beyond else None
    if added is not None:
        segment = added.GetSegmentation().GetSegment("Lesion")
        node.GetSegmentation().AddSegment(segment, "Lesion")
        states = {one.name: one.state for one in class_states(node, volume, LABELS)}
        assert states == {"Anterior": "unchanged", "Posterior": "unchanged", "Lesion": "added"}
    case = case_of(volume, node)
    first = 0 if beyond else 1
    assert case.labelmap.shape == case.channels[0].shape == (10 - first, 12, 18)
    part = two_blobs()[first:10, 3:15, 2:20]
    np.testing.assert_array_equal(case.channels[0].array, part)
    places = case.channels[0].ijk_to_ras @ [0, 0, 0, 1], GRIDS["oblique"] @ [2, 3, first, 1]
    np.testing.assert_allclose(*places)


def test_classes_of_an_unknown_checksum_do_not_count_as_corrected(known):
    from MaskSAMSlicerLib.mrml.corrections import class_states, is_corrected
    from MaskSAMSlicerLib.mrml.run_record import SegmentationRecord

    volume = add_volume(two_blobs(), GRIDS["LPS"])
    node = known.segment(volume, model="threshold")
    record = SegmentationRecord.load(node)
    record.written = dict.fromkeys(record.written, -1)  # as earlier versions did after an undo
    record.save(node)
    assert {one.state for one in class_states(node, volume, LABELS)} == {"unchanged"}
    assert not is_corrected(node)


def states_of(node, volume) -> dict[str, str]:
    from MaskSAMSlicerLib.mrml.corrections import class_states

    return {one.name: one.state for one in class_states(node, volume, LABELS)}


def paint(node, name: str, volume) -> None:
    """Paint a block of voxels into a segment."""
    import slicer

    segment_id = node.GetSegmentation().GetSegmentIdBySegmentName(name)
    voxels = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume)
    voxels[block((0, 0, 0), (2, 3, 4))] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, node, segment_id, volume)


def test_segments_of_earlier_runs_are_corrected_only_if_the_user_has_changed_them(known):
    from MaskSAMSlicerLib.mrml.corrections import is_corrected

    volume = add_volume(two_blobs(), GRIDS["oblique"])
    node = known.segment(volume, model="threshold")
    for runs in (2, 3):
        known.segment(volume, model="threshold", segmentationNode=node, rule="add")
        states = states_of(node, volume)
        assert len(states) == 2 * runs and set(states.values()) == {"unchanged"}
        assert not is_corrected(node)
    undo = known.run.outcome.undo
    for step in (undo.undo, undo.redo):
        step()
        assert set(states_of(node, volume).values()) == {"unchanged"}
    paint(node, "Anterior", volume)
    expected = dict.fromkeys(states, "unchanged") | {"Anterior": "changed"}
    assert states_of(node, volume) == expected
    assert is_corrected(node)
    # A painted segment stays changed after another run, unless that run writes the segment.
    known.segment(volume, model="threshold", segmentationNode=node, rule="add")
    assert states_of(node, volume) == {
        **expected, "Anterior 4": "unchanged", "Posterior 4": "unchanged"
    }  # fmt: skip
    known.segment(volume, model="threshold", segmentationNode=node)
    assert set(states_of(node, volume).values()) == {"unchanged"}
    known.run.outcome.undo.undo()
    assert {name for name, state in states_of(node, volume).items() if state == "changed"} == {
        "Anterior"
    }


def test_segments_of_another_models_run_on_the_volume_are_not_corrected_after_an_undo(known):
    volume = add_volume(two_blobs(), GRIDS["LPS"])
    node = known.segment(volume, model="threshold")
    known.segment(volume, model="rated", segmentationNode=node, rule="add")
    known.run.outcome.undo.undo()
    assert states_of(node, volume) == {"Anterior": "unchanged", "Posterior": "unchanged"}


@pytest.mark.parametrize("in_roi", [False, True])
def test_segments_do_not_count_as_corrected_after_their_volume_was_cropped(known, in_roi):
    import slicer

    from MaskSAMSlicerLib.mrml.corrections import is_corrected

    grid = GRIDS["oblique"]
    volume = add_volume(two_blobs(), grid)
    roi = add_roi((2, 3, 1), (20, 15, 10), grid) if in_roi else None
    node = known.segment(volume, model="threshold", roiNode=roi)
    before = segment_voxels(node, "Anterior", volume)
    slicer.util.updateVolumeFromArray(volume, two_blobs()[1:, 1:, 1:])
    moved = grid.copy()
    moved[:3, 3] = (grid @ [1, 1, 1, 1])[:3]
    volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(moved))
    assert states_of(node, volume) == {"Anterior": "unchanged", "Posterior": "unchanged"}
    assert not is_corrected(node)
    if in_roi:
        with pytest.raises(ValueError, match="has another size now: segment"):
            case_of(volume, node)
    else:
        anterior = case_of(volume, node).labelmap == 1
        np.testing.assert_array_equal(anterior, before[1:, 1:, 1:])


def test_segments_of_a_run_on_another_volume_are_not_corrected(known):
    other = add_volume(two_blobs(), GRIDS["axis-aligned"])
    volume = add_volume(two_blobs(), GRIDS["oblique"])
    node = known.segment(other, model="threshold")
    known.segment(volume, model="threshold", segmentationNode=node, rule="add")
    assert set(states_of(node, volume).values()) == {"unchanged"}


def test_what_an_undo_brings_back_from_another_volume_is_not_corrected(known):
    other = add_volume(two_blobs(), GRIDS["axis-aligned"])
    volume = add_volume(two_blobs(), GRIDS["oblique"])
    node = known.segment(other, model="threshold")
    known.segment(volume, model="threshold", segmentationNode=node)
    known.run.outcome.undo.undo()
    assert states_of(node, volume) == {"Anterior": "unchanged", "Posterior": "unchanged"}


def test_a_corrected_segment_has_the_voxels_that_it_shares_with_one_that_is_not(known):
    import slicer

    volume = add_volume(two_blobs(), GRIDS["oblique"])
    node = known.segment(volume, model="threshold")
    segmentation = node.GetSegmentation()
    anterior = segmentation.GetSegmentIdBySegmentName("Anterior")
    names = ("Anterior", "Posterior")
    drawn_over = np.any([segment_voxels(node, name, volume) for name in names], axis=0)
    segmentation.SeparateSegmentLabelmap(anterior)
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        drawn_over.astype(np.uint8), node, anterior, volume
    )
    assert states_of(node, volume) == {"Anterior": "changed", "Posterior": "unchanged"}
    np.testing.assert_array_equal(case_of(volume, node).labelmap, drawn_over)
    node.GetSegmentation().GetSegment(anterior).SetName("Whole")
    lesion = drawn(volume, Lesion=block((0, 3, 3), (9, 9, 12))).GetSegmentation()
    node.GetSegmentation().AddSegment(lesion.GetSegment("Lesion"), "Lesion")
    with pytest.raises(ValueError, match=r"'Whole' and 'Lesion' of .* overlap: erase the overlap"):
        case_of(volume, node)
    assert case_of(volume, node, ["Lesion", "Posterior"]).checked == ["Lesion", "Posterior"]


def test_segments_whose_names_were_swapped_are_corrected(known):
    volume = add_volume(two_blobs(), GRIDS["oblique"])
    node = known.segment(volume, model="threshold")
    segmentation = node.GetSegmentation()
    first, second = (
        segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName(name))
        for name in ("Anterior", "Posterior")
    )
    first.SetName("Posterior")
    second.SetName("anterior")
    assert set(states_of(node, volume).values()) == {"changed"}
    # A new name that is not a class of the model is no correction.
    second.SetName("Front")
    assert states_of(node, volume)["Front"] == "unchanged"


def test_a_segmentation_is_learnt_with_the_frame_that_it_was_made_from(known):
    arrays = frames()
    browser, volume = add_sequence(arrays, GRIDS["oblique"])
    show_frame(browser, 1)
    node = known.segment(volume, model="threshold")
    show_frame(browser, 2)
    with pytest.raises(ValueError, match="made from frame 2 of 'cine': show that frame"):
        case_of(volume, node)
    show_frame(browser, 1)
    np.testing.assert_array_equal(case_of(volume, node).channels[0].array, arrays[1])


def test_a_result_in_an_roi_is_not_learnt_with_another_volume(known):
    volume = add_volume(two_blobs(), GRIDS["oblique"], "T1")
    roi = add_roi((2, 3, 1), (12, 9, 6), GRIDS["oblique"])
    node = known.segment(volume, model="threshold", roiNode=roi)
    other = add_volume(two_blobs(), GRIDS["oblique"], "copy")
    assert set(states_of(node, other).values()) == {"unchanged"}
    with pytest.raises(ValueError, match="in an ROI of another volume than 'copy'"):
        case_of(other, node)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("nothing checked", "Tick the segments"),
        ("unknown name", "no segment named 'Tumour'"),
        ("two segments of a name", "two segments named 'Anterior'"),
        ("warped volume", "Harden"),
        ("reserved name", "No class can be named 'Background'"),
    ],
)
def test_corrections_that_cannot_be_learnt_are_refused(scene, case, message):
    volume = add_volume(two_blobs(), GRIDS["LPS"])
    node = drawn(volume, Anterior=block((1, 2, 3), (5, 9, 8)))
    checked = {"nothing checked": [], "unknown name": ["Tumour"]}.get(case)
    if case == "two segments of a name":
        node.GetSegmentation().AddEmptySegment("second", "anterior")
    if case == "warped volume":
        add_warp(volume)
    if case == "reserved name":
        node.GetSegmentation().AddEmptySegment("second", "Background")
    with pytest.raises(ValueError, match=message):
        case_of(volume, node, checked)

"""``logic.update`` and boxes of ``logic.segment``: transforms, ROIs, names, errors."""

from __future__ import annotations

import numpy as np
import pytest

from MaskSAMCore import Box
from Testing.helpers.threshold_model import two_blobs
from Testing.slicer.helpers import (
    GRIDS,
    add_roi,
    add_transform,
    add_volume,
    assert_segments,
    engine,
    matrix,
    segment_names,
    segment_voxels,
    smallest_box,
    turn,
)
from Testing.slicer.sequences import add_sequence, frames, show_frame


@pytest.mark.parametrize("grid", GRIDS, ids=list(GRIDS))
@pytest.mark.parametrize("moved", ["nothing", "volume", "box", "both"])
def test_a_rotated_box_under_transforms_stands_for_the_voxels_around_its_eight_corners(
    known, grid, moved
):
    import slicer

    array = two_blobs()
    volume = add_volume(array, GRIDS[grid])
    roi = add_roi((4, 3, 2), (13, 11, 6), GRIDS[grid], "Anterior")
    # The box is rotated, so that no corner lies on an edge of a voxel.
    own = slicer.util.arrayFromVTKMatrix(roi.GetObjectToNodeMatrix())
    own[:3, :3] = own[:3, :3] @ turn((20, -10, 15))
    roi.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(own))
    to_world, shift = np.eye(4), matrix(turn((4, -6, 3)), (1, 1, 1))
    if moved in ("volume", "both"):
        to_world = matrix(turn((11, 23, -8)), (1, 1, 1))
        add_transform(to_world, volume)
    if moved == "volume":
        roi.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    if moved == "box":
        shift[:3, 3] = (1.5, -1, 2)
        add_transform(shift, roi)
    if moved == "both":
        shift[:3, 3] = (0.5, 1, -1)
        add_transform(to_world @ shift, roi)
    box = smallest_box(roi, to_world @ GRIDS[grid], "Anterior")
    node = known.segment(volume, model="threshold", boxNodes=[roi])
    assert_segments(node, volume, engine(array, to_world @ GRIDS[grid], box).labelmap)


def test_classes_are_segmented_again_from_boxes_and_restored_without_them(known):
    array = two_blobs()
    volume = add_volume(array, GRIDS["axis-aligned"])
    node = known.segment(volume, model="threshold")
    roi = add_roi((4, 3, 2), (13, 11, 6), GRIDS["axis-aligned"], "Anterior")
    box = smallest_box(roi, GRIDS["axis-aligned"], "Anterior")
    assert known.update(node, boxNodes=[roi]) is node
    assert known.run.outcome.changed == ["Anterior"]
    assert_segments(node, volume, engine(array, GRIDS["axis-aligned"], box).labelmap)
    assert not any("whole run was repeated" in note for note in known.run.outcome.notes)
    known.update(node, boxNodes=[roi])
    assert known.run.outcome.changed == []
    known.update(node)
    assert_segments(node, volume, array)
    assert segment_names(node) == ["Anterior", "Posterior"]


def test_a_segment_that_the_user_adds_after_an_update_is_empty(known):
    volume = add_volume(two_blobs(), GRIDS["oblique"])
    node = known.segment(volume, model="threshold")
    # Both classes lie in the box.
    known.update(node, boxNodes=[add_roi((2, 3, 1), (20, 15, 10), GRIDS["oblique"], "Anterior")])
    before = {name: segment_voxels(node, name, volume) for name in segment_names(node)}
    node.GetSegmentation().AddEmptySegment("Lesion", "Lesion")
    assert not segment_voxels(node, "Lesion", volume).any()
    for name, voxels in before.items():
        np.testing.assert_array_equal(segment_voxels(node, name, volume), voxels)


def test_an_update_uses_the_roi_of_the_run(known):
    array = two_blobs()
    volume = add_volume(array, GRIDS["oblique"])
    region = add_roi((2, 2, 1), (20, 15, 9), GRIDS["oblique"], "around")
    node = known.segment(volume, model="threshold", roiNode=region)
    region.SetCenter(900, 900, 900)
    box = add_roi((4, 3, 0), (13, 11, 11), GRIDS["oblique"], "Anterior")
    known.update(node, boxNodes=[box])
    edges = smallest_box(box, GRIDS["oblique"], "Anterior")
    roi = Box("", (2, 2, 1), (20, 15, 9))
    assert_segments(node, volume, engine(array, GRIDS["oblique"], edges, roi=roi).labelmap)


def test_a_frame_is_segmented_again_only_while_it_is_shown(known):
    arrays = frames()
    browser, volume = add_sequence(arrays, GRIDS["oblique"])
    show_frame(browser, 2)
    node = known.segment(volume, model="threshold")
    show_frame(browser, 0)
    box = add_roi((4, 3, 2), (13, 11, 6), GRIDS["oblique"], "Posterior")
    with pytest.raises(ValueError, match="made from frame 3 of 'cine': show that frame"):
        known.update(node, boxNodes=[box])
    assert_segments(node, volume, engine(arrays[2], GRIDS["oblique"]).labelmap)
    show_frame(browser, 2)
    known.update(node, boxNodes=[box])
    edges = smallest_box(box, GRIDS["oblique"], "Posterior")
    assert_segments(node, volume, engine(arrays[2], GRIDS["oblique"], edges).labelmap)


def test_names_and_colors_of_the_user_stay(known):
    volume = add_volume(two_blobs(), GRIDS["axis-aligned"])
    node = known.segment(volume, model="threshold")
    segment = node.GetSegmentation().GetNthSegment(0)
    segment.SetName("mine")
    segment.SetColor(0.1, 0.2, 0.3)
    box = add_roi((4, 3, 2), (9, 8, 6), GRIDS["axis-aligned"], "anterior")
    known.update(node, boxNodes=[box])
    assert segment_names(node) == ["mine", "Posterior"]
    np.testing.assert_allclose(segment.GetColor(), (0.1, 0.2, 0.3))
    edges = smallest_box(box, GRIDS["axis-aligned"], "Anterior")
    labels = engine(two_blobs(), GRIDS["axis-aligned"], edges).labelmap
    assert np.array_equal(segment_voxels(node, "mine", volume), labels == 1)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("a name", "'mine' is not a segmentation node"),
        ("no record", "Segment a volume first"),
        ("volume removed", "no longer in the scene"),
        ("cropped", "'MR häd' has another size than when 'MR häd segmentation' was made"),
        ("outside", "outside the volume"),
        ("no size", "has no size"),
    ],
)
def test_an_update_that_cannot_work_is_refused(known, scene, case, message):
    import slicer

    volume = add_volume(two_blobs(), GRIDS["LPS"])
    box = add_roi((4, 3, 2), (9, 8, 6), GRIDS["LPS"], "Anterior")
    if case == "a name":
        node = "mine"
    elif case == "no record":
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    else:
        node = known.segment(volume, model="threshold")
    if case == "volume removed":
        scene.RemoveNode(volume)
    elif case == "cropped":
        slicer.util.updateVolumeFromArray(volume, two_blobs()[1:, 2:, 3:])
    elif case == "outside":
        box.SetCenter(900, 900, 900)
    elif case == "no size":
        box.RemoveAllControlPoints()
    with pytest.raises(ValueError, match=message):
        known.update(node, boxNodes=[box])
    assert not known.busy


def test_boxes_that_a_script_has_moved_are_used_and_kept_by_the_next_run(known):
    from MaskSAMSlicerLib.model_catalog import find_model
    from MaskSAMSlicerLib.mrml.box_set import BoxSet

    array = two_blobs()
    volume = add_volume(array, GRIDS["oblique"])
    node = known.segment(volume, model="threshold")
    boxes = BoxSet.of(find_model("threshold"), volume, node)
    boxes.show()
    (moved,), (automatic,) = boxes.nodes_of("Anterior"), boxes.nodes_of("Posterior")
    size = [0.7 * edge for edge in moved.GetSize()]
    moved.SetSize(*size)
    before = automatic.GetSize()
    known.update(node)
    edges = smallest_box(moved, GRIDS["oblique"], "Anterior")
    assert_segments(node, volume, engine(array, GRIDS["oblique"], edges).labelmap)
    # The next run proposes a smaller box for the class that the region of interest cuts.
    region = add_roi((2, 2, 1), (20, 15, 7), GRIDS["oblique"])
    known.segment(volume, model="threshold", roiNode=region, segmentationNode=node)
    np.testing.assert_allclose(moved.GetSize(), size)
    assert not np.allclose(before, automatic.GetSize())
    boxes = BoxSet.of(find_model("threshold"), volume, node)
    boxes.note_changes()
    assert [boxes.state(name) for name in ("Anterior", "Posterior")] == ["changed", "automatic"]


def test_a_box_that_names_no_class_changes_nothing(known):
    array = two_blobs()
    volume = add_volume(array, GRIDS["axis-aligned"])
    node = known.segment(volume, model="threshold")
    box = add_roi((4, 3, 2), (9, 8, 6), GRIDS["axis-aligned"], "Spleen")
    with pytest.raises(RuntimeError, match="names no class of this model"):
        known.update(node, boxNodes=[box])
    assert_segments(node, volume, array)

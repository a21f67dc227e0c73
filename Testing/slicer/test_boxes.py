"""Boxes without a panel: scripts, transforms, files, and what the shell makes of the same file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from Testing.helpers.generated import generated_case
from Testing.helpers.threshold_model import threshold_segmenter, two_blobs
from Testing.slicer.module_tools import (
    GRIDS,
    add_roi,
    add_transform,
    add_volume,
    matrix,
    segment_names,
    segment_voxels,
    turn,
)


def corners_of(roi) -> np.ndarray:
    """The eight corners of an ROI in the world, by hand."""
    import slicer

    half = np.array(roi.GetSize()) / 2
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    points = np.c_[signs * half, np.ones(8)].T
    to_node = slicer.util.arrayFromVTKMatrix(roi.GetObjectToNodeMatrix())
    return (to_world_of(roi) @ to_node @ points)[:3].T


def to_world_of(node) -> np.ndarray:
    import slicer

    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    import vtk

    to_world = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(to_world)
    return slicer.util.arrayFromVTKMatrix(to_world)


def smallest_box(roi, ijk_to_world, label):
    """Around all eight corners, in voxel edges."""
    from MaskSAMCore import Box

    points = np.c_[corners_of(roi), np.ones(8)].T
    edges = (np.linalg.inv(ijk_to_world) @ points)[:3].T + 0.5
    return Box(label, tuple(edges.min(0)), tuple(edges.max(0)))


def engine(array, ijk_to_world, *boxes, **more):
    from MaskSAMCore import Volume

    return threshold_segmenter().segment(Volume(array, ijk_to_world), boxes=boxes, **more).labelmap


def assert_segments(node, volume, labels):
    for value, name in ((1, "Anterior"), (2, "Posterior")):
        assert np.array_equal(segment_voxels(node, name, volume), labels == value)


@pytest.mark.parametrize("grid", GRIDS, ids=list(GRIDS))
@pytest.mark.parametrize("moved", ["nothing", "volume", "box", "both apart"])
def test_a_turned_box_under_transforms_reaches_the_voxels_around_its_eight_corners(
    known, grid, moved
):
    array = two_blobs()
    volume = add_volume(array, GRIDS[grid])
    roi = add_roi((4, 3, 2), (13, 11, 6), GRIDS[grid], "Anterior")
    # Turned in its own place, so that no corner lies on a voxel's edge.
    import slicer

    own = slicer.util.arrayFromVTKMatrix(roi.GetObjectToNodeMatrix())
    own[:3, :3] = own[:3, :3] @ turn((20, -10, 15))
    roi.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(own))
    to_world, shift = np.eye(4), matrix(turn((4, -6, 3)), (1, 1, 1))
    if moved in ("volume", "both apart"):
        to_world = matrix(turn((11, 23, -8)), (1, 1, 1))
        add_transform(to_world, volume)
    if moved == "volume":
        roi.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    if moved == "box":
        shift[:3, 3] = (1.5, -1, 2)
        add_transform(shift, roi)
    if moved == "both apart":
        shift[:3, 3] = (0.5, 1, -1)
        add_transform(to_world @ shift, roi)
    box = smallest_box(roi, to_world @ GRIDS[grid], "Anterior")
    node = known.segment(volume, model="threshold", boxNodes=[roi])
    assert_segments(node, volume, engine(array, to_world @ GRIDS[grid], box))


def test_a_script_updates_a_result_from_boxes_and_takes_them_back(known):
    array = two_blobs()
    volume = add_volume(array, GRIDS["axis-aligned"])
    node = known.segment(volume, model="threshold")
    roi = add_roi((4, 3, 2), (13, 11, 6), GRIDS["axis-aligned"], "Anterior")
    box = smallest_box(roi, GRIDS["axis-aligned"], "Anterior")
    assert known.update(node, boxNodes=[roi]) is node
    assert known.run.changed == ["Anterior"]
    assert_segments(node, volume, engine(array, GRIDS["axis-aligned"], box))
    assert not any("done again" in note for note in known.run.outcome.notes)
    known.update(node, boxNodes=[roi])
    assert known.run.changed == []
    known.update(node)
    assert_segments(node, volume, array)
    assert segment_names(node) == ["Anterior", "Posterior"]


def test_updates_keep_to_the_roi_of_the_run(known):
    from MaskSAMCore import Box

    array = two_blobs()
    volume = add_volume(array, GRIDS["oblique"])
    region = add_roi((2, 2, 1), (20, 15, 9), GRIDS["oblique"], "around")
    node = known.segment(volume, model="threshold", roiNode=region)
    region.SetCenter(900, 900, 900)
    box = add_roi((4, 3, 0), (13, 11, 11), GRIDS["oblique"], "Anterior")
    known.update(node, boxNodes=[box])
    edges = smallest_box(box, GRIDS["oblique"], "Anterior")
    roi = Box("", (2, 2, 1), (20, 15, 9))
    assert_segments(node, volume, engine(array, GRIDS["oblique"], edges, roi=roi))


def test_names_and_colors_that_a_person_gave_stay(known):
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
    labels = engine(two_blobs(), GRIDS["axis-aligned"], edges)
    assert np.array_equal(segment_voxels(node, "mine", volume), labels == 1)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("stranger", "Segment a volume first"),
        ("volume gone", "left the scene"),
        ("outside", "outside the volume"),
        ("no size", "has no size"),
    ],
)
def test_an_update_that_cannot_work_says_what_to_do(known, scene, what, message):
    volume = add_volume(two_blobs(), GRIDS["LPS"])
    box = add_roi((4, 3, 2), (9, 8, 6), GRIDS["LPS"], "Anterior")
    if what == "stranger":
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    else:
        node = known.segment(volume, model="threshold")
    if what == "volume gone":
        scene.RemoveNode(volume)
    elif what == "outside":
        box.SetCenter(900, 900, 900)
    elif what == "no size":
        box.RemoveAllControlPoints()
    with pytest.raises(ValueError, match=message):
        known.update(node, boxNodes=[box])
    assert not known.busy


def test_a_box_of_no_class_changes_nothing(known):
    array = two_blobs()
    volume = add_volume(array, GRIDS["axis-aligned"])
    node = known.segment(volume, model="threshold")
    box = add_roi((4, 3, 2), (9, 8, 6), GRIDS["axis-aligned"], "Spleen")
    with pytest.raises(RuntimeError, match="names no class of this model"):
        known.update(node, boxNodes=[box])
    assert_segments(node, volume, array)


@pytest.mark.parametrize("how", ["the panel's file", "Slicer's file"])
@pytest.mark.parametrize("grid", ["oblique", "left-handed", "sagittal"])
def test_the_shell_gives_the_same_voxels_from_the_same_file(
    logic, models_home, tmp_path, grid, how
):
    import slicer

    from MaskSAMCore import read_volume
    from MaskSAMCore.cli import main
    from MaskSAMSlicerLib.model_catalog import find_row
    from MaskSAMSlicerLib.mrml.box_nodes import in_world, set_edited
    from MaskSAMSlicerLib.mrml.box_set import BoxSet

    array = generated_case(1)[0]
    volume = add_volume(array, GRIDS[grid])
    node = logic.segment(volume, model="small")
    name = segment_names(node)[0]
    value = 1 + ["Bright", "Dark"].index(name)
    automatic = segment_voxels(node, name, volume)
    boxes = BoxSet.of(find_row("small"), volume, node)
    roi = boxes.add(name)
    wanted = add_roi((5.3, 4.6, 2.2), (22.4, 17.8, 11.1), GRIDS[grid])
    to_node = slicer.util.arrayFromVTKMatrix(wanted.GetObjectToNodeMatrix())
    to_node[:3, :3] = to_node[:3, :3] @ turn((3, 8, -5))
    roi.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(to_node))
    roi.SetSize(*wanted.GetSize())
    set_edited(roi, True)
    logic.update(node)
    image, file, out = (str(tmp_path / n) for n in ("vol.nrrd", "b.mrk.json", "out.nrrd"))
    assert slicer.util.saveNode(volume, image)
    if how == "the panel's file":
        assert boxes.save(file) == 1
        assert json.loads(Path(file).read_text())["markups"][0]["name"] == name
    else:
        file = str(tmp_path / f"{name}.mrk.json")
        assert slicer.util.saveNode(roi, file)
    assert in_world(roi).class_name == name
    folder = str(models_home / "models" / "small")
    assert main(["predict", image, "-o", out, "-m", folder, "--boxes", file]) == 0
    labels = read_volume(out).array
    found = segment_voxels(node, name, volume)
    assert found.any() and not np.array_equal(found, automatic)
    assert np.array_equal(found, labels == value)
    for other in segment_names(node)[1:]:
        assert np.array_equal(segment_voxels(node, other, volume), labels == 2)


def test_boxes_of_a_file_take_the_place_of_those_of_their_classes(known, tmp_path):
    from MaskSAMSlicerLib.model_catalog import find_row
    from MaskSAMSlicerLib.mrml.box_set import DRAWN, EDITED, BoxSet

    array = two_blobs()
    volume = add_volume(array, GRIDS["oblique"])
    transform = add_transform(matrix(turn((8, 3, -9)), (1, 1, 1)), volume)
    node = known.segment(volume, model="threshold")
    boxes = BoxSet.of(find_row("threshold"), volume, node)
    boxes.show()
    boxes.load(
        written(
            tmp_path / "a.mrk.json",
            [
                add_roi((4, 3, 2), (9, 8, 6), GRIDS["oblique"], "Anterior"),
                add_roi((14, 9, 6), (17, 13, 9), GRIDS["oblique"], "Anterior"),
            ],
            transform,
        )
    )
    assert boxes.state("Anterior") == EDITED and boxes.state("Posterior") not in (EDITED, DRAWN)
    assert len(boxes.nodes_of("Anterior")) == 2
    for roi, lower in zip(boxes.nodes_of("Anterior"), [(4, 3, 2), (14, 9, 6)], strict=True):
        found = smallest_box(roi, to_world_of(volume) @ GRIDS["oblique"], "Anterior")
        np.testing.assert_allclose(found.lower, lower, atol=1e-4)
    with pytest.raises(ValueError, match="named like no class: name it Anterior or Posterior"):
        boxes.load(
            written(tmp_path / "b.mrk.json", [add_roi((1, 1, 1), (3, 3, 3), np.eye(4), "Liver")])
        )
    with pytest.raises(ValueError, match="does not exist"):
        boxes.load(str(tmp_path / "c.mrk.json"))
    assert len(boxes.nodes_of("Anterior")) == 2


def written(path, rois, transform=None) -> str:
    from MaskSAMCore.io import write_boxes
    from MaskSAMSlicerLib.mrml.box_nodes import in_world

    for roi in rois if transform is not None else ():
        roi.SetAndObserveTransformNodeID(transform.GetID())
    write_boxes([in_world(roi) for roi in rois], path)
    return str(path)

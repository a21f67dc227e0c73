"""Sets of boxes: files that are saved, loaded and used in the shell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore import Segmenter, read_volume
from MaskSAMCore.cli import main
from MaskSAMCore.io import write_boxes
from Testing.helpers.threshold_model import threshold_segmenter, two_blobs
from Testing.slicer.helpers import (
    GRIDS,
    add_roi,
    add_transform,
    add_volume,
    add_warp,
    matrix,
    segment_voxels,
    smallest_box,
    to_world_of,
    turn,
)


def boxes_of(model: str, volume, node):
    from MaskSAMSlicerLib.model_catalog import find_model
    from MaskSAMSlicerLib.mrml.box_set import BoxSet

    return BoxSet.of(find_model(model), volume, node)


def write_rois(path: Path, rois: list) -> str:
    from MaskSAMSlicerLib.mrml.box_nodes import box_in_world

    write_boxes([box_in_world(roi) for roi in rois], path)
    return str(path)


@pytest.mark.parametrize("writer", ["panel", "Slicer"])
@pytest.mark.parametrize("grid", ["oblique", "left-handed", "sagittal"])
def test_the_shell_segments_the_same_voxels_with_the_same_file(
    known, tmp_path, monkeypatch, grid, writer
):
    import slicer

    from MaskSAMSlicerLib.mrml.box_nodes import box_in_world, set_edited

    volume = add_volume(two_blobs(), GRIDS[grid])
    node = known.segment(volume, model="threshold")
    automatic = segment_voxels(node, "Anterior", volume)
    boxes = boxes_of("threshold", volume, node)
    roi = boxes.add("Anterior")
    # The box is rotated, so that no corner lies on an edge of a voxel.
    wanted = add_roi((4.3, 3.6, 2.2), (14.4, 10.8, 6.1), GRIDS[grid])
    to_node = slicer.util.arrayFromVTKMatrix(wanted.GetObjectToNodeMatrix())
    to_node[:3, :3] = to_node[:3, :3] @ turn((3, 8, -5))
    roi.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(to_node))
    roi.SetSize(*wanted.GetSize())
    set_edited(roi, True)
    assert box_in_world(roi).class_name == "Anterior"
    known.update(node)
    image, out = str(tmp_path / "vol.nrrd"), str(tmp_path / "out.nrrd")
    file = str(tmp_path / "Anterior.mrk.json")
    assert slicer.util.saveNode(volume, image)
    if writer == "panel":
        assert boxes.save(file) == 1
        assert json.loads(Path(file).read_text())["markups"][0]["name"] == "Anterior"
    else:
        assert slicer.util.saveNode(roi, file)
    monkeypatch.setattr(
        Segmenter, "from_model", staticmethod(lambda *_model, **_options: threshold_segmenter())
    )
    assert main(["predict", image, "-o", out, "-m", "threshold", "--boxes", file]) == 0
    labelmap = read_volume(out).array
    found = segment_voxels(node, "Anterior", volume)
    assert found.any() and not np.array_equal(found, automatic)
    assert np.array_equal(found, labelmap == 1)
    assert np.array_equal(segment_voxels(node, "Posterior", volume), labelmap == 2)


def test_loaded_boxes_replace_those_of_the_same_classes(known, tmp_path):
    from MaskSAMSlicerLib.mrml.box_set import AUTOMATIC, EDITED

    volume = add_volume(two_blobs(), GRIDS["oblique"])
    transform = add_transform(matrix(turn((8, 3, -9)), (1, 1, 1)), volume)
    node = known.segment(volume, model="threshold")
    boxes = boxes_of("threshold", volume, node)
    boxes.show()
    lower_edges = [(4, 3, 2), (14, 9, 6)]
    rois = [
        add_roi(lower, upper, GRIDS["oblique"], "Anterior")
        for lower, upper in zip(lower_edges, [(9, 8, 6), (17, 13, 9)], strict=True)
    ]
    for roi in rois:
        roi.SetAndObserveTransformNodeID(transform.GetID())
    boxes.load(write_rois(tmp_path / "boxes.mrk.json", rois))
    assert boxes.state("Anterior") == EDITED and boxes.state("Posterior") == AUTOMATIC
    loaded = boxes.nodes_of("Anterior")
    assert len(loaded) == 2
    for roi, lower in zip(loaded, lower_edges, strict=True):
        found = smallest_box(roi, to_world_of(volume) @ GRIDS["oblique"], "Anterior")
        np.testing.assert_allclose(found.lower, lower, atol=1e-4)


@pytest.mark.parametrize("kind", ["deformation", "shear"])
def test_a_file_that_cannot_be_placed_changes_no_box(known, scene, tmp_path, kind):
    import slicer

    volume = add_volume(two_blobs(), GRIDS["oblique"])
    boxes = boxes_of("threshold", volume, known.segment(volume, model="threshold"))
    boxes.show()
    file = write_rois(
        tmp_path / "boxes.mrk.json",
        [add_roi((4, 3, 2), (9, 8, 6), GRIDS["oblique"], "Anterior")],
    )
    if kind == "deformation":
        add_warp(volume)
    else:
        add_transform(np.array([[1, 0.4, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), volume)
    rois = slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
    with pytest.raises(ValueError, match="harden it"):
        boxes.load(file)
    assert slicer.util.getNodesByClass("vtkMRMLMarkupsROINode") == rois


def test_a_file_of_other_boxes_and_a_missing_file_are_refused(known, tmp_path):
    volume = add_volume(two_blobs(), GRIDS["oblique"])
    boxes = boxes_of("threshold", volume, known.segment(volume, model="threshold"))
    boxes.show()
    nodes = boxes.nodes
    other = write_rois(
        tmp_path / "other.mrk.json", [add_roi((1, 1, 1), (3, 3, 3), np.eye(4), "Liver")]
    )
    with pytest.raises(ValueError, match="not named like a class: name it Anterior or Posterior"):
        boxes.load(other)
    with pytest.raises(ValueError, match="does not exist"):
        boxes.load(str(tmp_path / "missing.mrk.json"))
    assert boxes.nodes == nodes

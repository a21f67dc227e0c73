"""Helpers for tests of the module: volumes on clinical grids, transforms, ROIs, segments.

Importing this module puts the module's library on the path.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from MaskSAMCore import Box, Segmentation, Volume
from MaskSAMCore.labels import Label
from Testing.helpers import threshold_model
from Testing.helpers.dicom import write_series
from Testing.helpers.paths import ROOT
from Testing.helpers.threshold_model import LABELS, rotation, threshold_segmenter

MODULE = ROOT / "MaskSAMSlicer" / "MaskSAMSlicer.py"
if str(MODULE.parent) not in sys.path:
    sys.path.insert(0, str(MODULE.parent))


def turn(degrees: tuple[float, float, float]) -> np.ndarray:
    """Return the product of the rotations about the three axes."""
    about_i, about_j, about_k = (rotation(angle, axis) for axis, angle in enumerate(degrees))
    return about_i @ about_j @ about_k


def matrix(axes: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Return an IJK-to-RAS matrix whose origin does not lie on whole millimetres."""
    return threshold_model.matrix(axes, spacing, origin=(11.5, -23.25, 7.75))


# IJK-to-RAS matrices of the kinds that NIfTI and DICOM files have.
GRIDS = {
    "axis-aligned": matrix(np.eye(3), (1.0, 1.0, 1.0)),
    "LPS": matrix(np.diag([-1.0, -1.0, 1.0]), (0.9, 0.9, 2.0)),
    "left-handed": matrix(np.diag([-1.0, 1.0, 1.0]), (1.0, 1.0, 1.5)),
    "sagittal": matrix(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), (1.0, 1.0, 2.5)),
    "oblique": matrix(turn((17, -23, 31)), (0.8, 1.1, 2.0)),
}


def add_volume(array: np.ndarray, ijk_to_ras: np.ndarray, name: str = "MR häd"):
    import slicer

    return slicer.util.addVolumeFromArray(array, ijk_to_ras, name)


def add_transform(matrix_to_world: np.ndarray, *nodes):
    """Add a linear transform and put nodes under it."""
    import slicer

    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix_to_world))
    for node in nodes:
        node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def add_warp(*nodes):
    """Add a nonlinear transform and put nodes under it."""
    import slicer
    import vtk

    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetBasisToR()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for point in ((0, 0, 0), (40, 0, 0), (0, 40, 0), (0, 0, 40)):
        source.InsertNextPoint(point)
        target.InsertNextPoint([value + (3 if value else 0) ** 2 for value in point])
    source.InsertNextPoint(20, 20, 20)
    target.InsertNextPoint(26, 15, 20)
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "warped")
    node.SetAndObserveTransformToParent(spline)
    for moved in nodes:
        moved.SetAndObserveTransformNodeID(node.GetID())
    return node


def add_roi(lower, upper, ijk_to_world: np.ndarray, name: str = "ROI"):
    """Add an ROI along a volume's axes, from lower to upper voxel edges (i, j, k)."""
    import slicer

    lower, upper = np.asarray(lower, float), np.asarray(upper, float)
    spacing = np.linalg.norm(ijk_to_world[:3, :3], axis=0)
    to_world = np.eye(4)
    to_world[:3, :3] = ijk_to_world[:3, :3] / spacing
    to_world[:3, 3] = (ijk_to_world @ [*((lower + upper) / 2 - 0.5), 1])[:3]
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
    roi.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(to_world))
    roi.SetSize(*((upper - lower) * spacing))
    roi.SetCenter(*to_world[:3, 3])
    return roi


def segment_names(node) -> list[str]:
    segmentation = node.GetSegmentation()
    count = segmentation.GetNumberOfSegments()
    return [segmentation.GetNthSegment(n).GetName() for n in range(count)]


def segment_voxels(node, name: str, volume) -> np.ndarray:
    """Return the voxels of a segment on the grid of a volume, bool [K, J, I]."""
    import slicer

    segment_id = node.GetSegmentation().GetSegmentIdBySegmentName(name)
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume) > 0


def engine(array: np.ndarray, ijk_to_world: np.ndarray, *boxes: Box, **options) -> Segmentation:
    """Return the result of the engine with the threshold model."""
    volume = Volume(array, ijk_to_world)
    return threshold_segmenter().segment(volume, boxes=boxes, **options)


def assert_segments(node, volume, labelmap: np.ndarray, labels: Sequence[Label] = LABELS) -> None:
    """Check that the segments have exactly the voxels of their labels in a labelmap [K, J, I]."""
    for label in labels:
        assert np.array_equal(segment_voxels(node, label.name, volume), labelmap == label.value)


def write_dicom_series(folder: Path, array: np.ndarray, ijk_to_ras: np.ndarray) -> list[str]:
    """Write a DICOM series of a volume; return the files in order."""
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ijk_to_ras
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    positions = [(to_lps @ [0, 0, k, 1])[:3] for k in range(len(array))]
    return write_series(folder, array, positions, spacing.tolist(), to_lps[:3, :3] / spacing)


def to_world_of(node) -> np.ndarray:
    """Return the 4 x 4 matrix of a node's parent transforms."""
    import slicer
    import vtk

    to_world = vtk.vtkMatrix4x4()
    if node.GetParentTransformNode() is not None:
        node.GetParentTransformNode().GetMatrixTransformToWorld(to_world)
    return slicer.util.arrayFromVTKMatrix(to_world)


def smallest_box(roi, ijk_to_world: np.ndarray, class_name: str) -> Box:
    """Return the smallest box in voxel edges (i, j, k) around an ROI, computed from its corners."""
    import slicer

    half = np.array(roi.GetSize()) / 2
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    corners = np.c_[signs * half, np.ones(8)].T
    to_node = slicer.util.arrayFromVTKMatrix(roi.GetObjectToNodeMatrix())
    edges = (np.linalg.inv(ijk_to_world) @ to_world_of(roi) @ to_node @ corners)[:3].T + 0.5
    return Box(class_name, tuple(edges.min(0)), tuple(edges.max(0)))

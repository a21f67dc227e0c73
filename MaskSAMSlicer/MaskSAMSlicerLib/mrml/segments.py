"""From a labelmap to named, coloured segments, in one step that can be undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from MaskSAMCore.labels import Label, terminology_entry
from MaskSAMSlicerLib.mrml.undo import UndoStep
from MaskSAMSlicerLib.mrml.volumes import transform_to_world, volume_from_node

if TYPE_CHECKING:
    from slicer import (
        vtkMRMLScalarVolumeNode,
        vtkMRMLSegmentationNode,
        vtkMRMLTransformableNode,
        vtkSegment,
    )

ADD, REPLACE = "add", "replace"
# Marks segments that a model made, with its name.
MODEL_TAG = "MaskSAM.Model"


@dataclass(frozen=True)
class FoundClass:
    """A class that a run found.

    Attributes:
        label: name, color, codes and value in the labelmap.
        score: mean probability over its voxels, 0 to 1.
        lower, upper: voxel edges (i, j, k) of the smallest box around it.
        voxels: how many there are.
    """

    label: Label
    score: float
    lower: tuple[int, int, int]
    upper: tuple[int, int, int]
    voxels: int


def new_segmentation(
    volume_node: vtkMRMLScalarVolumeNode, part: str = ""
) -> vtkMRMLSegmentationNode:
    """An empty segmentation with the volume's geometry and transform, in the folder of the volume
    in the subject hierarchy; ``part`` names the ROI, where only that was segmented."""
    scene = slicer.mrmlScene
    of_what = f"{volume_node.GetName()} {part}".strip()
    name = scene.GenerateUniqueName(_("{volume} segmentation").format(volume=of_what))
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    volume_item = hierarchy.GetItemByDataNode(volume_node)
    item = hierarchy.GetItemByDataNode(node)
    if volume_item and item:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(volume_item))
    return node


def check_target(
    node: vtkMRMLSegmentationNode | None, volume_node: vtkMRMLScalarVolumeNode
) -> None:
    """Whether segments of a volume can go into a segmentation.

    Raises:
        ValueError: their parent transforms do not fit, or it holds no binary labelmaps.
    """
    # A new segmentation gets the volume's own transform: only the volume itself can be sheared.
    target = volume_node if node is None else node
    try:
        _image_to_segmentation(target, volume_node)
    except ValueError as error:
        if node is None:
            raise
        raise ValueError(_("The output cannot be used: {reason}").format(reason=error)) from error
    if node is None:
        return
    segmentation = node.GetSegmentation()
    if segmentation.GetNumberOfSegments() and (
        segmentation.GetSourceRepresentationName() != _binary_labelmap()
    ):
        raise ValueError(
            _(
                "The segmentation '{name}' is made of surfaces: make its binary labelmap the source"
                " representation in the Segmentations module, or choose another output."
            ).format(name=node.GetName())
        )


def write_segments(
    node: vtkMRMLSegmentationNode,
    volume_node: vtkMRMLScalarVolumeNode,
    labelmap: np.ndarray,
    found: Sequence[FoundClass],
    rule: str,
    model: str,
) -> tuple[UndoStep, list[str]]:
    """Puts the classes of a labelmap into a segmentation; nothing else of it changes.

    Args:
        labelmap: [K, J, I] on the volume's grid.
        rule: "add" gives new segments, with numbered names where a name is taken; "replace" puts
            a class into the segment of its name, if there is one.
        model: noted in the segments.

    Returns:
        The step, to undo it, and the segments' IDs in the order of ``found``.
    """
    segmentation = node.GetSegmentation()
    step = UndoStep(node)
    surfaces = segmentation.ContainsRepresentation(_closed_surface())
    if segmentation.GetNumberOfSegments() == 0:
        segmentation.SetSourceRepresentationName(_binary_labelmap())
    # Voxels of other segments stay: a segment's layer is its own until it is put into it.
    image = _oriented_image(labelmap, found, _image_to_segmentation(node, volume_node))
    ids = []
    was_modifying = node.StartModify()
    try:
        for item in found:
            segment_id = _segment_named(segmentation, item.label.name) if rule == REPLACE else ""
            if segment_id:
                segmentation.SeparateSegmentLabelmap(segment_id)
                segment = segmentation.GetSegment(segment_id)
                segment.RemoveAllRepresentations()
                _fill(segment, item.label, image, model)
            else:
                segment_id = _add_segment(segmentation, item.label, image, model)
            ids.append(segment_id)
    finally:
        node.EndModify(was_modifying)
    segmentation.InvokeEvent(slicer.vtkSegmentation.SourceRepresentationModified)
    if surfaces:
        # Anew for all: without being told so, it makes none for segments that lack one.
        segmentation.CreateRepresentation(_closed_surface(), True)
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    for segment_id in ids:
        node.GetDisplayNode().SetSegmentVisibility(segment_id, True)
    step.watch()
    return step, ids


def replace_voxels(
    node: vtkMRMLSegmentationNode,
    volume_node: vtkMRMLScalarVolumeNode,
    labelmap: np.ndarray,
    classes: Sequence[tuple[Label, FoundClass | None]],
    segment_ids: Mapping[str, str],
    model: str,
    step: UndoStep | None = None,
) -> tuple[UndoStep, dict[str, str]]:
    """Gives some classes other voxels; no other segment changes, nor names and colors.

    Args:
        labelmap: [K, J, I] on the volume's grid.
        classes: with what was found of each; None leaves its segment without voxels.
        segment_ids: the segment of each class by name; a class without one, or whose segment was
            deleted, gets a new one.
        model: noted in new segments.
        step: an earlier step of the same segmentation, to be continued.

    Returns:
        The step, to undo it, and the segments of these classes.
    """
    segmentation = node.GetSegmentation()
    matrix = _image_to_segmentation(node, volume_node)
    surfaces = segmentation.ContainsRepresentation(_closed_surface())
    if step is None:
        step = UndoStep(node)
    else:
        step.save()
    ids = {}
    nothing = np.zeros((1, 1, 1), labelmap.dtype)
    with step.own_change():
        was_modifying = node.StartModify()
        try:
            for label, found in classes:
                segment_id = segment_ids.get(label.name, "")
                segment = segmentation.GetSegment(segment_id) if segment_id else None
                voxels, places = (nothing, []) if found is None else (labelmap, [found])
                image = _oriented_image(voxels, places, matrix)
                if segment is None:
                    if found is None:
                        continue
                    segment_id = _add_segment(segmentation, label, image, model)
                else:
                    segmentation.SeparateSegmentLabelmap(segment_id)
                    segment.RemoveAllRepresentations()
                    segment.AddRepresentation(_binary_labelmap(), image)
                    if found is not None:
                        segment.SetLabelValue(label.value)
                ids[label.name] = segment_id
        finally:
            node.EndModify(was_modifying)
        segmentation.InvokeEvent(slicer.vtkSegmentation.SourceRepresentationModified)
        if surfaces:
            segmentation.CreateRepresentation(_closed_surface(), True)
    step.watch()
    return step, ids


def _add_segment(segmentation: Any, label: Label, image: Any, model: str) -> str:
    segment = slicer.vtkSegment()
    segment.SetName(_unique_name(segmentation, label.name))
    _fill(segment, label, image, model)
    segment_id = segmentation.GenerateUniqueSegmentID(label.name)
    segmentation.AddSegment(segment, segment_id)
    return segment_id


def _fill(segment: vtkSegment, label: Label, image: Any, model: str) -> None:
    segment.SetColor(*label.color)
    segment.SetLabelValue(label.value)
    segment.AddRepresentation(_binary_labelmap(), image)
    segment.SetTag(MODEL_TAG, model)
    terminology = terminology_entry(label)
    if terminology:
        segment.SetTag(segment.GetTerminologyEntryTagName(), terminology)


def _image_to_segmentation(
    node: vtkMRMLTransformableNode, volume_node: vtkMRMLScalarVolumeNode
) -> np.ndarray:
    """From the volume's IJK to the segmentation's own coordinates."""
    ijk_to_world = volume_from_node(volume_node).ijk_to_ras
    matrix = np.linalg.inv(transform_to_world(node)) @ ijk_to_world
    axes = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-4:
        raise ValueError(
            _(
                "the volume's axes are not at right angles in '{name}': harden the transforms, or"
                " resample the volume with the Resample Scalar/Vector/DWI Volume module."
            ).format(name=node.GetName())
        )
    return matrix


def _oriented_image(labelmap: np.ndarray, found: Sequence[FoundClass], matrix: np.ndarray) -> Any:
    """The part of a labelmap that is not empty, as an image that all its segments share."""
    lower = (
        np.min([item.lower for item in found], axis=0).astype(int) if found else np.zeros(3, int)
    )
    upper = np.max([item.upper for item in found], axis=0).astype(int) if found else lower + 1
    part = labelmap[lower[2] : upper[2], lower[1] : upper[1], lower[0] : upper[0]]
    image = slicer.vtkOrientedImageData()
    extent = [value for a, b in zip(lower, upper, strict=True) for value in (int(a), int(b) - 1)]
    image.SetExtent(*extent)
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(matrix))
    kind = vtk.VTK_UNSIGNED_CHAR if labelmap.dtype == np.uint8 else vtk.VTK_UNSIGNED_SHORT
    scalars = numpy_to_vtk(np.ascontiguousarray(part).ravel(), deep=True, array_type=kind)
    image.GetPointData().SetScalars(scalars)
    return image


def _segment_named(segmentation: Any, name: str) -> str:
    """The ID of the segment of exactly this name; Slicer's own search ignores case."""
    for segment_id in segmentation.GetSegmentIDs():
        if segmentation.GetSegment(segment_id).GetName() == name:
            return segment_id
    return ""


def _unique_name(segmentation: Any, name: str) -> str:
    candidate, number = name, 1
    while _segment_named(segmentation, candidate):
        number += 1
        candidate = f"{name} {number}"
    return candidate


def _binary_labelmap() -> str:
    return slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()


def _closed_surface() -> str:
    return slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()

"""Segments with names, colors and codes from a labelmap, written in one undoable step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from MaskSAMCore.geometry import Volume
from MaskSAMCore.labels import Label
from MaskSAMCore.terminology import terminology_entry, terminology_of
from MaskSAMSlicerLib.mrml.run_record import checksums
from MaskSAMSlicerLib.mrml.undo import UndoHistory
from MaskSAMSlicerLib.mrml.volumes import is_node, is_orthogonal, transform_to_world

if TYPE_CHECKING:
    from slicer import (
        vtkMRMLScalarVolumeNode,
        vtkMRMLSegmentationNode,
        vtkMRMLTransformableNode,
        vtkSegment,
        vtkSegmentation,
    )

ADD, REPLACE = "add", "replace"
# Segment tag with the name of the model that made the segment.
MODEL_TAG = "MaskSAM.Model"
# Cerebrospinal fluid encloses the brain, so the fluid is translucent in 3D views.
_ENCLOSING = ("SCT", "65216001")
_ENCLOSING_OPACITY = 0.15


@dataclass(frozen=True)
class FoundClass:
    """A class that a run found.

    Attributes:
        label: name, color, codes and value in the labelmap.
        confidence: mean probability of the class's voxels, 0 to 1.
        lower, upper: voxel edges (i, j, k) of the smallest box around the class.
        voxels: number of voxels.
        expected_dice: expected Dice; None if it was not estimated.
        expected_dice_low: bound that the Dice exceeds in nine of ten cases; None if it was not
            estimated.
        weakest_place: point in the least certain slice, in voxel edges (i, j, k); None if it was
            not estimated.
    """

    label: Label
    confidence: float
    lower: tuple[int, int, int]
    upper: tuple[int, int, int]
    voxels: int
    expected_dice: float | None = None
    expected_dice_low: float | None = None
    weakest_place: tuple[float, float, float] | None = None


class ClassVoxels(NamedTuple):
    """New voxels of a class.

    Attributes:
        label: name, color, codes and value in the labelmap.
        labelmap: integers [K, J, I] on the volume's grid.
        box: lower and upper voxel edges (i, j, k) of the smallest box around the class; None if it
            has no voxels.
    """

    label: Label
    labelmap: np.ndarray
    box: tuple[Sequence[int], Sequence[int]] | None


def new_segmentation(
    volume_node: vtkMRMLScalarVolumeNode, roi_name: str = ""
) -> vtkMRMLSegmentationNode:
    """Add an empty segmentation with a volume's geometry, transform and folder.

    Args:
        volume_node: the volume.
        roi_name: name of the ROI that is segmented; empty for the whole volume.
    """
    scene = slicer.mrmlScene
    segmented = f"{volume_node.GetName()} {roi_name}".strip()
    name = scene.GenerateUniqueName(_("{volume} segmentation").format(volume=segmented))
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


def check_segmentation(what: object) -> None:
    """Check that an object is a segmentation node.

    Raises:
        ValueError: the object is something else.
    """
    if not is_node(what, "vtkMRMLSegmentationNode"):
        raise ValueError(_("{what!r} is not a segmentation node: choose one.").format(what=what))


def check_target(
    node: vtkMRMLSegmentationNode | None,
    volume_node: vtkMRMLScalarVolumeNode,
    volume: Volume,
) -> None:
    """Check that segments of a volume can be written into a segmentation.

    Args:
        node: the segmentation; None for a new one.
        volume_node: the volume.
        volume: voxels and geometry of the volume.

    Raises:
        ValueError: the node is not a segmentation, is made of surfaces, or has unsuitable parent
            transforms.
    """
    if node is not None:
        check_segmentation(node)
    # A new segmentation gets the volume's own transform: only the volume itself can be sheared.
    target = volume_node if node is None else node
    try:
        image_to_segmentation(target, volume)
    except ValueError as error:
        if node is None:
            raise
        raise ValueError(_("The output cannot be used. {reason}").format(reason=error)) from error
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
    volume: Volume,
    labelmap: np.ndarray,
    found: Sequence[FoundClass],
    rule: str,
    model: str,
) -> tuple[UndoHistory, list[str]]:
    """Write the classes of a labelmap into a segmentation; other segments stay as they are.

    Args:
        node: the segmentation.
        volume: the segmented volume.
        labelmap: integers [K, J, I] on the volume's grid.
        found: classes to write.
        rule: "add" makes new segments, with a number where the name is taken; "replace" writes a
            class into the segment of its name, if there is one.
        model: name of the model, noted in the segments.

    Returns:
        Undo history of the segmentation, and the segment IDs in the order of ``found``.
    """
    segmentation = node.GetSegmentation()
    history = UndoHistory(node)
    matrix = image_to_segmentation(node, volume)
    known = set(segmentation.GetSegmentIDs())
    with _segments_changed(node):
        ids = fill_segments(segmentation, matrix, labelmap, found, rule, model)
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    for item, segment_id in zip(found, ids, strict=True):
        display.SetSegmentVisibility(segment_id, True)
        if segment_id not in known and _encloses_others(item.label):
            display.SetSegmentOpacity3D(segment_id, _ENCLOSING_OPACITY)
    history.watch()
    return history, ids


def fill_segments(
    segmentation: vtkSegmentation,
    matrix: np.ndarray,
    labelmap: np.ndarray,
    found: Sequence[FoundClass],
    rule: str,
    model: str,
) -> list[str]:
    """Write the classes of a labelmap into segments; other segments stay as they are.

    Args:
        segmentation: the segments.
        matrix: 4 x 4 matrix from the labelmap's IJK to the segmentation's own coordinates.
        labelmap: integers [K, J, I].
        found: classes to write.
        rule: "add" or "replace", see :func:`write_segments`.
        model: name of the model, noted in the segments.

    Returns:
        Segment IDs in the order of ``found``.
    """
    if segmentation.GetNumberOfSegments() == 0:
        segmentation.SetSourceRepresentationName(_binary_labelmap())
    # Voxels of other segments stay because the new segments do not share their layer.
    boxes = [(item.lower, item.upper) for item in found]
    image = _oriented_image(labelmap, boxes, matrix)
    ids = []
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
    return ids


def replace_voxels(
    node: vtkMRMLSegmentationNode,
    volume: Volume,
    classes: Sequence[ClassVoxels],
    segment_ids: Mapping[str, str],
    model: str,
    history: UndoHistory | None = None,
) -> tuple[UndoHistory, dict[str, str]]:
    """Replace the voxels of some classes; their names and colors, and other segments, stay.

    Args:
        node: the segmentation.
        volume: the segmented volume.
        classes: the classes; one without voxels empties its segment.
        segment_ids: segment ID of each class by name; a class without a segment gets a new one.
        model: name of the model, noted in new segments.
        history: undo history to continue; None for a new one.

    Returns:
        Undo history of the segmentation, and the segment IDs of these classes by name.
    """
    segmentation = node.GetSegmentation()
    matrix = image_to_segmentation(node, volume)
    if history is None:
        history = UndoHistory(node)
    else:
        history.save()
    ids = {}
    with history.own_change(), _segments_changed(node):
        for label, labelmap, box in classes:
            segment_id = segment_ids.get(label.name, "")
            segment = segmentation.GetSegment(segment_id) if segment_id else None
            voxels = np.zeros((1, 1, 1), labelmap.dtype) if box is None else labelmap
            boxes = [] if box is None else [box]
            # The image keeps this class only: Slicer would give the value of another class, and so
            # the voxels of that class, to the next new segment.
            image = _oriented_image(voxels, boxes, matrix, only=label.value)
            if segment is None:
                if box is None:
                    continue
                segment_id = _add_segment(segmentation, label, image, model)
            else:
                segmentation.SeparateSegmentLabelmap(segment_id)
                segment.RemoveAllRepresentations()
                segment.AddRepresentation(_binary_labelmap(), image)
                if box is not None:
                    segment.SetLabelValue(label.value)
            ids[label.name] = segment_id
    history.watch()
    return history, ids


@contextmanager
def _segments_changed(node: vtkMRMLSegmentationNode) -> Iterator[None]:
    """Announce all changes inside the ``with`` block at once, and renew existing surfaces."""
    segmentation = node.GetSegmentation()
    has_surfaces = segmentation.ContainsRepresentation(_closed_surface())
    was_modifying = node.StartModify()
    try:
        yield
    finally:
        node.EndModify(was_modifying)
    segmentation.InvokeEvent(slicer.vtkSegmentation.SourceRepresentationModified)
    if has_surfaces:
        # The conversion is forced, because otherwise segments without a surface get none.
        segmentation.CreateRepresentation(_closed_surface(), True)


def _encloses_others(label: Label) -> bool:
    kind = None if label.terminology is None else label.terminology.type
    return kind is not None and (kind.scheme, kind.value) == _ENCLOSING


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


def labelmap_of(
    node: vtkMRMLSegmentationNode,
    volume_node: vtkMRMLScalarVolumeNode,
    values: Sequence[tuple[str, int]],
) -> np.ndarray:
    """Return a labelmap [K, J, I] of segments on a volume's grid.

    Args:
        node: the segmentation.
        volume_node: the volume.
        values: segment ID and value of each segment; where segments overlap, the later one gets the
            voxels.

    Raises:
        ValueError: the segments cannot be put on the volume's grid.
    """
    ids = vtk.vtkStringArray()
    for segment_id, _value in values:
        ids.InsertNextValue(segment_id)
    scene = slicer.mrmlScene
    target = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", scene.GenerateUniqueName("temp"))
    target.SetHideFromEditors(True)
    try:
        logic = slicer.modules.segmentations.logic()
        if values and not logic.ExportSegmentsToLabelmapNode(node, ids, target, volume_node):
            raise ValueError(
                _("The segments of '{name}' cannot be put on the grid of the volume.").format(
                    name=node.GetName()
                )
            )
        table = np.array([0, *(value for _segment_id, value in values)])
        table = table.astype(np.min_scalar_type(table.max()))
        if not values:
            return np.zeros(slicer.util.arrayFromVolume(volume_node).shape, table.dtype)
        return table[slicer.util.arrayFromVolume(target)]
    finally:
        display = target.GetDisplayNode()
        if display is not None:
            scene.RemoveNode(display.GetColorNode())
        scene.RemoveNode(target)


def by_layer(node: vtkMRMLSegmentationNode, segment_ids: Iterable[str]) -> list[list[str]]:
    """Return segment IDs in groups that share a layer, in which no two segments overlap."""
    segmentation = node.GetSegmentation()
    groups: dict[int, list[str]] = {}
    for segment_id in segment_ids:
        groups.setdefault(segmentation.GetLayerIndex(segment_id), []).append(segment_id)
    return list(groups.values())


def segment_checksums(
    node: vtkMRMLSegmentationNode,
    volume_node: vtkMRMLScalarVolumeNode,
    segment_ids: Iterable[str],
) -> dict[str, int]:
    """Return the checksum of the voxels of each segment, by its ID; 0 for one without voxels.

    Args:
        node: the segmentation.
        volume_node: the volume on whose grid the voxels are taken.
        segment_ids: IDs of the segments, which may overlap.

    Raises:
        ValueError: the segments cannot be put on the volume's grid.
    """
    found: dict[str, int] = {}
    for ids in by_layer(node, segment_ids):
        values = [(one, value) for value, one in enumerate(ids, 1)]
        sums = checksums(labelmap_of(node, volume_node, values))
        found.update({one: sums.get(value, 0) for one, value in values})
    return found


def described(label: Label, segment: vtkSegment) -> Label:
    """Return a label with the name, color and codes that its segment has now."""
    entry = vtk.reference("")
    tagged = segment.GetTag(segment.GetTerminologyEntryTagName(), entry)
    red, green, blue = segment.GetColor()
    return replace(
        label,
        name=segment.GetName() or label.name,
        color=(red, green, blue),
        terminology=(terminology_of(str(entry)) if tagged else None) or label.terminology,
    )


def image_to_segmentation(node: vtkMRMLTransformableNode, volume: Volume) -> np.ndarray:
    """Return the 4 x 4 matrix from the volume's IJK to the segmentation's own coordinates.

    Raises:
        ValueError: a parent transform is not linear, or the volume's axes are not at right angles
            in the segmentation's coordinates.
    """
    matrix = np.linalg.inv(transform_to_world(node)) @ volume.ijk_to_ras
    if not is_orthogonal(matrix[:3, :3]):
        raise ValueError(
            _(
                "The volume's axes are not at right angles in '{name}': harden the transforms, or"
                " resample the volume with the Resample Scalar/Vector/DWI Volume module."
            ).format(name=node.GetName())
        )
    return matrix


def _oriented_image(
    labelmap: np.ndarray,
    boxes: Sequence[tuple[Sequence[int], Sequence[int]]],
    matrix: np.ndarray,
    only: int | None = None,
) -> Any:
    """Return the part of a labelmap that boxes cover, as one image for all its segments.

    Args:
        labelmap: integers [K, J, I].
        boxes: voxel edges (i, j, k) of the boxes.
        matrix: 4 x 4 matrix from the labelmap's IJK to the segmentation's own coordinates.
        only: value of the only class to keep in the image; None for all.
    """
    edges = np.array(boxes or [((0, 0, 0), (1, 1, 1))], dtype=int)
    lower, upper = edges[:, 0].min(0), edges[:, 1].max(0)
    part = labelmap[lower[2] : upper[2], lower[1] : upper[1], lower[0] : upper[0]]
    if only is not None:
        part = np.where(part == only, part, part.dtype.type(0))
    image = slicer.vtkOrientedImageData()
    extent = [value for a, b in zip(lower, upper, strict=True) for value in (int(a), int(b) - 1)]
    image.SetExtent(*extent)
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(matrix))
    kind = vtk.VTK_UNSIGNED_CHAR if labelmap.dtype == np.uint8 else vtk.VTK_UNSIGNED_SHORT
    scalars = numpy_to_vtk(np.ascontiguousarray(part).ravel(), deep=True, array_type=kind)
    image.GetPointData().SetScalars(scalars)
    return image


def _segment_named(segmentation: Any, name: str) -> str:
    """Return the ID of the segment of exactly this name; Slicer's own search ignores case."""
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

"""Volumes with the segments that the user has corrected, as cases that a model learns from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import slicer
from slicer.i18n import tr as _

from MaskSAMCore.geometry import Box, Volume, crop
from MaskSAMCore.labels import Label, is_reserved
from MaskSAMSlicerLib.mrml.channels import not_on_one_grid, on_other_grids
from MaskSAMSlicerLib.mrml.run_record import (
    UNKNOWN_CHECKSUM,
    SegmentationRecord,
    refers_to,
    volumes_of,
)
from MaskSAMSlicerLib.mrml.segments import (
    by_layer,
    described,
    labelmap_of,
    segment_checksums,
)
from MaskSAMSlicerLib.mrml.sequences import check_frame
from MaskSAMSlicerLib.mrml.volumes import is_image, volume_from_node
from MaskSAMSlicerLib.worker.jobs import CorrectedCase

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode, vtkSegment

# States of a class in a segmentation.
CHANGED = "changed"  # the user has changed the voxels of the model's segment
ADDED = "added"  # no run of a model has made the segment
REMOVED = "removed"  # the user has removed the segment that the model made
UNCHANGED = "unchanged"
ABSENT = "absent"  # the model found nothing, and there is no segment
CORRECTED = frozenset({CHANGED, ADDED, REMOVED})


@dataclass(frozen=True)
class ClassState:
    """A class in a segmentation: a segment, or a class of the model without one.

    Attributes:
        name: name of the segment, else of the class.
        color: red, green and blue, each 0 to 1.
        state: CHANGED, ADDED, REMOVED, UNCHANGED or ABSENT.
    """

    name: str
    color: tuple[float, float, float]
    state: str


@dataclass(frozen=True)
class CorrectedNodes:
    """A segmentation in the scene with its volumes and its checked classes.

    Attributes:
        volumes: a volume for each channel of the model.
        segmentation: the segmentation.
        checked: names of the segments that are right, and of classes that are truly absent; None
            for all segments.
    """

    volumes: Sequence[vtkMRMLScalarVolumeNode]
    segmentation: vtkMRMLSegmentationNode
    checked: Collection[str] | None = None


def images_of(node: vtkMRMLSegmentationNode) -> list[vtkMRMLScalarVolumeNode]:
    """Return the volumes that a segmentation belongs to; empty if unknown.

    These are the volumes that a run has segmented, else the volume that defines the geometry.
    """
    if SegmentationRecord.load(node) is not None:
        try:
            return volumes_of(node)
        except ValueError:  # a volume is no longer in the scene
            return []
    volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    return [volume] if is_image(volume) else []


def is_corrected(node: vtkMRMLSegmentationNode) -> bool:
    """Return whether the user has corrected the result of a run on a volume in the scene."""
    record, volumes = SegmentationRecord.load(node), images_of(node)
    if record is None or not any(record.written.values()) or not volumes:
        return False
    try:
        states = class_states(node, volumes[0], ())
    except ValueError:  # its segments cannot be put on the volume's grid
        return False
    return any(one.state in CORRECTED for one in states)


def class_states(
    node: vtkMRMLSegmentationNode,
    volume_node: vtkMRMLScalarVolumeNode,
    labels: Sequence[Label],
) -> list[ClassState]:
    """Return the classes of a segmentation: its segments, then classes without a segment.

    Args:
        node: the segmentation.
        volume_node: the volume that it belongs to.
        labels: classes of the model.

    Raises:
        ValueError: the segments cannot be put on the volume's grid.
    """
    segmentation = node.GetSegmentation()
    record = SegmentationRecord.load(node)
    ids = list(segmentation.GetSegmentIDs())
    states = []
    for segment_id, state in _segment_states(node, volume_node):
        segment = segmentation.GetSegment(segment_id)
        states.append(ClassState(segment.GetName(), tuple(segment.GetColor()), state))
    present = {one.name.casefold() for one in states}
    # A class whose segment was removed by an undo has the checksum of no voxels.
    made = {} if record is None else record.segment_ids
    lost = {name for name, one in made.items() if one not in ids and record.written.get(name) != 0}
    missing = {label.name: label.color for label in labels}
    missing.update({name: (0.5, 0.5, 0.5) for name in lost if name not in missing})
    for name, color in missing.items():
        if name.casefold() not in present:
            states.append(ClassState(name, color, REMOVED if name in lost else ABSENT))
    return states


def _segment_states(
    node: vtkMRMLSegmentationNode, volume_node: vtkMRMLScalarVolumeNode
) -> list[tuple[str, str]]:
    """Return ID and state of each segment: ADDED, CHANGED or UNCHANGED.

    Raises:
        ValueError: the segments cannot be put on the volume's grid.
    """
    segmentation = node.GetSegmentation()
    record = SegmentationRecord.load(node)
    same: dict[str, bool] = {}
    for run in [] if record is None else record.written_by_run:
        same = {**_unchanged(node, volume_node, run), **same}
    classes = {} if record is None else {one: name for name, one in record.segment_ids.items()}
    states = []
    for segment_id in segmentation.GetSegmentIDs():
        state, own = ADDED, classes.get(segment_id, "")
        if segment_id in same:
            segment = segmentation.GetSegment(segment_id)
            swapped = _is_swapped(segment, own, classes.values())
            state = UNCHANGED if same[segment_id] and not swapped else CHANGED
        states.append((segment_id, state))
    return states


def _unchanged(
    node: vtkMRMLSegmentationNode, volume_node: vtkMRMLScalarVolumeNode, written: Mapping[str, int]
) -> dict[str, bool]:
    """Return, by segment ID, whether the segments of a run still have the voxels that it wrote.

    The segments may overlap those of other runs and those that the user has added.

    Args:
        node: the segmentation.
        volume_node: the volume that it belongs to.
        written: checksum of the voxels last written, by segment ID.

    Raises:
        ValueError: the segments cannot be put on the volume's grid.
    """
    present = [one for one in node.GetSegmentation().GetSegmentIDs() if one in written]
    known = [one for one in present if written[one] != UNKNOWN_CHECKSUM]
    if not _is_as_segmented(node, volume_node):  # the checksums are of another volume's voxels
        known = []
    sums = segment_checksums(node, volume_node, known)
    return {one: one not in sums or written[one] == sums[one] for one in present}


def _is_as_segmented(node: vtkMRMLSegmentationNode, volume_node: vtkMRMLScalarVolumeNode) -> bool:
    """Return whether a run has segmented a volume, which was not cropped or resampled since."""
    record = SegmentationRecord.load(node)
    if record is None or not refers_to(node, volume_node):
        return False
    image = volume_node.GetImageData()
    return image is not None and record.shape in ([], list(image.GetDimensions())[::-1])


def _is_swapped(segment: vtkSegment, own: str, classes: Collection[str]) -> bool:
    """Return whether the user has given a class's segment the name of another class.

    Args:
        segment: the segment.
        own: name of the segment's class; empty if the last run has not made the segment.
        classes: names of all classes of the last run.
    """
    name = segment.GetName().casefold()
    return own.casefold() not in ("", name) and name in {one.casefold() for one in classes}


def corrected_case(nodes: CorrectedNodes, labels: Sequence[Label]) -> CorrectedCase:
    """Return the image and the checked segments of a corrected segmentation, on one grid.

    Parent transforms are applied, as they are for a run. If the run was limited to an ROI, image
    and segments are cropped to the ROI, enlarged by what was drawn outside.

    Args:
        nodes: the segmentation, its volumes and the checked classes.
        labels: classes of the model; class names are spelled as in the model.

    Raises:
        ValueError: a volume, the segmentation or a checked name cannot be used, or nothing is
            checked; the message says what to do.
    """
    node = nodes.segmentation
    check_frame(node, nodes.volumes[0])
    channels = [volume_from_node(volume) for volume in nodes.volumes]
    others = on_other_grids(channels)
    if others:
        raise ValueError(not_on_one_grid(channels[0], others))
    spelling = {label.name.casefold(): label.name for label in labels}

    def spelled(name: str) -> str:
        return spelling.get(name.casefold(), name)

    segmentation = node.GetSegmentation()
    segments = [
        (segment_id, spelled(segmentation.GetSegment(segment_id).GetName()))
        for segment_id in segmentation.GetSegmentIDs()
    ]
    names = [name for _segment_id, name in segments]
    checked = names if nodes.checked is None else [spelled(name) for name in nodes.checked]
    if not checked:
        raise ValueError(
            _("Tick the segments of '{name}' that are right.").format(name=node.GetName())
        )
    for name in checked:
        if is_reserved(name):
            raise ValueError(
                _("No class can be named '{name}': rename this segment of '{node}'.").format(
                    name=name, node=node.GetName()
                )
            )
        if names.count(name) > 1:
            raise ValueError(
                _("'{node}' has two segments named '{name}': rename or untick one.").format(
                    node=node.GetName(), name=name
                )
            )
        if name not in names and name not in spelling.values():
            raise ValueError(
                _("'{node}' has no segment named '{name}', nor has the model such a class.").format(
                    node=node.GetName(), name=name
                )
            )
    # A checked class without a segment is truly absent.
    known = {label.name: label for label in labels}
    ids = {name: segment_id for segment_id, name in segments}
    classes = []
    for value, name in enumerate(dict.fromkeys(checked), 1):
        label = replace(known.get(name, Label(value, name, (0.5, 0.5, 0.5))), value=value)
        if name in ids:
            label = replace(described(label, segmentation.GetSegment(ids[name])), name=name)
        classes.append(label)
    drawn = [(ids[label.name], label.value) for label in classes if label.name in ids]
    states = _segment_states(node, nodes.volumes[0])
    changed = {segment_id for segment_id, state in states if state in CORRECTED}
    labelmap = _labelmap(node, nodes.volumes[0], drawn, changed)
    channels, labelmap = _inside_roi(node, nodes.volumes[0], channels, labelmap)
    names = [label.name for label in classes]
    corrected = [name for name in names if ids.get(name) in changed]
    return CorrectedCase(nodes.volumes[0].GetName(), channels, labelmap, classes, names, corrected)


def _labelmap(
    node: vtkMRMLSegmentationNode,
    volume_node: vtkMRMLScalarVolumeNode,
    values: Sequence[tuple[str, int]],
    corrected: Collection[str],
) -> np.ndarray:
    """Return a labelmap [K, J, I] of segments on a volume's grid.

    Where a corrected segment overlaps an unchanged one, the corrected segment gets the voxels.

    Args:
        node: the segmentation.
        volume_node: the volume that it belongs to.
        values: segment IDs with their values in the labelmap.
        corrected: IDs of the corrected segments.

    Raises:
        ValueError: two corrected segments overlap, or segments cannot be put on the grid.
    """
    if len(by_layer(node, dict(values))) < 2:  # no two segments of a layer overlap
        return labelmap_of(node, volume_node, values)
    numbers = dict(sorted(values, key=lambda one: one[0] in corrected))
    labelmap = labelmap_of(node, volume_node, list(numbers.items()))
    layers = by_layer(node, [one for one in numbers if one in corrected])
    for ids in layers if len(layers) > 1 else ():
        part = labelmap_of(node, volume_node, [(one, numbers[one]) for one in ids])
        shared = (part > 0) & (part != labelmap)
        if shared.any():
            segmentation = node.GetSegmentation()
            names = {value: segmentation.GetSegment(one).GetName() for one, value in values}
            first = np.unravel_index(shared.argmax(), shared.shape)
            raise ValueError(
                _(
                    "'{one}' and '{other}' of '{name}' overlap: erase the overlap from one of them,"
                    " or untick one."
                ).format(
                    one=names[int(part[first])],
                    other=names[int(labelmap[first])],
                    name=node.GetName(),
                )
            )
    return labelmap


def _inside_roi(
    node: vtkMRMLSegmentationNode,
    volume_node: vtkMRMLScalarVolumeNode,
    channels: list[Volume],
    labelmap: np.ndarray,
) -> tuple[list[Volume], np.ndarray]:
    """Crop channels and labelmap to the ROI of the run, enlarged by what was drawn outside.

    Raises:
        ValueError: the ROI is of another volume, or of the volume in another size.
    """
    record = SegmentationRecord.load(node)
    if record is None or record.roi is None:
        return channels, labelmap
    if not refers_to(node, volume_node):
        raise ValueError(
            _(
                "'{name}' was segmented in an ROI of another volume than '{volume}': learn from it"
                " with that volume, or segment '{volume}' itself."
            ).format(name=node.GetName(), volume=volume_node.GetName())
        )
    if not _is_as_segmented(node, volume_node):
        raise ValueError(
            _(
                "'{name}' was segmented in an ROI of '{volume}', which has another size now:"
                " segment '{volume}' as it is now."
            ).format(name=node.GetName(), volume=volume_node.GetName())
        )
    lower, upper = (np.array(edges, dtype=float) for edges in record.roi)
    drawn = np.argwhere(labelmap)[:, ::-1]
    if len(drawn):
        lower, upper = np.minimum(lower, drawn.min(0)), np.maximum(upper, drawn.max(0) + 1)
    box = Box("", tuple(lower.tolist()), tuple(upper.tolist())).clipped(labelmap.shape).rounded()
    return [crop(channel, box) for channel in channels], labelmap[box.slices()]


def content_time(node: vtkMRMLSegmentationNode) -> tuple[int, int]:
    """Return a key that grows whenever a segment has changed, been added or removed."""
    segmentation = node.GetSegmentation()
    segments = [segmentation.GetSegment(one) for one in segmentation.GetSegmentIDs()]
    names = slicer.vtkSegmentationConverter
    kind = names.GetSegmentationBinaryLabelmapRepresentationName()
    images = [segment.GetRepresentation(kind) for segment in segments]
    times = [one.GetMTime() for one in (*segments, *images) if one is not None]
    return len(segments), max(times, default=0)

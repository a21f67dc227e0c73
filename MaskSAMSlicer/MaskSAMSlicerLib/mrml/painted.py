"""Painted voxels of classes without a box, kept by updates that overwrite.

A segment of a class without a box changes only where a class with a box takes voxels or gives them
back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from MaskSAMSlicerLib.mrml.run_record import SegmentationRecord
from MaskSAMSlicerLib.mrml.segments import ClassVoxels, labelmap_of, segment_checksums

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode


def with_painted_voxels(
    node: vtkMRMLSegmentationNode,
    volume_node: vtkMRMLScalarVolumeNode,
    record: SegmentationRecord,
    changes: Sequence[ClassVoxels],
    boxed: Collection[str],
) -> list[ClassVoxels]:
    """Return changes that keep what the user has painted into classes without a box.

    Args:
        node: the segmentation.
        volume_node: the segmented volume.
        record: record of the run that made the segmentation, with checksums of the voxels written.
        changes: new voxels of classes.
        boxed: casefolded names of the classes that have or had a box; all of their voxels are
            replaced.

    Raises:
        ValueError: the segments cannot be put on the volume's grid.
    """
    present = set(node.GetSegmentation().GetSegmentIDs())
    ids = {name: one for name, one in record.segment_ids.items() if one in present}
    others = [
        one for one in changes if one.label.name.casefold() not in boxed and one.label.name in ids
    ]
    if not others:
        return list(changes)
    names = [one.label.name for one in others]
    current = segment_checksums(node, volume_node, [ids[name] for name in names])
    kept = {name for name in names if current[ids[name]] != record.written.get(name, 0)}
    if not kept:
        return list(changes)
    boxed_voxels = _boxed_voxels(node, volume_node, changes, boxed, ids)
    return [
        _merged(one, boxed_voxels, labelmap_of(node, volume_node, [(ids[one.label.name], 1)]) > 0)
        if one.label.name in kept
        else one
        for one in changes
    ]


def _boxed_voxels(
    node: vtkMRMLSegmentationNode,
    volume_node: vtkMRMLScalarVolumeNode,
    changes: Sequence[ClassVoxels],
    boxed: Collection[str],
    ids: Mapping[str, str],
) -> np.ndarray:
    """Return a bool mask [K, J, I] of the voxels that classes with a box have or had."""
    had = [(one, 1) for name, one in ids.items() if name.casefold() in boxed]
    boxed_voxels = labelmap_of(node, volume_node, had) > 0
    for one in changes:
        if one.label.name.casefold() in boxed and one.box is not None:
            boxed_voxels |= one.labelmap == one.label.value
    return boxed_voxels


def _merged(change: ClassVoxels, boxed_voxels: np.ndarray, painted: np.ndarray) -> ClassVoxels:
    """Return a change with its new voxels where `boxed_voxels`, else with the painted ones.

    Args:
        change: new voxels of the class.
        boxed_voxels: bool [K, J, I], see :func:`_boxed_voxels`.
        painted: bool [K, J, I], voxels that the segment has now.
    """
    value = change.label.value
    voxels = np.where(boxed_voxels, change.labelmap == value, painted)
    places = np.argwhere(voxels)[:, ::-1]
    if not len(places):
        return ClassVoxels(change.label, change.labelmap, None)
    labelmap = voxels.astype(change.labelmap.dtype) * change.labelmap.dtype.type(value)
    return ClassVoxels(change.label, labelmap, (places.min(0), places.max(0) + 1))

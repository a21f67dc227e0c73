"""Record of the run that made a segmentation, so that its boxes can be changed later.

The record is an attribute of the segmentation node, with references to the volumes, so that it is
saved with the scene.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from slicer.i18n import tr as _

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode

_ATTRIBUTE = "MaskSAM.Run"
_VOLUME = "MaskSAM.Volume"
# Checksum of a segment whose voxels cannot be compared: a segment of a run on another volume or, in
# scenes of earlier versions, a segment that an undo or redo has restored.
UNKNOWN_CHECKSUM = -1

Edges = tuple[list[float], list[float]]


@dataclass
class SegmentationRecord:
    """Record of the run that made a segmentation, with what a later update needs.

    Attributes:
        model: name of the model in the catalog.
        device: device that the user asked for.
        session: key under which the worker may still hold the volume open.
        roi: segmented part in voxel edges (i, j, k) of the volume; None for the whole volume.
        proposals: bounding box of each class that was found, in voxel edges (i, j, k); the user
            starts from these boxes.
        segment_ids: segment ID of each class.
        written: checksum of the voxels last written for each class.
        edited: classes whose voxels come from the user's boxes.
        overwrote: whether classes with boxes were allowed to take voxels from others.
        resample: whether channels were resampled to the grid of the first one.
        earlier: checksums of the voxels last written by earlier runs, by segment ID; one dictionary
            for each run, the latest first.
        earlier_edited: whether segments of earlier runs have voxels from the user's boxes.
        frame: index value of the frame that the volume showed; empty for a volume without frames.
        shape: number of voxels of the volume along K, J, I; empty in scenes of earlier versions.
    """

    model: str
    device: str = "auto"
    session: str = ""
    roi: Edges | None = None
    proposals: dict[str, Edges] = field(default_factory=dict)
    segment_ids: dict[str, str] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    edited: list[str] = field(default_factory=list)
    overwrote: bool = False
    resample: bool = False
    earlier: list[dict[str, int]] = field(default_factory=list)
    earlier_edited: bool = False
    frame: str = ""
    shape: list[int] = field(default_factory=list)

    @property
    def written_by_run(self) -> list[dict[str, int]]:
        """Checksums of the voxels last written, by segment ID, of this run and each earlier one."""
        default = 0 if self.written else UNKNOWN_CHECKSUM
        own = {one: self.written.get(name, default) for name, one in self.segment_ids.items()}
        return [own, *self.earlier]

    def take_over(self, before: SegmentationRecord | None, same_volume: bool) -> None:
        """Take over the segments of earlier runs that this run has not written.

        Args:
            before: record of the previous run; None if there is none.
            same_volume: whether the previous run was on the same volume; checksums of another
                volume become unknown.
        """
        own = set(self.segment_ids.values())
        runs = [] if before is None else before.written_by_run
        others = ({one: run[one] for one in run if one not in own} for run in runs)
        self.earlier = [run if same_volume else _unknown(run) for run in others if run]
        edited = before is not None and (bool(before.edited) or before.earlier_edited)
        self.earlier_edited = edited and bool(self.earlier)

    def save(
        self,
        node: vtkMRMLSegmentationNode,
        volumes: Sequence[vtkMRMLScalarVolumeNode] = (),
    ) -> None:
        """Save the record in a segmentation node.

        Args:
            node: the segmentation.
            volumes: the segmented volumes; empty to keep the references of the node.
        """
        node.SetAttribute(_ATTRIBUTE, json.dumps(asdict(self)))
        if volumes:
            refer_to_volumes(node, volumes)

    @classmethod
    def load(cls, node: vtkMRMLSegmentationNode | None) -> SegmentationRecord | None:
        """Return the record of a segmentation; None without a record that this version can read."""
        text = None if node is None else node.GetAttribute(_ATTRIBUTE)
        if not text:
            return None
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError):
            return None

    @classmethod
    def require(cls, node: vtkMRMLSegmentationNode | None) -> SegmentationRecord:
        """Return the record of a segmentation.

        Raises:
            ValueError: the segmentation was not made by MaskSAM.
        """
        record = cls.load(node)
        if record is None:
            raise ValueError(_("Segment a volume first: boxes change the result of a run."))
        return record


def _unknown(totals: dict[str, int]) -> dict[str, int]:
    """Return the checksums of a run on another volume as unknown.

    A checksum of 0 stays, because it means no voxels on any volume.
    """
    return {name: UNKNOWN_CHECKSUM if total else 0 for name, total in totals.items()}


def refer_to_volumes(
    node: vtkMRMLSegmentationNode, volumes: Sequence[vtkMRMLScalarVolumeNode]
) -> None:
    """Note the volumes that a segmentation was made from."""
    node.RemoveNodeReferenceIDs(_VOLUME)
    for volume in volumes:
        node.AddNodeReferenceID(_VOLUME, volume.GetID())


def refers_to(node: vtkMRMLSegmentationNode, volume: vtkMRMLScalarVolumeNode) -> bool:
    """Return whether a segmentation was made from a volume, as its first channel."""
    return node.GetNthNodeReferenceID(_VOLUME, 0) == volume.GetID()


def volumes_of(node: vtkMRMLSegmentationNode) -> list[vtkMRMLScalarVolumeNode]:
    """Return the volumes that a segmentation was made from.

    Raises:
        ValueError: one of them is no longer in the scene.
    """
    count = node.GetNumberOfNodeReferences(_VOLUME)
    found = [node.GetNthNodeReference(_VOLUME, index) for index in range(count)]
    if not found or None in found:
        raise ValueError(
            _("The volume of '{name}' is no longer in the scene: segment a volume first.").format(
                name=node.GetName()
            )
        )
    return found


def segmented_volume(
    node: vtkMRMLSegmentationNode | None,
) -> vtkMRMLScalarVolumeNode | None:
    """Return the first volume of the run that made a segmentation; None without such a run, or if
    the volume is no longer in the scene."""
    if SegmentationRecord.load(node) is None:
        return None
    try:
        return volumes_of(node)[0]
    except ValueError:
        return None


def same_region(one: Edges | None, other: Edges | None) -> bool:
    """Return whether two ROIs cover the same part of a volume.

    The overlap must exceed half of the smaller ROI: users move an ROI a little between runs, but
    far for another organ or the other side.

    Args:
        one, other: ROIs in voxel edges (i, j, k); None for the whole volume.
    """
    if one is None or other is None:
        return one is other
    (a, b), (c, d) = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    shared = np.clip(np.minimum(b, d) - np.maximum(a, c), 0, None).prod()
    return bool(shared > 0.5 * min((b - a).prod(), (d - c).prod()))


@dataclass(frozen=True)
class RecordState:
    """Snapshot of a segmentation's record, for an undo or redo that restores the segments.

    Attributes:
        record: the record; None before the first run.
        volume_ids: node IDs of the segmented volumes.
    """

    record: SegmentationRecord | None
    volume_ids: tuple[str, ...]

    @classmethod
    def of(cls, node: vtkMRMLSegmentationNode | None) -> RecordState:
        """Return the present state; an empty one for a node that was removed."""
        count = 0 if node is None else node.GetNumberOfNodeReferences(_VOLUME)
        ids = tuple(node.GetNthNodeReferenceID(_VOLUME, index) for index in range(count))
        return cls(SegmentationRecord.load(node), ids)

    def restore(self, node: vtkMRMLSegmentationNode | None) -> None:
        """Restore the segments and checksums of this state in the record of a segmentation.

        The model, session, ROI and proposals of the last run stay, because the next update
        continues that run. Classes that only the last run has made get the checksum of no voxels.
        """
        now = RecordState.of(node)
        record, before = now.record, self.record or SegmentationRecord("")
        if record is None:
            return
        kind, other = ((one.model, one.roi) for one in (record, before))
        same_volume = now.volume_ids == self.volume_ids
        if kind == other and same_volume:
            record.segment_ids, record.written = before.segment_ids, before.written
            record.earlier, record.earlier_edited = before.earlier, before.earlier_edited
        else:
            kept = {*record.segment_ids.items()} & {*before.segment_ids.items()}
            record.written = dict.fromkeys(record.segment_ids, 0)
            totals = {name: before.written.get(name, 0) for name, _id in kept}
            record.written.update(totals if same_volume else _unknown(totals))
            record.take_over(before, same_volume)
        record.edited, record.overwrote = before.edited, before.overwrote
        record.frame = before.frame
        record.save(node)


def checksum(
    labelmap: np.ndarray, value: int, lower: Sequence[float], upper: Sequence[float]
) -> int:
    """Return a checksum of the voxels of a class and of their position.

    Args:
        labelmap: integers [K, J, I].
        value: value of the class in the labelmap.
        lower, upper: voxel edges (i, j, k) of a box around the class.
    """
    (i0, j0, k0), (i1, j1, k1) = (tuple(int(edge) for edge in edges) for edges in (lower, upper))
    voxels = labelmap[k0:k1, j0:j1, i0:i1] == value
    place = repr((i0, j0, k0, i1, j1, k1)).encode()
    return zlib.crc32(np.packbits(voxels).tobytes(), zlib.crc32(place))


def checksums(labelmap: np.ndarray) -> dict[int, int]:
    """Return the :func:`checksum` of each class in a labelmap [K, J, I] by its value."""
    lower: dict[int, list[int]] = {}
    upper: dict[int, list[int]] = {}
    for axis in (2, 1, 0):  # i, j, k
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for index in range(labelmap.shape[axis]):
            counts = np.bincount(labelmap.take(index, axis).ravel())
            for value in np.flatnonzero(counts).tolist():
                first.setdefault(value, index)
                last[value] = index + 1
        for value in first:
            lower.setdefault(value, []).append(first[value])
            upper.setdefault(value, []).append(last[value])
    return {
        value: checksum(labelmap, value, lower[value], upper[value]) for value in lower if value
    }

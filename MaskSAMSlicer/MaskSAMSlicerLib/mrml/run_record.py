"""What a segmentation remembers of the run that made it, so that boxes can be changed later on.

It is kept in the node itself, as an attribute and as references to the volumes, and so it is saved
with the scene.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
from slicer.i18n import tr as _

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode

_ATTRIBUTE = "MaskSAM.Run"
_VOLUME = "MaskSAM.Volume"

Edges = tuple[list[float], list[float]]


@dataclass
class RunRecord:
    """A run, as far as later updates need it.

    Attributes:
        model: name in the catalog.
        device: that was asked for.
        session: under which the worker may still hold the volume open.
        roi: the part that was segmented, voxel edges (i, j, k) of the volume; None for all of it.
        proposals: the network's own box of each class that it found, in voxel edges.
        segment_ids: of each class's segment.
        written: a checksum of the voxels that each class was given last.
        edited: classes whose voxels now come from boxes.
    """

    model: str
    device: str = "auto"
    session: str = ""
    roi: Edges | None = None
    proposals: dict[str, Edges] = field(default_factory=dict)
    segment_ids: dict[str, str] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    edited: list[str] = field(default_factory=list)

    def save(
        self,
        node: vtkMRMLSegmentationNode,
        volumes: Sequence[vtkMRMLScalarVolumeNode] = (),
    ) -> None:
        """Keep it in a segmentation; with volumes, these too."""
        node.SetAttribute(_ATTRIBUTE, json.dumps(asdict(self)))
        if volumes:
            node.RemoveNodeReferenceIDs(_VOLUME)
            for volume in volumes:
                node.AddNodeReferenceID(_VOLUME, volume.GetID())

    @classmethod
    def of(cls, node: vtkMRMLSegmentationNode | None) -> RunRecord | None:
        """The record of a segmentation; None where it has none, or one of another version."""
        text = None if node is None else node.GetAttribute(_ATTRIBUTE)
        if not text:
            return None
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError):
            return None


def volumes_of(node: vtkMRMLSegmentationNode) -> list[vtkMRMLScalarVolumeNode]:
    """The volumes that a segmentation was made from.

    Raises:
        ValueError: one of them has left the scene.
    """
    count = node.GetNumberOfNodeReferences(_VOLUME)
    found = [node.GetNthNodeReference(_VOLUME, index) for index in range(count)]
    if not found or None in found:
        raise ValueError(
            _("The volume of '{name}' has left the scene: segment a volume first.").format(
                name=node.GetName()
            )
        )
    return found


def segmentations_with_record() -> list[vtkMRMLSegmentationNode]:
    """All segmentations of the scene that MaskSAM made and knows of."""
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    return [node for node in nodes if RunRecord.of(node) is not None]


def forget_written(node: vtkMRMLSegmentationNode | None) -> None:
    """Segments were taken back or done again: the next update writes them whatever they were."""
    record = RunRecord.of(node)
    if record is not None:
        record.written = dict.fromkeys(record.segment_ids, -1)
        record.save(node)


def checksum(labelmap: np.ndarray, value: int, lower: Any, upper: Any) -> int:
    """Of the voxels of a class that lies within voxel edges (i, j, k)."""
    (i0, j0, k0), (i1, j1, k1) = (tuple(int(edge) for edge in edges) for edges in (lower, upper))
    voxels = labelmap[k0:k1, j0:j1, i0:i1] == value
    place = repr((i0, j0, k0, i1, j1, k1)).encode()
    return zlib.crc32(np.packbits(voxels).tobytes(), zlib.crc32(place))

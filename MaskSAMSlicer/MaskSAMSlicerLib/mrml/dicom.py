"""DICOM series that a volume was loaded from, and segments as they are exported to DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import slicer
from slicer.i18n import tr as _

from MaskSAMCore.labels import Label
from MaskSAMSlicerLib.mrml.corrections import CORRECTED, class_states
from MaskSAMSlicerLib.mrml.run_record import UNKNOWN_CHECKSUM, SegmentationRecord
from MaskSAMSlicerLib.mrml.segments import described, labelmap_of

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode

# Attribute in which Slicer's DICOM module keeps the UIDs of a volume's images.
_INSTANCES = "DICOM.instanceUIDs"


@dataclass(frozen=True)
class ExportedSegments:
    """Segments on the grid of a volume.

    Attributes:
        labelmap: uint8 or uint16 [K, J, I], 0 or values of the labels. Where segments overlap, the
            later one in the segmentation gets the voxels.
        labels: labels of the segments, then of the model's classes that were not found.
        corrected: whether boxes of the user or other edits have changed the model's result.
    """

    labelmap: np.ndarray
    labels: tuple[Label, ...]
    corrected: bool


def instances_of(volume_node: vtkMRMLScalarVolumeNode) -> list[str]:
    """Return the UIDs of the images that a volume was loaded from; empty if it is not from DICOM.

    Slicer keeps the UIDs in the scene, even when the scene is saved and loaded again.
    """
    return (volume_node.GetAttribute(_INSTANCES) or "").split()


def files_in_database(instances: Sequence[str]) -> list[Path]:
    """Return the files of images in Slicer's DICOM database; empty unless it has all of them."""
    # Slicer without its DICOM modules has no database.
    database = getattr(slicer, "dicomDatabase", None)
    if database is None or not database.isOpen:
        return []
    found = [database.fileForInstance(uid) for uid in instances]
    files = [Path(name) for name in found if name]
    complete = len(files) == len(instances) and all(file.is_file() for file in files)
    return files if complete else []


def exported_segments(
    node: vtkMRMLSegmentationNode,
    volume_node: vtkMRMLScalarVolumeNode,
    labels: Sequence[Label],
) -> ExportedSegments:
    """Return all segments of a segmentation as they are now, with names, colors and codes.

    Args:
        node: segmentation that a run of MaskSAM has made.
        volume_node: the segmented volume.
        labels: classes of the model.

    Raises:
        ValueError: a segment has no codes, or the segments cannot be put on the volume's grid.
    """
    record = SegmentationRecord.require(node)
    segmentation = node.GetSegmentation()
    segment_ids = list(segmentation.GetSegmentIDs())
    classes = {record.segment_ids.get(label.name): label for label in labels}
    free = max((label.value for label in labels), default=0) + 1
    exported: dict[str, Label] = {}
    for segment_id in segment_ids:
        label = classes.get(segment_id)
        if label is None:
            label, free = Label(free, segment_id, (0.0, 0.0, 0.0)), free + 1
        exported[segment_id] = described(label, segmentation.GetSegment(segment_id))
    for label in exported.values():
        if label.terminology is None:
            raise ValueError(
                _(
                    "The segment '{name}' has no terminology, which DICOM needs: double-click its"
                    " color in the Segment Editor, and choose a category and a type."
                ).format(name=label.name)
            )
    # Classes that were not found are listed too, so that no reader assumes they were left out.
    values = {label.value for label in exported.values()}
    lost = [label for label in labels if label.value not in values and label.terminology]
    labelmap = labelmap_of(node, volume_node, [(i, exported[i].value) for i in segment_ids])
    prompted = bool(record.edited) or record.earlier_edited
    # Voxels that cannot be compared may have been changed by the user.
    unknown = any(
        run.get(one) == UNKNOWN_CHECKSUM for run in record.written_by_run for one in segment_ids
    )
    states = class_states(node, volume_node, labels)
    corrected = prompted or unknown or any(one.state in CORRECTED for one in states)
    return ExportedSegments(labelmap, (*exported.values(), *lost), corrected)

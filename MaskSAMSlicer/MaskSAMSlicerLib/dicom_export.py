"""Export of a MaskSAM segmentation as a DICOM segmentation, with a report of its volumes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slicer.i18n import tr as _

from MaskSAMSlicerLib.model_catalog import find_model
from MaskSAMSlicerLib.mrml.dicom import exported_segments, files_in_database, instances_of
from MaskSAMSlicerLib.mrml.run_record import SegmentationRecord, volumes_of
from MaskSAMSlicerLib.mrml.sequences import FrameSequence
from MaskSAMSlicerLib.mrml.volumes import ijk_to_node
from MaskSAMSlicerLib.worker.client import ExportDicomRequest

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode


def why_not(node: vtkMRMLSegmentationNode | None) -> str:
    """Return why a segmentation cannot be exported to DICOM; empty if it can."""
    if node is None:
        return _("Choose a segmentation of MaskSAM first.")
    try:
        SegmentationRecord.require(node)
        volume = volumes_of(node)[0]
    except ValueError as error:
        return str(error)
    if FrameSequence.of(node) is not None:
        return _("Sequences cannot be exported to DICOM: segment a single frame.")
    if not instances_of(volume):
        return _("'{name}' was not loaded from DICOM.").format(name=volume.GetName())
    return ""


def known_files(node: vtkMRMLSegmentationNode) -> list[Path]:
    """Return the files of the volume's series in Slicer's database; empty if any is missing."""
    return files_in_database(instances_of(volumes_of(node)[0]))


def export_request(
    node: vtkMRMLSegmentationNode, path: Path, report: bool, folder: Path | None = None
) -> ExportDicomRequest:
    """Return the request for the worker.

    Args:
        node: segmentation.
        path: file to write.
        report: whether to write a report of the volumes next to the segmentation.
        folder: folder of the source series; None to find the files in Slicer's database.

    Raises:
        ValueError: the segmentation cannot be exported; the message says what to do.
    """
    reason = why_not(node)
    if reason:
        raise ValueError(reason)
    record, volume = SegmentationRecord.require(node), volumes_of(node)[0]
    source = known_files(node) if folder is None else [folder]
    if not source:
        raise ValueError(
            _(
                "Slicer's DICOM database does not have the files of '{name}': choose the folder"
                " that they are in."
            ).format(name=volume.GetName())
        )
    model = find_model(record.model)
    segments = exported_segments(node, volume, model.labels)
    return ExportDicomRequest(
        labelmap=segments.labelmap,
        # Parent transforms are left out, because the DICOM series itself is not transformed.
        ijk_to_ras=ijk_to_node(volume),
        labels=segments.labels,
        source=source,
        instances=instances_of(volume),
        model=model.name,
        version=model.version,
        corrected=segments.corrected,
        output=path,
        report=path.with_name(f"{path.stem}_report.dcm") if report else None,
    )

"""Volumes of a DICOM segmentation as a DICOM structured report (TID 1500)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.dicom_files import is_dicom, silent_pydicom
from MaskSAMCore.io.dicom_segmentation import MANUFACTURER, name_of
from MaskSAMCore.io.dicom_source import DicomSource
from MaskSAMCore.io.files import MALFORMED, atomic_file

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from highdicom.sr import (
        AlgorithmIdentification,
        CodedConcept,
        Comprehensive3DSR,
        FindingSite,
        Measurement,
        MeasurementsAndQualitativeEvaluations,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )
    from pydicom.sr.coding import Code

# Added to the series number of a segmentation to get that of its report.
_SERIES_OFFSET = 1000
# Codes of SNOMED CT for sides, which a report states as laterality.
_SIDES = ("7771000", "24028007")
_DIGITS = 4
# DICOM and SNOMED CT have no code for a share of the intracranial volume.
_OWN_SCHEME = "99MASKSAM"


def write_dicom_report(
    path: Path,
    segmentation: Path,
    source: DicomSource,
    overwrite: bool = False,
    intracranial: Collection[str] = (),
) -> None:
    """Write the volume of every segment as a structured report, complete or not at all.

    If the intracranial volume is known, the report also states this volume and the percentage of
    it that each class within the skull occupies.

    Args:
        path: file to write.
        segmentation: DICOM segmentation that the report measures and refers to.
        source: series that the segmentation was made from.
        overwrite: whether an existing file may be replaced.
        intracranial: names of the classes whose volumes add up to the intracranial volume; none if
            it is unknown.

    Raises:
        MaskSAMError: the report exists or cannot be written, or the segmentation cannot be read.
    """
    from highdicom.seg import segread

    if not is_dicom(segmentation):
        raise MaskSAMError(f"{segmentation} is no DICOM segmentation: give one that was written")
    with atomic_file(path, overwrite) as temporary, silent_pydicom():
        try:
            report = _report(segread(segmentation), source, set(map(name_of, intracranial)))
        except MALFORMED as error:
            raise source.refused(error) from error
        report.save_as(temporary)


def _report(
    segmentation: Segmentation, source: DicomSource, intracranial: Collection[str]
) -> Comprehensive3DSR:
    """Return the report of a segmentation.

    Args:
        segmentation: DICOM segmentation.
        source: series that the segmentation was made from.
        intracranial: names of the segments whose volumes add up to the intracranial volume.
    """
    import highdicom
    from highdicom import sr
    from pydicom.dataset import Dataset
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    device = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            # The same version of the same model is the same observer.
            uid=generate_uid(
                entropy_srcs=[
                    str(segmentation.ManufacturerModelName),
                    str(segmentation.SoftwareVersions),
                ]
            ),
            name=str(segmentation.ManufacturerModelName),
            manufacturer_name=str(segmentation.Manufacturer),
            model_name=str(segmentation.ManufacturerModelName),
        ),
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=device),
        procedure_reported=_procedure(str(source.images[0].get("Modality", ""))),
        imaging_measurements=_measurements(segmentation, source, intracranial),
        title=codes.DCM.ImagingMeasurementReport,
    )
    report = sr.Comprehensive3DSR(
        evidence=[segmentation, *source.images],
        content=content[0],
        series_instance_uid=highdicom.UID(),
        series_number=int(segmentation.SeriesNumber) + _SERIES_OFFSET,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=segmentation.Manufacturer,
        manufacturer_model_name=segmentation.ManufacturerModelName,
        software_versions=segmentation.SoftwareVersions,
        device_serial_number=segmentation.DeviceSerialNumber,
        series_description="Volumes",
        is_complete=True,
        specific_character_set=segmentation.SpecificCharacterSet,
    )
    if intracranial:
        scheme = Dataset()
        scheme.CodingSchemeDesignator = _OWN_SCHEME
        scheme.CodingSchemeName = "Measurements of MaskSAM"
        scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
        report.CodingSchemeIdentificationSequence = [scheme]
    return report


def _measurements(
    segmentation: Segmentation, source: DicomSource, intracranial: Collection[str]
) -> list[
    VolumetricROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations
]:
    """Return the volume of each segment, 0 for those without a voxel, and the intracranial volume.

    Args:
        segmentation: DICOM segmentation.
        source: series that the segmentation was made from.
        intracranial: names of the segments whose volumes add up to the intracranial volume.
    """
    from highdicom import sr

    volumes = _volumes(segmentation)
    descriptions = {number: segmentation.get_segment_description(number) for number in volumes}
    inside = [n for n, one in descriptions.items() if one.segment_label in intracranial]
    total = sum(volumes[number] for number in inside)
    groups = []
    for number, description in descriptions.items():
        measurements = [_volume(volumes[number])]
        if total > 0 and number in inside:
            measurements.append(_share(volumes[number] / total))
        groups.append(
            sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=sr.TrackingIdentifier(
                    uid=description.tracking_uid, identifier=description.tracking_id
                ),
                referenced_segment=sr.ReferencedSegment(
                    sop_class_uid=segmentation.SOPClassUID,
                    sop_instance_uid=segmentation.SOPInstanceUID,
                    segment_number=number,
                    source_series=sr.SourceSeriesForSegmentation(
                        source.images[0].SeriesInstanceUID
                    ),
                ),
                finding_category=description.segmented_property_category,
                finding_type=_kind(description),
                finding_sites=[_site(description)],
                algorithm_id=_algorithm(description),
                measurements=measurements,
            )
        )
    if total > 0:
        groups.append(_intracranial(total, source, descriptions[inside[0]]))
    return groups


def _intracranial(
    ml: float, source: DicomSource, description: SegmentDescription
) -> MeasurementsAndQualitativeEvaluations:
    """Return the measurement of the intracranial volume, which belongs to no single segment.

    Args:
        ml: volume in ml.
        source: series that the segmentation was made from.
        description: description of a segment within the skull, which names the algorithm.
    """
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    name, place = "intracranial volume", codes.cid7140.CranialCavity
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=generate_uid(entropy_srcs=[str(source.images[0].SeriesInstanceUID), name]),
            identifier=name,
        ),
        finding_category=sr.CodedConcept("123037004", "SCT", "Anatomical Structure"),
        finding_type=place,
        finding_sites=[sr.FindingSite(anatomic_location=place)],
        algorithm_id=_algorithm(description),
        measurements=[_volume(ml)],
    )


def _volume(ml: float) -> Measurement:
    """Return a measurement of a volume in ml."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    unit = sr.CodedConcept("ml", "UCUM", "milliliter")
    return sr.Measurement(name=codes.SCT.Volume, value=round(ml, _DIGITS), unit=unit)


def _share(part: float) -> Measurement:
    """Return a measurement in percent of a fraction (0 to 1) of the intracranial volume."""
    from highdicom import sr

    return sr.Measurement(
        name=sr.CodedConcept("ICVPERCENT", _OWN_SCHEME, "Percentage of intracranial volume"),
        value=round(100 * part, _DIGITS),
        unit=sr.CodedConcept("%", "UCUM", "percent"),
    )


def _volumes(segmentation: Segmentation) -> dict[int, float]:
    """Return the volume of each segment in ml by its number."""
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    row, column = (float(value) for value in measures.PixelSpacing)
    voxel_ml = row * column * float(measures.SpacingBetweenSlices) / 1000
    volumes = dict.fromkeys(segmentation.segment_numbers, 0.0)
    frames = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
    for group, frame in zip(segmentation.PerFrameFunctionalGroupsSequence, frames, strict=True):
        shared = segmentation.SharedFunctionalGroupsSequence[0]
        # With a single segment, all frames share its number.
        owner = group if "SegmentIdentificationSequence" in group else shared
        segment = owner.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        volumes[segment] += np.count_nonzero(frame) * voxel_ml
    return volumes


def _kind(description: SegmentDescription) -> CodedConcept:
    """Return the code of a segment's structure without its side or part."""
    from highdicom.sr import CodedConcept

    kind = description.segmented_property_type
    return CodedConcept(kind.value, kind.scheme_designator, kind.meaning)


def _site(description: SegmentDescription) -> FindingSite:
    """Return the place of a segment in the body: its structure, with side or part."""
    from highdicom.sr import CodedConcept, FindingSite

    kind = description.SegmentedPropertyTypeCodeSequence[0]
    found = kind.get("SegmentedPropertyTypeModifierCodeSequence")
    modifier = CodedConcept.from_dataset(found[0]) if found else None
    is_side = modifier is not None and modifier.value in _SIDES
    return FindingSite(
        anatomic_location=_kind(description),
        laterality=modifier if is_side else None,
        topographical_modifier=None if is_side else modifier,
    )


def _algorithm(description: SegmentDescription) -> AlgorithmIdentification:
    from highdicom.sr import AlgorithmIdentification

    identification = description.SegmentationAlgorithmIdentificationSequence[0]
    return AlgorithmIdentification(
        name=identification.AlgorithmName, version=identification.AlgorithmVersion
    )


def _procedure(modality: str) -> Code:
    """Return the code of the examination that made the source images."""
    from pydicom.sr.coding import Code

    examinations = {
        "CT": Code("77477000", "SCT", "Computed tomography"),
        "MR": Code("113091000", "SCT", "Magnetic resonance imaging"),
    }
    return examinations.get(modality, Code("363679005", "SCT", "Imaging"))

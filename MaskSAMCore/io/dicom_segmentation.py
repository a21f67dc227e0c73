"""Writing of labelmaps as DICOM segmentations (DICOM SEG) that refer to the source series."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import LPS_TO_RAS, Volume
from MaskSAMCore.io.dicom_files import silent_pydicom
from MaskSAMCore.io.dicom_source import DicomSource
from MaskSAMCore.io.files import MALFORMED, atomic_file
from MaskSAMCore.labels import Code, Label

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from highdicom.sr import CodedConcept

# Suffix of files that are written as DICOM.
DICOM_SUFFIX = ".dcm"
MANUFACTURER = "MaskSAM for 3D Slicer"
# Added to the series number of the source to get that of the segmentation.
_SERIES_OFFSET = 1000
# SNOMED CT codes are numbers; other codes under its scheme name are from SNOMED RT.
_SNOMED_CT = re.compile("[0-9]{6,18}")
# Scheme names of SNOMED RT, which DICOM has retired.
_RETIRED_SCHEMES = ("SRT", "SNM3", "99SDM")
# Largest length of a DICOM name (LO).
_NAME_LENGTH = 64
# Fewest pixels in a slice: highdicom pads smaller slices, which displaces those after them.
_SMALLEST_SLICE = 8
_NO_NUMBER = np.iinfo(np.uint16).max
_UTF_8 = "ISO_IR 192"


@dataclass(frozen=True)
class Algorithm:
    """Identification of a model in DICOM files.

    Attributes:
        name: name of the model.
        version: version of the model.
        software: version of the software.
        corrected: whether the user prompted or corrected the segmentation.
    """

    name: str
    version: str
    software: str
    corrected: bool = False


def check_codes(labels: Sequence[Label]) -> None:
    """Check that labels have the codes that a DICOM segmentation needs.

    Raises:
        MaskSAMError: there is no label, or one has no codes or those of a retired scheme.
    """
    if not labels:
        raise MaskSAMError(
            "a DICOM segmentation needs a model with named classes: write another --format"
        )
    for label in labels:
        if label.terminology is None:
            raise MaskSAMError(
                f"class '{label.name}' has no terminology codes, which a DICOM segmentation needs:"
                " add its category and type (SNOMED CT) to the labels in the model's masksam.json,"
                " or to its card before it is exported"
            )
        terms = label.terminology
        codes = (terms.category, terms.type, terms.type_modifier, terms.region)
        for code in (*codes, terms.region_modifier):
            if code is not None:
                _check_code(label, code)


def _check_code(label: Label, code: Code) -> None:
    retired = code.scheme in _RETIRED_SCHEMES
    if retired or (code.scheme == "SCT" and not _SNOMED_CT.fullmatch(code.value)):
        raise MaskSAMError(
            f"class '{label.name}' has the code {code.value} of scheme {code.scheme}, which is not"
            " of SNOMED CT: give the number of the concept there, with the scheme SCT"
        )
    if not (code.scheme and code.value and code.meaning):
        raise MaskSAMError(
            f"class '{label.name}' has a code without scheme, value or meaning: complete it in the"
            " labels of the model's card and export the model again"
        )


def write_dicom_segmentation(
    labelmap: NDArray[np.integer],
    volume: Volume,
    path: Path,
    labels: Sequence[Label],
    source: DicomSource,
    algorithm: Algorithm,
    overwrite: bool = False,
) -> None:
    """Write a labelmap as a DICOM segmentation, complete or not at all.

    Segments are numbered from 1 in the order of the label values; segments without a voxel are
    described, too. If the volume has the grid of the source, each frame lies at the position of a
    source slice and refers to this slice. Frames without voxels are left out.

    Args:
        labelmap: integers [K, J, I], 0 or values of the labels.
        volume: volume whose grid the labelmap lies on, in the space of the source.
        path: file to write.
        labels: classes of the labelmap, with terminology.
        source: series that the volume was read or resampled from.
        algorithm: model that made the segmentation.
        overwrite: whether an existing file may be replaced.

    Raises:
        MaskSAMError: the file exists or cannot be written, the labels have no codes or do not
            cover the labelmap, or the source has headers that cannot be referred to.
    """
    check_codes(labels)
    if labelmap.shape != volume.shape:
        raise MaskSAMError(
            f"the labelmap has shape {labelmap.shape}, the grid of the volume {volume.shape}"
        )
    if labelmap[0].size < _SMALLEST_SLICE:
        raise MaskSAMError(
            f"{source.path} has slices of fewer than {_SMALLEST_SLICE} pixels, which DICOM"
            " segmentations are not written for: write another --format"
        )
    labels = sorted(labels, key=lambda label: label.value)
    numbers = _segment_numbers(labelmap, labels)
    with atomic_file(path, overwrite) as temporary, silent_pydicom():
        try:
            segmentation = _segmentation(numbers, volume, labels, source, algorithm)
        except MALFORMED as error:
            raise source.refused(error) from error
        segmentation.save_as(temporary)


def _segment_numbers(
    labelmap: NDArray[np.integer], labels: Sequence[Label]
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return a labelmap whose values are segment numbers, 1 for the first label.

    Raises:
        MaskSAMError: a voxel has the value of no label.
    """
    known = [0, *(label.value for label in labels)]
    lowest, highest = int(labelmap.min(initial=0)), int(labelmap.max(initial=0))
    if lowest < 0 or highest > known[-1]:
        raise _unknown(lowest if lowest < 0 else highest)
    table = np.full(known[-1] + 1, _NO_NUMBER, np.uint16)
    table[known] = range(len(known))
    numbers = np.empty(labelmap.shape, np.min_scalar_type(len(labels)))
    # Planes are mapped one by one, because an index array takes 64 bits per voxel.
    for plane, values in zip(numbers, labelmap, strict=True):
        found = table[values]
        if (found == _NO_NUMBER).any():
            raise _unknown(int(values[found == _NO_NUMBER][0]))
        plane[:] = found
    return numbers


def _unknown(value: int) -> MaskSAMError:
    return MaskSAMError(f"the labelmap has voxels of value {value}, which no label has")


def _segmentation(
    numbers: NDArray[Any],
    volume: Volume,
    labels: Sequence[Label],
    source: DicomSource,
    algorithm: Algorithm,
) -> Segmentation:
    """Return the DICOM segmentation of segment numbers [K, J, I] on the grid of a volume."""
    import highdicom
    from highdicom.seg import Segmentation

    segmentation = Segmentation(
        **_placed_pixels(numbers, volume, source),
        segmentation_type="BINARY",
        segment_descriptions=[
            _description(number, label, source, algorithm)
            for number, label in enumerate(labels, start=1)
        ],
        series_instance_uid=highdicom.UID(),
        series_number=source.series_number + _SERIES_OFFSET,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=name_of(algorithm.name),
        software_versions=name_of(algorithm.software),
        # Software has no serial number, but DICOM demands one.
        device_serial_number="0",
        series_description=name_of(f"Segmentation by {algorithm.name}"),
        content_label="SEGMENTATION",
        content_description=name_of(f"Segmentation by {algorithm.name}"),
        specific_character_set=_UTF_8,
    )
    column, row, between = volume.spacing
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    # highdicom copies the measures of the source, whose header may state another slice distance.
    shared.PixelMeasuresSequence = highdicom.PixelMeasuresSequence(
        pixel_spacing=[row, column],
        # The thickness is the slice distance, so that voxels fill the space without gaps.
        slice_thickness=between,
        spacing_between_slices=between,
    )
    return segmentation


def _placed_pixels(numbers: NDArray[Any], volume: Volume, source: DicomSource) -> dict[str, Any]:
    """Return highdicom's arguments for the voxels, their position and the source images."""
    import highdicom

    first, *others = source.images
    several = bool(others) and "NumberOfFrames" in first
    indices = [index for _, index in source.slices]
    frames = range(len(first.PerFrameFunctionalGroupsSequence))
    # A multi-frame file must not have further frames, such as copies of slices.
    complete = bool(others) or sorted(indices) == list(frames)
    aligned = source.grid is not None and source.grid.same_grid(volume)
    # If all segments are empty, highdicom would write every slice for every segment.
    if aligned and complete and not several and numbers.any():
        return {
            "source_images": [image for image, _ in source.slices] if others else [first],
            "pixel_array": numbers if others else numbers[np.argsort(indices)],
        }
    affine = (LPS_TO_RAS @ volume.ijk_to_ras)[:, [2, 1, 0, 3]]
    voxels = numbers if numbers.any() else numbers[:1]
    return {
        "source_images": [first] if several else list(source.images),
        "further_source_images": others if several else None,
        "pixel_array": highdicom.Volume(voxels, affine, "PATIENT"),
    }


def _description(
    number: int, label: Label, source: DicomSource, algorithm: Algorithm
) -> SegmentDescription:
    """Return the description of a segment."""
    import highdicom
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    terms = label.terminology
    assert terms is not None  # check_codes
    red, green, blue = (255 * part for part in label.color)
    description = SegmentDescription(
        segment_number=number,
        segment_label=name_of(label.name),
        segmented_property_category=_coded(terms.category),
        segmented_property_type=_coded(terms.type),
        algorithm_type="SEMIAUTOMATIC" if algorithm.corrected else "AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=name_of(algorithm.name),
            family=codes.DCM.ArtificialIntelligence,
            version=name_of(algorithm.version),
            source=MANUFACTURER,
        ),
        # The same structure of the same series keeps its identity when it is segmented again.
        tracking_uid=generate_uid(
            entropy_srcs=[str(source.images[0].SeriesInstanceUID), label.name]
        ),
        tracking_id=name_of(label.name),
        anatomic_regions=None if terms.region is None else [_coded(terms.region)],
        display_color=CIELabColor.from_rgb(red, green, blue),
    )
    if terms.type_modifier is not None:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_coded(terms.type_modifier)]
    if terms.region is not None and terms.region_modifier is not None:
        region = description.AnatomicRegionSequence[0]
        region.AnatomicRegionModifierSequence = [_coded(terms.region_modifier)]
    return description


def _coded(code: Code) -> CodedConcept:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, name_of(code.meaning))


def name_of(text: str) -> str:
    """Return a text as a DICOM name (LO): without control characters, cut to the allowed length."""
    # In DICOM a backslash separates values.
    return re.sub(r"[\x00-\x1f\x7f\\]", " ", text).strip()[:_NAME_LENGTH] or "?"

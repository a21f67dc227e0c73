"""Frames of DICOM images: their place in space, the scale of their values, their contrast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.dicom_files import ImageFile, integer, tag_of, texts
from MaskSAMCore.io.dicom_pixels import PixelFormat, pixel_format

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


class _Field(NamedTuple):
    """A header element that distinguishes volumes.

    Attributes:
        name: name for messages.
        keyword: keyword of the element in the header of a single frame.
        group: functional group that holds the element in the header of several frames.
        group_keyword: keyword of the element in the functional group.
    """

    name: str
    keyword: str
    group: str
    group_keyword: str


# Elements that have the same value in all slices of a volume.
_CONTRAST = (
    _Field("image type", "ImageType", "MRImageFrameTypeSequence", "FrameType"),
    _Field("image type", "", "CTImageFrameTypeSequence", "FrameType"),
    _Field("image type", "", "PETFrameTypeSequence", "FrameType"),
    _Field(
        "complex component",
        "ComplexImageComponent",
        "MRImageFrameTypeSequence",
        "ComplexImageComponent",
    ),
    _Field("echo time", "EchoTime", "MREchoSequence", "EffectiveEchoTime"),
    _Field("b-value", "DiffusionBValue", "MRDiffusionSequence", "DiffusionBValue"),
)
# Elements that may also vary between the slices of one volume.
_VARIABLE = (
    _Field("echo number", "EchoNumbers", "", ""),
    _Field("inversion time", "InversionTime", "MRModifierSequence", "InversionTimes"),
    _Field("flip angle", "FlipAngle", "MRTimingAndRelatedParametersSequence", "FlipAngle"),
    _Field("gradient direction", "DiffusionGradientOrientation", "", ""),
    _Field(
        "time point",
        "TemporalPositionIdentifier",
        "FrameContentSequence",
        "TemporalPositionIndex",
    ),
    _Field(
        "trigger time",
        "TriggerTime",
        "CardiacSynchronizationSequence",
        "NominalCardiacTriggerDelayTime",
    ),
    _Field("reference time", "FrameReferenceTime", "", ""),
    _Field(
        "reconstruction kernel",
        "ConvolutionKernel",
        "CTReconstructionSequence",
        "ConvolutionKernel",
    ),
    _Field("tube voltage", "KVP", "CTXRayDetailsSequence", "KVP"),
    _Field("stack", "", "FrameContentSequence", "StackID"),
    _Field(
        "acquisition number",
        "AcquisitionNumber",
        "FrameContentSequence",
        "FrameAcquisitionNumber",
    ),
    _Field(
        "acquisition time", "AcquisitionTime", "FrameContentSequence", "FrameAcquisitionDateTime"
    ),
    _Field("content time", "ContentTime", "", ""),
)
# Private elements with the number of pictures in a mosaic, and their creators.
_MOSAICS = (((0x0019, 0x100A), "SIEMENS MR HEADER"), ((0x0065, 0x1050), "Image Private Header"))
# Private elements with the b-value, and their creators.
_B_VALUES = (
    ((0x0019, 0x100C), "SIEMENS MR HEADER"),
    ((0x2001, 0x1003), "Philips Imaging DD 001"),
)
# Limit of coordinates and sizes in mm; larger ones come from damaged headers.
_LARGEST_MM = 1e6
# Nuclear medicine vectors that distinguish the volumes in a file.
_NUCLEAR_VECTORS = (
    ("energy window", "EnergyWindowVector"),
    ("detector", "DetectorVector"),
    ("phase", "PhaseVector"),
    ("rotation", "RotationVector"),
    ("RR interval", "RRIntervalVector"),
    ("time slot", "TimeSlotVector"),
    ("angular view", "AngularViewVector"),
    ("time", "TimeSliceVector"),
)


@dataclass(frozen=True)
class Frame:
    """A plane of a DICOM image.

    Attributes:
        file: file of the frame.
        index: number of the frame in its file, from 0.
        pixels: size and format of the pixels.
        position: centre of the first pixel in LPS mm.
        orientation: LPS direction along a row, then down a column, 6 numbers as in the header.
        spacing: mm between rows and between columns.
        rescaled: whether the header states the slope or the intercept.
        slope: factor from stored to real values.
        intercept: real value of the stored value 0.
        localizer: whether the image was made to plan other images.
        contrast: names and values of the elements that are equal in all slices of a volume.
        space: UID of the frame of reference of the position; empty if the header has none.
    """

    file: ImageFile
    index: int
    pixels: PixelFormat
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    rescaled: bool
    slope: float
    intercept: float
    localizer: bool
    contrast: tuple[tuple[str, str], ...]
    space: str

    @property
    def name(self) -> str:
        """Name of the file, with the number of the frame if the file has several."""
        name = self.file.path.name
        return f"{name}, frame {self.index + 1}" if self.pixels.frames > 1 else name


class _Elements:
    """Elements of the frames of a file: a frame's own, else those shared by all frames."""

    def __init__(self, header: Dataset) -> None:
        self._header = header
        self._frames = header.get("PerFrameFunctionalGroupsSequence") or ()
        self._shared = _item(header, "SharedFunctionalGroupsSequence")
        # Nuclear medicine images have their position in the item of the detector.
        self._detector = _item(header, "DetectorInformationSequence")
        self._common: dict[tuple[str, str, str], tuple[str, ...]] = {}

    def texts(self, index: int, group: str, group_keyword: str, keyword: str) -> tuple[str, ...]:
        """Return the values of an element; none if it is missing or empty.

        Args:
            index: number of the frame in the file.
            group: functional group of the element in files with several frames; may be empty.
            group_keyword: keyword of the element in this group.
            keyword: keyword of the element in the header; empty if only the group has it.
        """
        if self._frames and group:
            own = _item(self._frames[index], group)
            values = texts(own, group_keyword) if own is not None else ()
            if values:
                return values
        key = (group, group_keyword, keyword)
        if key not in self._common:
            shared = _item(self._shared, group) if group else None
            self._common[key] = (
                (texts(shared, group_keyword) if shared is not None else ())
                or (texts(self._header, keyword) if keyword else ())
                or (texts(self._detector, keyword) if self._detector and keyword else ())
            )
        return self._common[key]

    def numbers(self, index: int, group: str, keyword: str) -> tuple[float, ...]:
        """Return the values of a decimal element; none if it is missing or empty.

        Raises:
            ValueError: a value is no finite number.
        """
        found = self.texts(index, group, keyword, keyword)
        values = tuple(map(float, found))
        # float() also reads 1_0 as 10.
        if not all(map(isfinite, values)) or any("_" in text for text in found):
            raise ValueError(f"{keyword} has values that are no finite numbers")
        return values

    def value(self, index: int, field: _Field) -> str:
        """Return the value of a field, comparable between frames; empty if it is missing."""
        values = self.texts(index, field.group, field.group_keyword, field.keyword)
        if field.name == "image type":
            # The first two values say only whether the pixels are original.
            return "\\".join(values[2:])
        return "\\".join(map(_rounded, values))

    def private(self, tag: tuple[int, int], creator: str) -> str:
        """Return the first value of a private element; empty if missing or another vendor's."""
        key = ("", creator, str(tag))
        if key not in self._common:
            known = texts(self._header, (tag[0], 0x0010)) == (creator,)
            self._common[key] = texts(self._header, tag) if known else ()
        return "".join(self._common[key][:1])


def frames_of(file: ImageFile) -> list[Frame]:
    """Return the frames of a file.

    Raises:
        MaskSAMError: the file is damaged, has no place in space, or is no plain grey-level image.
    """
    # pydicom raises errors of many types when it converts damaged elements.
    try:
        elements = _Elements(file.header)
        _check_kind(file, elements)
        pixels = pixel_format(file)
        groups = file.header.get("PerFrameFunctionalGroupsSequence")
        if pixels.frames > 1 and not groups:
            return list(_nuclear_frames(file, pixels, elements))
        if groups and len(groups) != pixels.frames:
            raise file.damaged()
        return [_frame(file, index, pixels, elements) for index in range(pixels.frames)]
    except (MaskSAMError, MemoryError):
        raise
    except Exception as error:
        raise file.damaged() from error


def slice_thickness(frame: Frame) -> float:
    """Return the extent of a single slice along its normal in mm.

    Raises:
        MaskSAMError: the header does not state a thickness, or is damaged.
    """
    elements = _Elements(frame.file.header)
    try:
        for keyword in ("SpacingBetweenSlices", "SliceThickness"):
            values = elements.numbers(frame.index, "PixelMeasuresSequence", keyword)
            if values and values[0] > 0:
                return values[0]
    except ValueError as error:
        raise frame.file.damaged() from error
    raise _missing(frame.file, "slice thickness")


def stated_distance(frame: Frame) -> float | None:
    """Return the distance of adjacent slices in mm as the header states it; None if uncertain.

    A distance below the slice thickness is uncertain: either the slices overlap, or the header
    states the gap between them.

    Raises:
        MaskSAMError: the header has text in place of numbers.
    """
    elements = _Elements(frame.file.header)
    try:
        distance, thickness = (
            elements.numbers(frame.index, "PixelMeasuresSequence", keyword)
            for keyword in ("SpacingBetweenSlices", "SliceThickness")
        )
    except ValueError as error:
        raise frame.file.damaged() from error
    if not distance or not thickness or abs(distance[0]) < 0.99 * thickness[0]:
        return None
    return abs(distance[0])


def differences(frames: Sequence[Frame]) -> list[str]:
    """Return the names of the elements in which frames differ; none if unknown.

    Elements that are equal in all slices of a volume come first.
    """
    values: dict[str, set[str]] = {}
    files = {frame.file: _Elements(frame.file.header) for frame in frames}
    for frame in frames:
        for name, value in frame.contrast:
            values.setdefault(name, set()).add(value)
    for field in _VARIABLE:
        # pydicom raises errors of many types on a damaged element, which is left out.
        with suppress(Exception):
            values[field.name] = {files[frame.file].value(frame.index, field) for frame in frames}
    return [name for name, found in values.items() if len(found) > 1]


def _check_kind(file: ImageFile, elements: _Elements) -> None:
    """Check that a file is a plain grey-level image.

    Raises:
        MaskSAMError: the image has colours or a Modality LUT, or is a mosaic of slices.
    """
    header = file.header
    grey = {"MONOCHROME1", "MONOCHROME2"}.issuperset(texts(header, "PhotometricInterpretation"))
    if integer(header, "SamplesPerPixel", 1) != 1 or not grey:
        raise MaskSAMError(f"{file.path} is a colour image: give a grey-level image")
    if texts(header, "ModalityLUTSequence"):
        raise MaskSAMError(
            f"{file.path} has its values in a lookup table (Modality LUT), which is not supported:"
            " export the series with a rescale slope and intercept"
        )
    mosaic = any(elements.private(tag, creator) for tag, creator in _MOSAICS)
    if mosaic or "MOSAIC" in texts(header, "ImageType"):
        raise MaskSAMError(
            f"{file.path} is a mosaic, a picture of all slices side by side: convert the series"
            " with dcm2niix"
        )


def _nuclear_frames(file: ImageFile, pixels: PixelFormat, elements: _Elements) -> Iterator[Frame]:
    """Yield the frames of a file whose slices are numbered, as in nuclear medicine.

    Raises:
        MaskSAMError: the slices are not numbered, as in a cine series of one slice.
    """
    header = file.header
    slices = _vector(header, "SliceVector")
    distance = elements.numbers(0, "", "SpacingBetweenSlices")
    if len(slices) != pixels.frames or not distance:
        raise MaskSAMError(
            f"{file.path} has {pixels.frames} frames without a position in space each: give the"
            " original images of the scanner"
        )
    first = _frame(file, 0, pixels, elements)
    row, column = np.reshape(first.orientation, (2, 3))
    # The sign of the distance is the direction of the stack along the normal.
    step = distance[0] * np.cross(row, column)
    vectors = [(name, _vector(header, keyword)) for name, keyword in _NUCLEAR_VECTORS]
    for index, number in enumerate(slices):
        position = np.array(first.position) + (number - slices[0]) * step
        numbered = tuple((name, str(vector[index])) for name, vector in vectors if vector)
        yield replace(
            first,
            index=index,
            position=tuple(position.tolist()),
            contrast=(*first.contrast, *numbered),
        )


def _frame(file: ImageFile, index: int, pixels: PixelFormat, elements: _Elements) -> Frame:
    """Return a frame from the elements of its file.

    Raises:
        MaskSAMError: the frame has no place in space.
    """
    spacing = elements.numbers(index, "PixelMeasuresSequence", "PixelSpacing")
    if not spacing and "ImagerPixelSpacing" in file.header:
        raise MaskSAMError(
            f"{file.path} states its pixel spacing on the detector only, as projections do: give a"
            " series of slices"
        )
    position = elements.numbers(index, "PlanePositionSequence", "ImagePositionPatient")
    orientation = elements.numbers(index, "PlaneOrientationSequence", "ImageOrientationPatient")
    scale = "PixelValueTransformationSequence"
    slope = elements.numbers(index, scale, "RescaleSlope")
    intercept = elements.numbers(index, scale, "RescaleIntercept")
    if max(len(slope), len(intercept)) > 1:
        raise file.damaged()
    return Frame(
        file=file,
        index=index,
        pixels=pixels,
        position=_required(file, position, 3, "position"),
        orientation=_required(file, orientation, 6, "orientation"),
        spacing=_required(file, spacing, 2, "pixel spacing"),
        rescaled=bool(slope or intercept),
        slope=slope[0] if slope else 1.0,
        intercept=intercept[0] if intercept else 0.0,
        localizer="LOCALIZER" in elements.texts(index, "", "", "ImageType"),
        contrast=_contrast(elements, index),
        space="".join(elements.texts(index, "", "", "FrameOfReferenceUID")),
    )


def _required(
    file: ImageFile, values: tuple[float, ...], count: int, name: str
) -> tuple[float, ...]:
    """Return the values of an element that places an image in space.

    Raises:
        MaskSAMError: the element is missing, or has a wrong number of values or implausible ones.
    """
    if not values:
        raise _missing(file, name)
    if len(values) != count or max(map(abs, values)) > _LARGEST_MM:
        raise file.damaged()
    return values


def _missing(file: ImageFile, name: str) -> MaskSAMError:
    return MaskSAMError(
        f"{file.path} does not state its {name}: give the original images of the scanner"
    )


def _contrast(elements: _Elements, index: int) -> tuple[tuple[str, str], ...]:
    """Return names and values of the elements that are equal in all slices of a volume."""
    found = [(field.name, elements.value(index, field)) for field in _CONTRAST]
    found += [("b-value", elements.private(tag, creator)) for tag, creator in _B_VALUES]
    return tuple((name, value) for name, value in found if value)


def _rounded(text: str) -> str:
    try:
        return f"{float(text):.3f}"
    except ValueError:
        return text


def _vector(header: Dataset, keyword: str) -> tuple[int, ...]:
    """Return the integers of an element; none if it is missing."""
    value = header.get(keyword)
    if value is None:
        return ()
    return (int(value),) if isinstance(value, int) else tuple(int(number) for number in value)


def _item(dataset: Dataset | None, keyword: str) -> Dataset | None:
    """Return the first item of a sequence; None if it is missing or empty."""
    if dataset is None:
        return None
    tag = tag_of(keyword)
    if tag not in dataset:
        return None
    items = dataset[tag].value
    return items[0] if items else None

"""Frames of DICOM images: their place in space, the scale of their values, their contrast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.dicom_files import ImageFile, numbers, texts
from MaskSAMCore.io.dicom_pixels import PixelFormat, pixel_format

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


class _Field(NamedTuple):
    """An element that tells volumes apart.

    Attributes:
        name: name for messages.
        keyword: element in the header of a single frame.
        group: functional group in the header of several frames.
        group_keyword: element in that group.
    """

    name: str
    keyword: str
    group: str
    group_keyword: str


# Elements with one value in all slices of a volume.
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
# Elements that may change from slice to slice of a volume, too.
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
    ((0x0043, 0x1039), "GEMS_PARM_01"),
    ((0x2001, 0x1003), "Philips Imaging DD 001"),
)
# Vectors of nuclear medicine that tell the volumes of a file apart.
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
        slope: factor from stored to real values.
        intercept: real value of the stored value 0.
        localizer: whether the image was made to plan other images.
        contrast: values, by name, that are the same in all slices of a volume.
    """

    file: ImageFile
    index: int
    pixels: PixelFormat
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    slope: float
    intercept: float
    localizer: bool
    contrast: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """Name of the file, with the number of the frame if the file has several."""
        name = self.file.path.name
        return f"{name}, frame {self.index + 1}" if self.pixels.frames > 1 else name


class _Groups:
    """Functional groups of a file: the elements of each frame, else those that all frames share.

    Attributes:
        header: header of the file.
    """

    def __init__(self, header: Dataset) -> None:
        self.header = header
        self._frames = header.get("PerFrameFunctionalGroupsSequence") or ()
        self._shared = _item(header, "SharedFunctionalGroupsSequence")
        self._shared_items: dict[str, Dataset | None] = {}

    def find(self, index: int, group: str, keyword: str) -> Dataset:
        """Return the dataset of a frame that has an element; the whole header if no group does."""
        if self._frames and group:
            own = _item(self._frames[index], group)
            if own is not None and keyword in own:
                return own
        if group not in self._shared_items:
            self._shared_items[group] = _item(self._shared, group) if group else None
        shared = self._shared_items[group]
        return shared if shared is not None and keyword in shared else self.header


def frames_of(file: ImageFile) -> list[Frame]:
    """Return the frames of a file.

    Raises:
        MaskSAMError: the file is damaged, has no place in space, or is no plain grey-level image.
    """
    # pydicom raises errors of many types when it converts damaged elements.
    try:
        _check_kind(file)
        pixels = pixel_format(file)
        if pixels.frames > 1 and "PerFrameFunctionalGroupsSequence" not in file.header:
            return list(_nuclear_frames(file, pixels))
        return list(_frames(file, pixels))
    except (MaskSAMError, MemoryError):
        raise
    except Exception as error:
        raise file.damaged() from error


def slice_thickness(frame: Frame) -> float:
    """Return the height of a single slice in mm.

    Raises:
        MaskSAMError: the header does not state it.
    """
    header = frame.file.header
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        try:
            source = _Groups(header).find(frame.index, "PixelMeasuresSequence", keyword)
            values = numbers(source, keyword)
        except Exception as error:
            raise frame.file.damaged() from error
        if values and values[0] > 0:
            return values[0]
    raise _missing(frame.file, "slice thickness")


def differences(frames: Sequence[Frame]) -> list[str]:
    """Return the names of what tells frames apart, the most telling first; none if unknown."""
    found = [
        name
        for name in dict.fromkeys(name for frame in frames for name, _ in frame.contrast)
        if len({dict(frame.contrast).get(name) for frame in frames}) > 1
    ]
    groups = {id(frame.file): _Groups(frame.file.header) for frame in frames}
    for field in _VARIABLE:
        values = {_value(groups[id(frame.file)], frame.index, field) for frame in frames}
        if len(values) > 1:
            found.append(field.name)
    return found


def _check_kind(file: ImageFile) -> None:
    """Check that a file is a plain grey-level image.

    Raises:
        MaskSAMError: the image has colours, or is a mosaic of slices.
    """
    header = file.header
    photometric = texts(header, "PhotometricInterpretation")
    grey = {"MONOCHROME1", "MONOCHROME2"}.issuperset(photometric)
    if header.get("SamplesPerPixel") not in (None, 1) or not grey:
        raise MaskSAMError(f"{file.path} is a colour image: give a grey-level image")
    mosaic = any(_private(header, tag, creator) for tag, creator in _MOSAICS)
    if mosaic or "MOSAIC" in texts(header, "ImageType"):
        raise MaskSAMError(
            f"{file.path} is a mosaic, a picture of all slices side by side: convert the series"
            " with dcm2niix"
        )


def _frames(file: ImageFile, pixels: PixelFormat) -> Iterator[Frame]:
    """Yield the frames of a file with one frame, or with functional groups."""
    header = file.header
    groups = _Groups(header)
    if len(header.get("PerFrameFunctionalGroupsSequence") or (0,)) != pixels.frames:
        raise file.damaged()
    # Images of nuclear medicine have their place with the detector.
    detector = _item(header, "DetectorInformationSequence")
    for index in range(pixels.frames):
        position = groups.find(index, "PlanePositionSequence", "ImagePositionPatient")
        orientation = groups.find(index, "PlaneOrientationSequence", "ImageOrientationPatient")
        if detector is not None:
            position = position if "ImagePositionPatient" in position else detector
            orientation = orientation if "ImageOrientationPatient" in orientation else detector
        yield _frame(
            file,
            index,
            pixels,
            position,
            orientation,
            groups.find(index, "PixelMeasuresSequence", "PixelSpacing"),
            groups.find(index, "PixelValueTransformationSequence", "RescaleSlope"),
            _contrast(groups, index),
        )


def _nuclear_frames(file: ImageFile, pixels: PixelFormat) -> Iterator[Frame]:
    """Yield the frames of a file whose slices are numbered, as in nuclear medicine."""
    header = file.header
    slices = _vector(header, "SliceVector")
    detector = _item(header, "DetectorInformationSequence")
    distance = numbers(header, "SpacingBetweenSlices")
    if len(slices) != pixels.frames or detector is None or not distance:
        raise MaskSAMError(
            f"{file.path} has {pixels.frames} frames without a position in space each: give the"
            " original images of the scanner"
        )
    contrast = _contrast(_Groups(header), 0)
    first = _frame(file, 0, pixels, detector, detector, header, header, contrast)
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


def _frame(
    file: ImageFile,
    index: int,
    pixels: PixelFormat,
    position: Dataset,
    orientation: Dataset,
    measures: Dataset,
    scale: Dataset,
    contrast: tuple[tuple[str, str], ...],
) -> Frame:
    """Return a frame from the datasets with its position, orientation, spacing and scale."""
    spacing = numbers(measures, "PixelSpacing")
    if not spacing and "ImagerPixelSpacing" in file.header:
        raise MaskSAMError(
            f"{file.path} states the spacing of its pixels on the detector only, as projections do:"
            " give a series of slices"
        )
    return Frame(
        file=file,
        index=index,
        pixels=pixels,
        position=_required(file, numbers(position, "ImagePositionPatient"), 3, "position"),
        orientation=_required(
            file, numbers(orientation, "ImageOrientationPatient"), 6, "orientation"
        ),
        spacing=_required(file, spacing, 2, "pixel spacing"),
        slope=(numbers(scale, "RescaleSlope") or (1.0,))[0],
        intercept=(numbers(scale, "RescaleIntercept") or (0.0,))[0],
        localizer="LOCALIZER" in texts(file.header, "ImageType"),
        contrast=contrast,
    )


def _required(
    file: ImageFile, values: tuple[float, ...], count: int, name: str
) -> tuple[float, ...]:
    """Return the values of an element that an image in space needs.

    Raises:
        MaskSAMError: the element is missing or has another number of values.
    """
    if not values:
        raise _missing(file, name)
    if len(values) != count:
        raise file.damaged()
    return values


def _missing(file: ImageFile, name: str) -> MaskSAMError:
    return MaskSAMError(
        f"{file.path} does not state its {name}: give the original images of the scanner"
    )


def _contrast(groups: _Groups, index: int) -> tuple[tuple[str, str], ...]:
    """Return names and values of what is the same in all slices of a volume."""
    found = [(field.name, _value(groups, index, field)) for field in _CONTRAST]
    for tag, creator in _B_VALUES:
        values = _private(groups.header, tag, creator)
        found.append(("b-value", values[0] if values else ""))
    return tuple((name, value) for name, value in found if value)


def _value(groups: _Groups, index: int, field: _Field) -> str:
    """Return the value of an element as text, comparable between frames; empty if it is missing."""
    source = groups.find(index, field.group, field.group_keyword)
    keyword = field.keyword if source is groups.header else field.group_keyword
    values = texts(source, keyword) if keyword else ()
    if field.name == "image type":
        # The first two values say only whether the pixels are original.
        return "\\".join(values[2:])
    return "\\".join(map(_rounded, values))


def _rounded(text: str) -> str:
    try:
        return f"{float(text):.3f}"
    except ValueError:
        return text


def _private(header: Dataset, tag: tuple[int, int], creator: str) -> tuple[str, ...]:
    """Return the values of a private element; none if it is missing or another vendor's."""
    if tag not in header or texts(header, (tag[0], 0x0010)) != (creator,):
        return ()
    return texts(header, tag)


def _vector(header: Dataset, keyword: str) -> tuple[int, ...]:
    """Return the integers of an element; none if it is missing."""
    value = header.get(keyword)
    if value is None:
        return ()
    return (int(value),) if isinstance(value, int) else tuple(int(number) for number in value)


def _item(dataset: Dataset | None, keyword: str) -> Dataset | None:
    """Return the first item of a sequence; None if it is missing or empty."""
    if dataset is None or keyword not in dataset:
        return None
    items = dataset[keyword].value
    return items[0] if items else None

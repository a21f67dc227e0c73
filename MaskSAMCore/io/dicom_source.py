"""Source images of a segmentation, to which DICOM segmentations and reports refer."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from MaskSAMCore.errors import MaskSAMError, visible
from MaskSAMCore.geometry import LPS_TO_RAS, Volume
from MaskSAMCore.io.dicom_files import ImageFile, is_dicom, read_series, silent_pydicom, texts
from MaskSAMCore.io.dicom_frames import Frame, frames_of
from MaskSAMCore.io.dicom_stack import stack_of
from MaskSAMCore.io.files import MALFORMED

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Elements without which another file cannot refer to an image.
_REFERENCES = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
_DATE = "[0-9]{4}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])"
_TIME = r"([01][0-9]|2[0-3])([0-5][0-9]([0-5][0-9](\.[0-9]{1,6})?)?)?"
# Elements of patient and study that every derived file repeats, and patterns of valid values.
_INHERITED = {
    "PatientID": "",
    "PatientName": "",
    "PatientBirthDate": _DATE,
    "PatientSex": "[MFO]",
    "AccessionNumber": "",
    "StudyID": "",
    "StudyDate": _DATE,
    "StudyTime": _TIME,
}
_LARGEST_SERIES_NUMBER = 10**9

# Without a handler, highdicom's warnings, some with the patient's name, go to standard error.
logging.getLogger("highdicom").addHandler(logging.NullHandler())


@dataclass(frozen=True, eq=False)
class DicomSource:
    """Images of a DICOM series that a volume was read or resampled from.

    Attributes:
        path: file or folder of the series, for messages.
        images: headers of the files, completed with the elements that references need.
        slices: image and frame index of each slice, in order along the normal; empty if the frames
            are not evenly spaced slices.
        grid: volume of zeros on the grid of the slices; None without slices.
    """

    path: Path
    images: tuple[Dataset, ...]
    slices: tuple[tuple[Dataset, int], ...] = ()
    grid: Volume | None = None

    @property
    def series_number(self) -> int:
        """Number of the series; 0 if it has none."""
        with suppress(*MALFORMED):
            return min(max(int(self.images[0].SeriesNumber), 0), _LARGEST_SERIES_NUMBER)
        return 0

    def in_place(self, volume: Volume) -> Volume:
        """Return a volume of the series, moved back to the position of the series.

        Programs can move a volume after they have read it. A volume with another shape or voxel
        size was cropped or resampled, and a volume turned by more than 45 degrees may have its axes
        in another order; in these cases it is returned unchanged.
        """
        grid = self.grid
        if grid is None or grid.shape != volume.shape:
            return volume
        turned = grid.directions.T @ volume.directions
        if (
            not np.allclose(grid.spacing, volume.spacing, rtol=0.01)
            or turned.diagonal().min() < 0.7
        ):
            return volume
        return replace(volume, ijk_to_ras=grid.ijk_to_ras)

    def refused(self, error: Exception) -> MaskSAMError:
        """Return the error for headers that cannot be referred to."""
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return MaskSAMError(
            f"the headers of {self.path} do not allow a DICOM segmentation ({reason[0]}): write"
            " another --format"
        )


def check_installed() -> None:
    """Check that highdicom is installed, which writes the DICOM files.

    Raises:
        MaskSAMError: highdicom is not installed.
    """
    if find_spec("highdicom") is None:
        raise MaskSAMError("DICOM segmentations need highdicom: pip install 'masksam[dicom]'")


def find_instances(
    paths: Sequence[Path], instances: Collection[str], check: Callable[[], None]
) -> list[Path]:
    """Return the files of the images with given UIDs.

    Args:
        paths: files, or folders to search, including their subfolders.
        instances: SOPInstanceUIDs of the images.
        check: called for each file; raises an exception to stop.

    Raises:
        MaskSAMError: an image is missing.
    """
    from pydicom import dcmread

    found: dict[str, Path] = {}
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            check()
            if not file.is_file() or not is_dicom(file):
                continue
            with silent_pydicom(), suppress(OSError, *MALFORMED):
                header = dcmread(file, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
                found.setdefault(str(header.SOPInstanceUID), file)
    missing = [uid for uid in instances if uid not in found]
    if missing or not instances:
        raise MaskSAMError(
            f"{paths[0]} holds {len(instances) - len(missing)} of the {len(instances)} images of"
            " the series that the volume was read from: choose the folder with all of them"
        )
    return [found[uid] for uid in instances]


def read_source(path: Path, only: Sequence[Path] = ()) -> DicomSource:
    """Read the headers of a DICOM series, given by its folder or by its only file.

    Args:
        path: folder or file.
        only: files of the series, if the folder also holds others; by default all files.

    Raises:
        MaskSAMError: the path is no DICOM series, a file is damaged or has no UIDs, or highdicom is
            not installed.
    """
    check_installed()
    if path.is_file() and not is_dicom(path):
        raise MaskSAMError(
            f"{path} is no DICOM file, so that a DICOM segmentation cannot refer to its series:"
            " write another --format, or give the DICOM series"
        )
    with silent_pydicom():
        frames = {file: frames_of(file) for file in read_series(path, only)}
        images = {file: _completed(file) for file in frames}
        try:
            stack = stack_of(path, [frame for found in frames.values() for frame in found])
        except MaskSAMError:
            # The volume was resampled, for example where slices are missing, and has its own grid.
            _check_different(path, images)
            return DicomSource(path, _placed(images, frames))
        slices = [group[0] for group in stack.slices]
        pixels = slices[0].pixels
        voxels = np.broadcast_to(np.uint8(0), (len(slices), pixels.rows, pixels.columns))
        # Copies of slices, which often have the UID of the original, are left out.
        used = {file: images[file] for file in dict.fromkeys(frame.file for frame in slices)}
        _check_different(path, used)
        return DicomSource(
            path,
            _placed(used, frames),
            tuple((images[frame.file], frame.index) for frame in slices),
            Volume(voxels, LPS_TO_RAS @ stack.ijk_to_lps),
        )


def _placed(
    images: Mapping[ImageFile, Dataset], frames: Mapping[ImageFile, Sequence[Frame]]
) -> tuple[Dataset, ...]:
    """Return images whose headers state the position of their frames where highdicom expects it.

    Elements may be missing, or lie in other groups of the header, as in nuclear medicine. Slices of
    several frames of reference were read as one volume, so all get the frame of reference of the
    first image.
    """
    space = next(iter(images.values())).FrameOfReferenceUID
    for file, image in images.items():
        first = frames[file][0]
        place = {
            "FrameOfReferenceUID": space,
            "ImageOrientationPatient": _decimals(first.orientation),
            "ImagePositionPatient": _decimals(first.position),
            "PixelSpacing": _decimals(first.spacing),
            # Segmentations state their own thickness, but highdicom demands one here.
            "SliceThickness": "1",
        }
        for keyword, value in place.items():
            setattr(image, keyword, value)
        image.SharedFunctionalGroupsSequence = _item(
            PlaneOrientationSequence=_item(
                ImageOrientationPatient=place["ImageOrientationPatient"]
            ),
            PixelMeasuresSequence=_item(
                PixelSpacing=place["PixelSpacing"], SliceThickness=place["SliceThickness"]
            ),
        )
        image.PerFrameFunctionalGroupsSequence = [
            group
            for frame in frames[file]
            for group in _item(
                PlanePositionSequence=_item(ImagePositionPatient=_decimals(frame.position))
            )
        ]
    return tuple(images.values())


def _check_different(path: Path, images: Mapping[ImageFile, Dataset]) -> None:
    """Check that images can be told apart.

    Raises:
        MaskSAMError: two images have the same UID.
    """
    names: dict[str, str] = {}
    for file, image in images.items():
        other = names.setdefault(str(image.SOPInstanceUID), file.path.name)
        if other != file.path.name:
            raise MaskSAMError(
                f"{path} holds images of the same SOPInstanceUID ({other} and {file.path.name}), so"
                " that a DICOM segmentation cannot refer to them: write another --format"
            )


def _item(**values: Any) -> list[Dataset]:
    """Return the value of a sequence with one item."""
    from pydicom.dataset import Dataset

    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return [item]


def _decimals(values: Sequence[float]) -> list[str]:
    """Return numbers as DICOM decimal strings (DS), which have at most 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(value) for value in values]


def _completed(file: ImageFile) -> Dataset:
    """Complete, in place, a file's header with all elements that derived files repeat; return it.

    Raises:
        MaskSAMError: the file cannot be referred to, or is damaged.
    """
    from pydicom.uid import UID, generate_uid

    header = file.header
    for keyword in _REFERENCES:
        if len(texts(header, keyword)) != 1:
            raise MaskSAMError(
                f"{file.path} does not state its {keyword}, to which a DICOM segmentation must"
                " refer: give the original images of the scanner"
            )
    kind = UID("".join(texts(header, "SOPClassUID")))
    if kind.name == kind:
        raise MaskSAMError(
            f"{file.path} is an image of a kind that only its maker knows ({visible(kind)}), to"
            " which a DICOM segmentation cannot refer: write another --format"
        )
    try:
        for keyword, pattern in _INHERITED.items():
            value = texts(header, keyword)
            if len(value) != 1 or (pattern and not re.fullmatch(pattern, value[0])):
                setattr(header, keyword, "")
        if len(texts(header, "FrameOfReferenceUID")) != 1:
            # All images of the series get the same UID, because their positions are in one space.
            header.FrameOfReferenceUID = generate_uid(entropy_srcs=[file.series, "space"])
    except MALFORMED as error:
        raise file.damaged() from error
    return header

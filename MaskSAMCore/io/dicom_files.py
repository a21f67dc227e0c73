"""Detection of the DICOM images in a folder, and reading of their headers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import is_image_name

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_MAGIC = b"DICM"
_MAGIC_OFFSET = 128
_HEAD_BYTES = _MAGIC_OFFSET + len(_MAGIC)
# Beginnings of files without the preamble: an element of group 8 or 2 in either byte order.
_BARE_BEGINNINGS = (b"\x08\x00", b"\x02\x00", b"\x00\x08\x00")
# Largest length of the first element of files without preamble and with implicit VR.
_BARE_ELEMENT_BYTES = 256
# Tag of the pixel data element in either byte order.
_PIXEL_DATA_TAGS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
_DEFLATED = "1.2.840.10008.1.2.1.99"
# Escape character that switches the character set within a text, and the delimiters after which the
# first character set applies again.
_ESCAPE = b"\x1b"
_TEXT_DELIMITERS = set(b"\r\n\t\f")
# Value representations (VR) that are not text.
_BINARY_TYPES = ("FD", "FL", "SL", "SS", "UL", "US", "SQ", "AT")
# Suffixes that only DICOM files have; the names of many end in a number, or have no suffix.
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")

_settings_lock = RLock()


@dataclass(frozen=True, eq=False)
class ImageFile:
    """A DICOM file that holds an image.

    Attributes:
        path: the file.
        header: all elements before the pixel data.
        series: UID of the series; empty if the file has none.
        transfer_syntax: UID of the encoding; empty if the file has none.
        pixels_at: byte position of the pixel data element in the file; None if the file is
            deflated and ``header`` also holds the pixels.
    """

    path: Path
    header: Dataset
    series: str
    transfer_syntax: str
    pixels_at: int | None

    @property
    def little_endian(self) -> bool:
        """True if the lowest byte of a number comes first."""
        return self.header.original_encoding[1] is not False

    def damaged(self) -> MaskSAMError:
        """Return the error for a file whose content contradicts its header."""
        return _damaged(self.path)


@contextmanager
def silent_pydicom() -> Iterator[None]:
    """Turn off pydicom's value checks and warnings; readers check the values that they need.

    The settings are process-wide, so only one thread at a time may use them.
    """
    from pydicom import config

    with _settings_lock, warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def is_dicom(path: Path) -> bool:
    """Return whether a file is a DICOM file, judging by its first bytes."""
    try:
        # Opening a pipe would wait for a writer.
        head = _head(path) if path.is_file() else b""
    except OSError:
        return False
    return _has_magic(head) or (_has_bare_beginning(head) and not is_image_name(path))


def read_series(path: Path, only: Sequence[Path] = ()) -> list[ImageFile]:
    """Return the image files of the only series in a folder, or the single file at ``path``.

    Args:
        path: folder or file.
        only: files of the series, if the folder also holds others; by default all files.

    Raises:
        MaskSAMError: the folder holds no series or several, or a file is damaged or no image.
    """
    if not path.is_dir():
        return [read_image_file(path)]
    files = [read_image_file(file) for file in only] if only else image_files(path)
    if not files:
        raise MaskSAMError(f"{path} holds no DICOM series and no image file")
    count = len({file.series for file in files})
    if count > 1:
        raise MaskSAMError(
            f"{path} holds {count} DICOM series: put the one to segment into its own folder"
        )
    patients = {"".join(texts(file.header, "PatientID")) for file in files}
    if len(patients) > 1:
        raise MaskSAMError(
            f"{path} holds slices of {len(patients)} patients: put those of one patient into"
            " their own folder"
        )
    return files


def has_dicom_names(folder: Path) -> bool:
    """Return whether a file in a folder has a suffix that only DICOM files have."""
    return any(path.suffix.lower() in _DICOM_SUFFIXES for path in folder.iterdir())


def image_files(folder: Path) -> list[ImageFile]:
    """Return the DICOM images of a folder in the order of their names.

    Hidden files, other formats and DICOM files that are no images, such as structured reports and
    segmentations, are left out.

    Raises:
        MaskSAMError: a file is damaged, or is named like a DICOM file but is not one.
    """
    files, damaged = readable_image_files(folder)
    if damaged:
        raise damaged[0]
    return files


def readable_image_files(folder: Path) -> tuple[list[ImageFile], list[MaskSAMError]]:
    """Return the DICOM images of a folder as in :func:`image_files`, and errors of bad files.

    A bad file is damaged, or is named like a DICOM file but is not one.
    """
    files: list[ImageFile] = []
    others: list[Path] = []
    damaged: list[MaskSAMError] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_dir():
            continue
        if not is_dicom(path):
            others.append(path)
            continue
        try:
            file = _read(path)
        except MaskSAMError as error:
            damaged.append(error)
            continue
        if file is not None:
            files.append(file)
    patterns = {_pattern(file.path) for file in files}
    for path in others:
        try:
            _check_other(path, _pattern(path) in patterns)
        except MaskSAMError as error:
            damaged.append(error)
    return files, damaged


def _check_other(path: Path, named_alike: bool) -> None:
    """Check that a file that was not recognized as DICOM is not a damaged DICOM file.

    Args:
        path: file that was not recognized.
        named_alike: whether the file name differs from that of a DICOM image only in its numbers.

    Raises:
        MaskSAMError: the name may be that of a DICOM file, and the file is a broken link,
            unreadable, empty or all zeros; or the name is certainly that of a DICOM file.
    """
    if path.suffix.lower() in _DICOM_SUFFIXES or named_alike:
        certain = True
    elif path.suffix[1:].isalpha():
        return
    else:
        certain = False
    remedy = "copy it again, or remove it"
    if not path.exists():
        raise MaskSAMError(f"{path} is a broken link: {remedy}")
    if not path.is_file():
        return
    try:
        head = _head(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MaskSAMError(f"{path} cannot be read: {reason}") from error
    if not head:
        raise MaskSAMError(f"{path} is an empty file: {remedy}")
    # Failed copies leave files that are cut inside the preamble, or all zeros.
    if certain or not any(head):
        raise MaskSAMError(f"{path} is damaged or no DICOM file: {remedy}")


def _pattern(path: Path) -> str:
    """Return a file name with each number replaced by 0."""
    return re.sub(r"[0-9]+", "0", path.name)


def read_image_file(path: Path) -> ImageFile:
    """Read the header of a DICOM file.

    Raises:
        MaskSAMError: the file is damaged, or is no image.
    """
    file = _read(path)
    if file is None:
        raise MaskSAMError(
            f"{path} is a DICOM file without an image, such as a segmentation or a report: give the"
            " folder of an image series"
        )
    return file


def _read(path: Path) -> ImageFile | None:
    """Return an image file, or None if the file is of another kind.

    Raises:
        MaskSAMError: the file is damaged or incomplete.
    """
    # pydicom raises errors of many types on damaged files.
    try:
        header, pixels_at = _read_header(path)
        meta = header.file_meta
        sop_class = texts(header, "SOPClassUID") or texts(meta, "MediaStorageSOPClassUID")
        series = "".join(texts(header, "SeriesInstanceUID"))
        syntax = "".join(texts(meta, "TransferSyntaxUID"))
        has_pixels = pixels_at is not None or "PixelData" in header
        is_image = _is_image_class("".join(sop_class), has_pixels)
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(path) from error
    if not is_image:
        return None
    if not has_pixels:
        raise _damaged(path)
    return ImageFile(path, header, series, syntax, pixels_at)


def _read_header(path: Path) -> tuple[Dataset, int | None]:
    """Return the header of a file, and the byte position of its pixel data element.

    The position is None if the file is deflated or has no pixels.
    """
    # Importing pydicom takes 0.1 s, which would slow down readers of other formats.
    import pydicom

    with path.open("rb") as stream:
        header = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
        if header.file_meta.get("TransferSyntaxUID") == _DEFLATED:
            stream.seek(0)
            return pydicom.dcmread(stream, force=True), None
        pixels_at = stream.tell()
        return header, pixels_at if stream.read(4) in _PIXEL_DATA_TAGS else None


@cache
def _is_image_class(sop_class: str, has_pixels: bool) -> bool:
    """Return whether an SOP class holds images; a private class does if its files have pixels."""
    from pydicom.uid import UID

    # A file that is cut before this element is found to be damaged by its missing pixels.
    if not sop_class:
        return True
    name = UID(sop_class).name
    if name == sop_class:
        return has_pixels
    return "Image Storage" in name


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_HEAD_BYTES)


def _has_magic(head: bytes) -> bool:
    return head[_MAGIC_OFFSET:] == _MAGIC


def _has_bare_beginning(head: bytes) -> bool:
    """Return whether a file without preamble begins with the first element of a DICOM header."""
    if not head.startswith(_BARE_BEGINNINGS) or len(head) < 16:
        return False
    stated_type = head[4:6].isalpha() and head[4:6].isupper()
    return stated_type or int.from_bytes(head[4:8], "little") <= _BARE_ELEMENT_BYTES


def _damaged(path: Path) -> MaskSAMError:
    return MaskSAMError(f"{path} is damaged or incomplete: copy it again")


def texts(header: Dataset, keyword: str | tuple[int, int]) -> tuple[str, ...]:
    """Return the values of an element as text; none if it is missing or empty."""
    tag = tag_of(keyword)
    if tag not in header:
        return ()
    element = header.get_item(tag)
    value: Any = element.value
    if isinstance(value, bytes) and (element.VR or _dictionary_type(tag)) not in _BINARY_TYPES:
        text = _decoded(header, value).strip(" \0")
        return tuple(part.strip() for part in text.split("\\")) if text else ()
    # pydicom's conversion takes several times as long, so it is used for binary values only.
    value = header[tag].value
    if value is None or value == "":
        return ()
    if isinstance(value, (str, bytes, int, float)):
        return (str(value),)
    return tuple(str(part) for part in value)


def _decoded(header: Dataset, value: bytes) -> str:
    """Return the text of an element, decoded with the header's character set."""
    # ASCII is the same in all character sets, except for the escape sequences of Asian ones.
    if value.isascii() and _ESCAPE not in value:
        return value.decode("ascii")
    from pydicom.charset import convert_encodings, decode_bytes

    encodings = convert_encodings(header.get("SpecificCharacterSet"))
    return decode_bytes(value, encodings, _TEXT_DELIMITERS)


def integer(header: Dataset, keyword: str, default: int | None = None) -> int:
    """Return the value of a two-byte integer element (US).

    Raises:
        ValueError: the element is missing and there is no default, or it is of another type.
    """
    tag = tag_of(keyword)
    value: Any = header.get_item(tag).value if tag in header else None
    if isinstance(value, bytes) and len(value) == 2:
        little_endian = header.original_encoding[1] is not False
        return int.from_bytes(value, "little" if little_endian else "big")
    if isinstance(value, int):
        return int(value)
    if value is None and default is not None:
        return default
    raise ValueError(f"{keyword} is missing or no integer of two bytes")


@cache
def tag_of(keyword: str | tuple[int, int]) -> Any:
    """Return the tag of an element; pydicom finds elements faster by tag than by keyword."""
    from pydicom.tag import Tag

    return Tag(keyword)


@cache
def _dictionary_type(tag: Any) -> str:
    """Return the VR of an element from the DICOM dictionary; empty for a private element."""
    from pydicom.datadict import dictionary_VR

    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return ""

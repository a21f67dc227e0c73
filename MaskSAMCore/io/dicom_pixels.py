"""Pixels of DICOM images: stored values, decoded from every transfer syntax."""

from __future__ import annotations

import os
import struct
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.dicom_files import ImageFile, integer, texts

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_BIG_ENDIAN = "1.2.840.10008.1.2.2"
# Transfer syntaxes without compression of the pixels; the file as a whole may be deflated.
_NATIVE = ("", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", _BIG_ENDIAN)
_RLE = "1.2.840.10008.1.2.5"
_OVERLAY_GROUPS = range(0x6000, 0x6020, 2)
_GREY_WORD_IMAGE = "1.2.840.10008.5.1.4.1.1.7.3"


@dataclass(frozen=True)
class PixelFormat:
    """Size and format of the pixels of a file.

    Attributes:
        frames: number of frames.
        rows: number of rows.
        columns: number of columns.
        bits_allocated: bits of a pixel in the file: 8, 16 or 32.
        bits_stored: bits of a pixel that hold its value.
        shift: number of bits of a pixel below its value.
        signed: whether values may be negative.
        inverted: whether low values are bright (MONOCHROME1).
    """

    frames: int
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    shift: int
    signed: bool
    inverted: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        return np.dtype(f"{'i' if self.signed else 'u'}{self.bits_allocated // 8}")

    @property
    def range(self) -> tuple[int, int]:
        """Lowest and highest value that can be stored."""
        half = 1 << (self.bits_stored - 1)
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)


@dataclass(frozen=True)
class StoredPixels:
    """Pixels of a file before slope and intercept.

    Attributes:
        values: stored values, (frames, rows, columns).
        cut: whether bits above the value were removed that are not an overlay according to the
            header.
    """

    values: NDArray[Any]
    cut: bool


def pixel_format(file: ImageFile) -> PixelFormat:
    """Return the format of the pixels of a file.

    Raises:
        MaskSAMError: the format is incomplete, contradictory or not supported.
    """
    header = file.header
    try:
        allocated = integer(header, "BitsAllocated")
        stored = integer(header, "BitsStored", allocated)
        high = integer(header, "HighBit", stored - 1)
        rows, columns = integer(header, "Rows"), integer(header, "Columns")
        signed = bool(integer(header, "PixelRepresentation"))
        frames = int("".join(texts(header, "NumberOfFrames")) or 1)
    except ValueError as error:
        raise file.damaged() from error
    if allocated not in (8, 16, 32):
        raise MaskSAMError(
            f"{file.path} has pixels of {allocated} bits, which are not supported: load it in"
            " 3D Slicer and save it as .nrrd"
        )
    if min(rows, columns, frames, stored) < 1 or not stored - 1 <= high < allocated:
        raise file.damaged()
    return PixelFormat(
        frames=frames,
        rows=rows,
        columns=columns,
        bits_allocated=allocated,
        bits_stored=stored,
        shift=high + 1 - stored,
        signed=signed,
        inverted=texts(header, "PhotometricInterpretation") == ("MONOCHROME1",),
    )


def stored_pixels(file: ImageFile, pixels: PixelFormat) -> StoredPixels:
    """Return the pixels of a file before slope and intercept.

    Values are inverted if low values are bright (MONOCHROME1), as in other readers.

    Raises:
        MaskSAMError: the pixels are incomplete or cannot be decoded.
    """
    native = file.transfer_syntax in _NATIVE
    values = _native_values(file, pixels) if native else _decoded_values(file, pixels)
    cut = False
    if values.dtype == pixels.dtype:
        whole = values
        values = _without_overlay(whole, pixels)
        if values is not whole and not _has_overlay_in_pixels(file):
            cut = _has_bits_above(whole, pixels)
    elif values.min() < pixels.range[0] or values.max() > pixels.range[1]:
        raise file.damaged()
    if pixels.inverted:
        # Bit operations give lowest + highest - value without overflow.
        values = ~values if pixels.signed else values ^ values.dtype.type(pixels.range[1])
    return StoredPixels(values, cut)


def _native_values(file: ImageFile, pixels: PixelFormat) -> NDArray[Any]:
    """Return the values of pixels that are not compressed."""
    data, words = _pixel_data(file)
    count = pixels.frames * pixels.rows * pixels.columns
    size = count * pixels.dtype.itemsize
    # Files may be padded with zeros, but further pixels mean that the header's size is wrong.
    if len(data) < size or any(data[size:]):
        raise file.damaged()
    if file.little_endian:
        values = np.frombuffer(data, pixels.dtype.newbyteorder("<"), count)
    elif words and pixels.bits_allocated == 8:
        # Two pixels share a word, whose bytes are in reverse order.
        pairs = np.frombuffer(data, ">u2", len(data) // 2).astype("<u2")
        values = pairs.view(pixels.dtype)[:count]
    else:
        values = np.frombuffer(data, pixels.dtype.newbyteorder(">"), count).astype(pixels.dtype)
    return values.reshape(pixels.frames, pixels.rows, pixels.columns)


def _decoded_values(file: ImageFile, pixels: PixelFormat) -> NDArray[Any]:
    """Return the values of compressed pixels.

    Raises:
        MaskSAMError: the pixels cannot be decoded.
    """
    from pydicom.uid import UID

    bare = _bare_dataset(file, pixels)
    # The decoders raise errors of many types on damaged data.
    try:
        # GDCM cannot decode all RLE files, and the other decoders of pydicom are optional.
        rle = file.transfer_syntax == _RLE
        decoded = bare.pixel_array if rle else _decoded_by_gdcm(bare)
        return decoded.reshape(pixels.frames, pixels.rows, pixels.columns)
    except (MaskSAMError, MemoryError):
        raise
    except Exception as error:
        raise MaskSAMError(
            f"{file.path} cannot be decoded ({UID(file.transfer_syntax).name}): it is damaged, or"
            " compressed in a way that is not supported"
        ) from error


def _decoded_by_gdcm(bare: Dataset) -> NDArray[Any]:
    import SimpleITK as sitk

    with tempfile.TemporaryDirectory(prefix="masksam-dicom-") as folder:
        path = os.path.join(folder, "pixels.dcm")
        bare.save_as(path, enforce_file_format=True)
        return sitk.GetArrayFromImage(sitk.ReadImage(path, imageIO="GDCMImageIO"))


def _bare_dataset(file: ImageFile, pixels: PixelFormat) -> Dataset:
    """Return a dataset with nothing but the compressed pixels of a file.

    GDCM would apply the slope and intercept of one frame to all, and cannot open all paths.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import generate_uid

    bare = Dataset()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = file.transfer_syntax
    bare.file_meta.MediaStorageSOPClassUID = _GREY_WORD_IMAGE
    bare.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    bare.SOPClassUID = _GREY_WORD_IMAGE
    bare.SOPInstanceUID = bare.file_meta.MediaStorageSOPInstanceUID
    bare.SamplesPerPixel = 1
    bare.PhotometricInterpretation = "MONOCHROME2"
    bare.NumberOfFrames = pixels.frames
    bare.Rows = pixels.rows
    bare.Columns = pixels.columns
    bare.BitsAllocated = pixels.bits_allocated
    bare.BitsStored = pixels.bits_stored
    bare.HighBit = pixels.bits_stored - 1 + pixels.shift
    bare.PixelRepresentation = int(pixels.signed)
    bare.PixelData = _pixel_data(file)[0]
    bare["PixelData"].VR = "OB"
    bare["PixelData"].is_undefined_length = True
    return bare


def _pixel_data(file: ImageFile) -> tuple[bytes, bool]:
    """Return the pixel data, and whether it is stored as words of two bytes.

    Raises:
        MaskSAMError: the file is damaged or incomplete.
    """
    from pydicom.filereader import data_element_generator

    if file.pixels_at is None:
        return file.header.PixelData, False
    try:
        with file.path.open("rb") as stream:
            stream.seek(file.pixels_at)
            element = next(data_element_generator(stream, *file.header.original_encoding))
    except (OSError, EOFError, ValueError, struct.error, StopIteration) as error:
        raise file.damaged() from error
    # Files with implicit VR store words.
    return element.value or b"", element.VR in ("OW", None)


def _has_overlay_in_pixels(file: ImageFile) -> bool:
    """Return whether the header says that bits of the pixels hold an overlay."""
    for group in _OVERLAY_GROUPS:
        position = texts(file.header, (group, 0x0102))
        if position and position != ("0",):
            return True
    return False


def _has_bits_above(values: NDArray[Any], pixels: PixelFormat) -> bool:
    """Return whether the bits above a value hold anything but copies of its sign bit."""
    bits = values.view(np.dtype(f"u{values.dtype.itemsize}")) >> pixels.shift
    above = bits >> pixels.bits_stored
    if not pixels.signed:
        return bool(above.any())
    count = pixels.bits_allocated - pixels.shift - pixels.bits_stored
    negative = (bits >> (pixels.bits_stored - 1)) & 1
    return bool(((above != 0) & ((above != (1 << count) - 1) | (negative == 0))).any())


def _without_overlay(values: NDArray[Any], pixels: PixelFormat) -> NDArray[Any]:
    """Return the values without the bits of a pixel that do not belong to its value."""
    if pixels.bits_stored == pixels.bits_allocated:
        return values
    lowest, highest = pixels.range
    if pixels.shift == 0 and lowest <= values.min() and values.max() <= highest:
        return values
    bits = values.view(np.dtype(f"u{values.dtype.itemsize}")) >> pixels.shift
    # Shifting to the top and back copies the sign of a signed value into all bits above it.
    empty = 8 * values.dtype.itemsize - pixels.bits_stored
    return (bits << empty).view(values.dtype) >> empty

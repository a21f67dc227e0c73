"""Reading and writing of NIfTI-1 and NIfTI-2 files, and reading of pairs and Analyze 7.5."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from nibabel.analyze import AnalyzeHeader
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.quaternions import quat2mat
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import NiftiOrientation, Volume
from MaskSAMCore.io.companions import partner_file
from MaskSAMCore.io.files import LARGEST_COMPRESSION, image_stem
from MaskSAMCore.io.orientation import (
    LARGEST_NUMBER,
    check_voxel_size,
    is_invertible,
    is_size,
    nifti_matrix,
    size_text,
)
from MaskSAMCore.io.scaling import scaled

# Types of voxels by their codes in NIfTI and Analyze files.
_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8",
    256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_COMPLEX = (32, 1792, 2048)
_COLOURS = {128: 3, 2304: 4}
_VECTOR = 1007
_LARGEST_CODE = int(np.iinfo(np.int16).max)
_LARGEST_NIFTI1_SIZE = int(np.iinfo(np.int16).max)
# Millimetres per unit by the code of the unit; files without a unit are in mm.
_MILLIMETRES = {1: 1e3, 3: 1e-3}
_MM_AND_SECONDS = 2 | 8
_HEADER_BYTES = {1: 352, 2: 544}  # with the four bytes that say whether extensions follow
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_LEVEL = 6
_BLOCK_BYTES = 1 << 22
# Excess of a quaternion's norm over 1 that rounding explains.
_NORM_TOLERANCE = 1e-3


def is_nifti(path: Path) -> bool:
    """Return whether a file is a NIfTI or Analyze file, or the voxel file of a pair.

    Raises:
        MaskSAMError: the file is compressed with gzip and cannot be unpacked.
        OSError: the file cannot be read.
    """
    if _paired_header(path) is not None:
        return True
    with _content(path) as stream:
        return _version(stream.read(_HEADER_BYTES[1])) is not None


def read_nifti(path: Path) -> Volume:
    """Read a NIfTI file or a pair of header and voxel files; gzip is detected by content.

    Args:
        path: NIfTI file, or either file of a pair.

    Returns:
        Volume with the voxel type of the file, or float32 if integers are scaled; NaN and infinite
        voxels are 0.

    Raises:
        MaskSAMError: the file is damaged or incomplete, or holds no 3D grey-level image.
        OSError: the file cannot be read.
    """
    header_path = _paired_header(path) or path
    with _content(header_path) as stream:
        start = stream.read(_HEADER_BYTES[1])
        if _version(start) == 2:
            start += stream.read(_HEADER_BYTES[2] - len(start))
        header = _header(path, start)
        shape = _shape(path, header)
        dtype = _dtype(path, header)
        single = _is_single(header)
        if single:
            offset = _voxel_offset(header, len(start))
            voxels = _voxels(path, stream, shape, dtype, offset, int(header["bitpix"]))
    if not single:
        voxels_path = _paired_voxels(header_path)
        with _content(voxels_path) as stream:
            offset = _voxel_offset(header, 0)
            voxels = _voxels(voxels_path, stream, shape, dtype, offset, int(header["bitpix"]))
    array = _scaled(voxels, header)
    orientation, spacing_notes = _orientation(path, header)
    matrix, notes = nifti_matrix(orientation, shape, path)
    check_voxel_size(matrix, path)
    return Volume(
        array,
        matrix + 0.0,  # minus zero becomes zero
        image_stem(path),
        notes=(*spacing_notes, *notes),
        orientation=orientation,
    )


def write_nifti(
    array: NDArray[Any],
    ijk_to_ras: NDArray[np.float64],
    orientation: NiftiOrientation | None,
    path: Path,
) -> bool:
    """Write a NIfTI file, compressed if its suffix is ``.gz``, and read it back.

    Args:
        array: integers or floats [K, J, I], or [components, K, J, I].
        ijk_to_ras: (4, 4), from voxel indices to RAS mm, with axes at right angles.
        orientation: qform and sform of the file that was read, which are written if they still give
            the same matrix; None without such a file.
        path: file to write.

    Returns:
        True if the written file has the intended content.

    Raises:
        OSError: the file cannot be written.
    """
    header = _new_header(array, _forms(ijk_to_ras, orientation, array.shape[-3:], path))
    start = header.binaryblock + bytes(4)
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    with open(path, "wb") as file:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as stream:
                stream.write(start)
                for position in range(0, len(content), _BLOCK_BYTES):
                    stream.write(content[position : position + _BLOCK_BYTES])
        else:
            file.write(start)
            file.write(content)
    try:
        with _content(path) as written:
            same = written.read(len(start)) == start
            for position in range(0, len(content), _BLOCK_BYTES):
                block = content[position : position + _BLOCK_BYTES]
                same = same and written.read(len(block)) == block
            return same and not written.read(1)
    except MaskSAMError:
        return False


@contextmanager
def _content(path: Path) -> Iterator[BinaryIO]:
    """Yield a stream of a file's content, unpacked if it is compressed with gzip.

    Raises:
        MaskSAMError: the compressed data is damaged or incomplete.
    """
    with open(path, "rb") as file:
        if file.peek(2)[:2] != _GZIP_MAGIC:
            yield file
            return
        try:
            with gzip.GzipFile(fileobj=file, mode="rb") as stream:
                yield stream  # type: ignore[misc]
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise MaskSAMError(f"{path} is damaged or incomplete: copy it again") from error


def _version(start: bytes) -> int | None:
    """Return 1 for the header of NIfTI-1 or Analyze, 2 for NIfTI-2, None for other content."""
    if len(start) < 348:
        return None
    if start[4:8] in (b"n+2\0", b"ni2\0"):
        return 2
    sizes = [int.from_bytes(start[:4], order) for order in ("little", "big")]  # type: ignore[arg-type]
    if start[344:348] in (b"n+1\0", b"ni1\0") or 348 in sizes:
        return 1
    return None


def _header(path: Path, start: bytes) -> Any:
    """Return nibabel's header, in the byte order that gives a valid number of dimensions."""
    version = _version(start)
    length = {1: 348, 2: 540, None: 0}[version]
    position, size = (16, 8) if version == 2 else (40, 2)
    for order, sign in (("little", "<"), ("big", ">")):
        count = int.from_bytes(start[position : position + size], order)  # type: ignore[arg-type]
        if version is not None and len(start) >= length and 1 <= count <= 7:
            if version == 2:
                return Nifti2Header(start[:540], sign, check=False)
            analyze = start[344:346] not in (b"n+", b"ni")
            kind = AnalyzeHeader if analyze else Nifti1Header
            return kind(start[:348], sign, check=False)
    raise MaskSAMError(f"{path} has a damaged NIfTI or Analyze header: copy it again")


def _is_single(header: Any) -> bool:
    """Return whether the voxels follow the header in the same file."""
    return isinstance(header, Nifti1Header) and header["magic"].item()[:2] == b"n+"


def _shape(path: Path, header: Any) -> tuple[int, int, int]:
    """Return the number of voxels along K, J, I."""
    count, *sizes = (int(size) for size in header["dim"])
    sizes = sizes[:count]
    while len(sizes) > 3 and sizes[-1] in (0, 1):
        sizes.pop()
    if len(sizes) == 5 and int(_value(header, "intent_code")) == _VECTOR:
        raise MaskSAMError(
            f"{path} has {sizes[4]} values per voxel (colour?): give a grey-level image"
        )
    if len(sizes) != 3:
        raise MaskSAMError(f"{path} is a {len(sizes)}D image: give a single 3D volume")
    if min(sizes) <= 0:
        raise MaskSAMError(f"{path} has no voxels: its header says {sizes} voxels along its axes")
    i, j, k = sizes
    return k, j, i


def _value(header: Any, field: str) -> float:
    """Return a number of a header; 0 if the field is missing, as in Analyze headers."""
    return float(header[field]) if field in header else 0.0


def _dtype(path: Path, header: Any) -> np.dtype[Any]:
    code = int(header["datatype"])
    if code in _COMPLEX:
        raise MaskSAMError(f"{path} has complex voxels: give the magnitude image")
    if code in _COLOURS:
        raise MaskSAMError(
            f"{path} has {_COLOURS[code]} values per voxel (colour?): give a grey-level image"
        )
    if code not in _TYPES:
        raise MaskSAMError(
            f"{path} has voxels of an unsupported type (NIfTI code {code}): save it as float32"
        )
    return np.dtype(_TYPES[code]).newbyteorder(header.endianness)


def _voxel_offset(header: Any, header_bytes: int) -> int:
    """Return the position of the first voxel in its file, at least ``header_bytes``."""
    offset = float(header["vox_offset"])
    return max(int(offset), header_bytes) if math.isfinite(offset) else header_bytes


def _voxels(
    path: Path,
    stream: BinaryIO,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    offset: int,
    bits: int,
) -> NDArray[Any]:
    """Read voxels [K, J, I] and verify the checksums of compressed data up to its end.

    Args:
        path: file with the voxels, for messages.
        stream: content of the file.
        shape: voxels along K, J, I.
        dtype: type of the voxels.
        offset: position of the first voxel.
        bits: bits of a voxel as the header says; many programs leave a wrong number here.

    Raises:
        MaskSAMError: the file is damaged, or its voxels are not of the given type.
    """
    size = math.prod(shape) * dtype.itemsize
    compressed = isinstance(stream, gzip.GzipFile)
    # The file size limits the number of voxels; no memory is allocated for an impossible number.
    if offset + size > path.stat().st_size * (LARGEST_COMPRESSION if compressed else 1):
        raise MaskSAMError(f"{path} is incomplete: copy it again")
    buffer = np.empty(size, np.uint8)
    stream.seek(offset)
    view, position = buffer.data, 0
    while count := stream.readinto(view[position : position + _BLOCK_BYTES]):  # type: ignore[attr-defined]
        position += count
    if position < size:
        raise MaskSAMError(f"{path} is incomplete: copy it again")
    rest = 0 if compressed else path.stat().st_size - offset - size
    while compressed and (block := stream.read(_BLOCK_BYTES)):
        rest += len(block)
    if bits != 8 * dtype.itemsize and 8 * (size + rest) == bits * math.prod(shape):
        raise MaskSAMError(
            f"{path} has a header that says voxels of type {dtype.name} and of {bits} bits:"
            " correct it"
        )
    voxels = buffer.view(dtype).reshape(shape)
    if not dtype.isnative:
        voxels.byteswap(inplace=True)
    voxels = voxels.view(dtype.newbyteorder("="))
    if dtype.kind == "f":
        for plane in voxels:
            plane[~np.isfinite(plane)] = 0
    return voxels


def _scaled(voxels: NDArray[Any], header: Any) -> NDArray[Any]:
    """Return the voxels scaled by slope and intercept; integers become float32."""
    slope, intercept = _value(header, "scl_slope"), _value(header, "scl_inter")
    if not math.isfinite(slope) or slope == 0:
        return voxels
    return scaled(voxels, slope, intercept if math.isfinite(intercept) else 0.0)


def _orientation(path: Path, header: Any) -> tuple[NiftiOrientation, tuple[str, ...]]:
    """Return qform and sform in mm, with code 0 if not valid, and notes about voxel sizes.

    Raises:
        MaskSAMError: the file gives a qform or sform, but no valid one.
    """
    to_mm = _MILLIMETRES.get(int(_value(header, "xyzt_units")) & 7, 1.0)
    pixdim = np.asarray(header["pixdim"][:4], dtype=np.float64)
    qform_code, sform_code = (
        min(max(int(_value(header, field)), 0), _LARGEST_CODE)
        for field in ("qform_code", "sform_code")
    )
    oriented = qform_code > 0 or sform_code > 0
    sform = np.eye(4)
    if sform_code:
        rows = [header[row] for row in ("srow_x", "srow_y", "srow_z")]
        sform[:3] = np.asarray(rows, dtype=np.float64) * to_mm
        sform_code = sform_code if is_invertible(sform) else 0
    spacing = pixdim[1:] * to_mm
    notes: tuple[str, ...] = ()
    valid = is_size(spacing)
    if not valid.all():
        qform_code = 0 if sform_code else qform_code
        spacing, notes = _mended_spacing(path, spacing, sform if sform_code else None)
    qform = np.diag([*spacing, 1.0])
    if qform_code:
        rotation = _rotation(header, pixdim[0])
        offset = np.array([header[f"qoffset_{axis}"] for axis in "xyz"], dtype=np.float64) * to_mm
        if rotation is None or not (np.abs(offset) < LARGEST_NUMBER).all():  # NaN included
            qform_code = 0
        else:
            qform[:3, :3] = rotation * spacing
            qform[:3, 3] = offset
    if oriented and not qform_code and not sform_code:
        raise MaskSAMError(
            f"{path} has no valid orientation (its sform and qform are singular or not numbers):"
            " correct its header"
        )
    return NiftiOrientation(qform, qform_code, sform if sform_code else qform, sform_code), notes


def _mended_spacing(
    path: Path, spacing: NDArray[np.float64], sform: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return positive voxel sizes in mm (of the sform, else absolute sizes, else 1), and notes."""
    if sform is not None:
        return np.linalg.norm(sform[:3, :3], axis=0), ()
    mended = np.where(is_size(np.abs(spacing)), np.abs(spacing), 1.0)
    return mended, (
        f"{path.name} has voxels of {size_text(spacing)} mm by its header:"
        f" {size_text(mended)} mm is a guess",
    )


def _rotation(header: Any, side: float) -> NDArray[np.float64] | None:
    """Return the axes of the qform as columns, or None if its quaternion is not valid."""
    vector = np.array([header[f"quatern_{part}"] for part in "bcd"], dtype=np.float64)
    if not (np.abs(vector) <= 2).all():  # NaN included
        return None
    length = float(np.linalg.norm(vector))
    if length > 1 + _NORM_TOLERANCE:
        return None
    # The real part of a half turn is 0 except for rounding; NIfTI's own library has this limit.
    half_turn = 1 - length**2 < 1e-7
    quaternion = [0.0, *(vector / length)] if half_turn else [math.sqrt(1 - length**2), *vector]
    rotation: NDArray[np.float64] = quat2mat(quaternion)
    return rotation * [1, 1, -1 if side < 0 else 1]


def _forms(
    ijk_to_ras: NDArray[np.float64],
    orientation: NiftiOrientation | None,
    shape: tuple[int, ...],
    path: Path,
) -> NiftiOrientation:
    """Return the qform and sform to write: the given ones if they match, else ``ijk_to_ras``."""
    if orientation is not None:
        k, j, i = shape
        matrix, _ = nifti_matrix(orientation, (k, j, i), path)
        if np.allclose(matrix, ijk_to_ras, rtol=0, atol=1e-6):
            return orientation
    return NiftiOrientation(ijk_to_ras, 1, ijk_to_ras, 1)


def _new_header(array: NDArray[Any], forms: NiftiOrientation) -> Any:
    *components, k, j, i = array.shape
    kind = Nifti1Header if max(array.shape) <= _LARGEST_NIFTI1_SIZE else Nifti2Header
    header = kind()
    header.set_data_dtype(array.dtype)
    if components:
        header.set_data_shape((i, j, k, 1, *components))
        header["intent_code"] = _VECTOR
    else:
        header.set_data_shape((i, j, k))
    header.set_qform(forms.qform)
    header.set_sform(forms.sform)
    header["qform_code"], header["sform_code"] = forms.qform_code, forms.sform_code
    header["vox_offset"] = len(header.binaryblock) + 4
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["xyzt_units"] = _MM_AND_SECONDS
    return header


def _paired_header(path: Path) -> Path | None:
    """Return the header that belongs to a voxel file (``.img``), if it exists."""
    return partner_file(path, ".img", ".hdr")


def _paired_voxels(path: Path) -> Path:
    """Return the voxel file that belongs to a header (``.hdr``).

    Raises:
        MaskSAMError: the voxel file is missing.
    """
    partner = partner_file(path, ".hdr", ".img")
    if partner is None:
        raise MaskSAMError(f"{path} is only a header: its voxels (.img) are missing beside it")
    return partner

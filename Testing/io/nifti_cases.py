"""NIfTI inputs of many kinds, with the outcome of reading each."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.analyze import AnalyzeHeader
from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
from nibabel.nifti2 import Nifti2Header
from scipy.spatial.transform import Rotation

from Testing.helpers.input_cases import Expected, InputCase
from Testing.io.helpers import oblique_volume

VOLUME = oblique_volume(mirrored=True)
ARRAY, MATRIX = VOLUME.array, VOLUME.ijk_to_ras
SPACING = np.array(VOLUME.spacing)
NAN = float("nan")


def file_content(
    array: np.ndarray = ARRAY,
    *,
    qform: np.ndarray = MATRIX,
    sform: np.ndarray = MATRIX,
    codes: tuple[int, int] = (1, 1),
    kind: Any = Nifti1Header,
    endianness: str = "<",
    **fields: Any,
) -> bytes:
    """Return the content of a NIfTI file.

    Args:
        array: voxels with reversed axes, such as [K, J, I].
        qform: matrix of the qform.
        sform: matrix of the sform.
        codes: codes of the qform and the sform.
        kind: class of the header.
        endianness: byte order of header and voxels.
        **fields: further fields of the header; ``pixdim1`` is an element of ``pixdim``.
    """
    header = kind(endianness=endianness)
    header.set_data_dtype(array.dtype.newbyteorder(endianness))
    header.set_data_shape(array.shape[::-1])
    header.set_qform(qform)
    header.set_sform(sform)
    header["qform_code"], header["sform_code"] = codes
    header["vox_offset"] = len(header.binaryblock) + 4
    header["scl_slope"], header["scl_inter"] = 1, 0
    for name, value in fields.items():
        if name.startswith(("pixdim", "dim")) and name[-1].isdigit():
            header[name[:-1]][int(name[-1])] = value
        else:
            header[name] = value
    voxels = array.astype(array.dtype.newbyteorder(endianness)).tobytes()
    return bytes(header.binaryblock) + bytes(4) + voxels


def read_as(
    array: np.ndarray = ARRAY, matrix: np.ndarray = MATRIX, name: str = "a.nii", **options: Any
) -> Callable[[Path], Expected]:
    """Return a writer of a file that must be read as ``array`` and ``matrix``."""
    array_in_file = options.pop("written", array)

    def write(folder: Path) -> Expected:
        content = file_content(array_in_file, **options)
        (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        return Expected(folder / name, array, matrix)

    return write


def refused(name: str = "a.nii", **options: Any) -> Callable[[Path], Expected]:
    """Return a writer of a file that must be refused."""

    def write(folder: Path) -> Expected:
        (folder / name).write_bytes(file_content(**options))
        return Expected(folder / name)

    return write


def content(name: str, make: Callable[[], bytes], read: bool = False) -> Callable[[Path], Expected]:
    """Return a writer of a file of any content, which is read as ARRAY or must be refused."""

    def write(folder: Path) -> Expected:
        (folder / name).write_bytes(make())
        path = folder / name
        return Expected(path, ARRAY, MATRIX) if read else Expected(path)

    return write


def two_members() -> bytes:
    data = file_content()
    return gzip.compress(data[:1000]) + gzip.compress(data[1000:]) + bytes(512)


def wrong_checksum() -> bytes:
    data = bytearray(gzip.compress(file_content()))
    data[-8] ^= 1
    return bytes(data)


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def pair(given: str, names: tuple[str, str]) -> Callable[[Path], Expected]:
    """Return a writer of a header file and a voxel file; the file named ``given`` is read."""

    def write(folder: Path) -> Expected:
        data = file_content(kind=Nifti1PairHeader, vox_offset=0)
        for name, part in zip(names, (data[:348], data[352:]), strict=True):
            (folder / name).write_bytes(gzip.compress(part) if name.endswith("gz") else part)
        return Expected(folder / given, ARRAY, MATRIX)

    return write


def write_header_alone(folder: Path) -> Expected:
    (folder / "a.hdr").write_bytes(file_content(kind=Nifti1PairHeader, vox_offset=0)[:348])
    return Expected(folder / "a.hdr")


def write_analyze(folder: Path) -> Expected:
    header = AnalyzeHeader()
    header.set_data_dtype(np.int16)
    header.set_data_shape((6, 5, 4))
    header.set_zooms((0.7, 0.8, 2.5))
    array = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    (folder / "a.hdr").write_bytes(header.binaryblock)
    (folder / "a.img").write_bytes(array.tobytes())
    return Expected(folder / "a.img", array, unoriented((0.7, 0.8, 2.5), array.shape))


def write_twins(folder: Path) -> Expected:
    (folder / "a.nii").write_bytes(file_content(np.zeros((3, 4, 5), np.int16)))
    return read_as(name="a.nii.gz")(folder)


def write_below_a_strange_folder(folder: Path) -> Expected:
    strange = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9"))
    strange.mkdir()
    return read_as(name=os.fsdecode(b"\xfc.nii.gz"))(strange)


def write_below_long_folders(folder: Path) -> Expected:
    for _ in range(6):
        folder = folder / ("x" * 200)
    folder.mkdir(parents=True)
    return read_as(name="a.nii.gz")(folder)


def unoriented(spacing: Any, shape: tuple[int, ...] = ARRAY.shape) -> np.ndarray:
    """Return the matrix that nibabel assigns to a file without orientation."""
    i, j, k = spacing
    matrix = np.diag([-i, j, k, 1.0])
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2)
    return matrix


def shifted(mm: float, matrix: np.ndarray = MATRIX) -> np.ndarray:
    """Return a matrix that places voxels ``mm`` further to the right."""
    result = matrix.copy()
    result[0, 3] += mm
    return result


def sheared(amount: float, matrix: np.ndarray = MATRIX) -> np.ndarray:
    """Return a matrix whose second axis leans towards the first by ``amount``, a cosine."""
    result = matrix.copy()
    i, j = (result[:3, axis] / np.linalg.norm(result[:3, axis]) for axis in (0, 1))
    result[:3, 1] = np.linalg.norm(result[:3, 1]) * (j * np.sqrt(1 - amount**2) + i * amount)
    return result


def unsheared(amount: float, shape: tuple[int, ...], matrix: np.ndarray = MATRIX) -> np.ndarray:
    """Return the rectangular matrix nearest to that of :func:`sheared`.

    Both axes turn by half the angle, and the centre of the volume stays in place.
    """
    result = matrix.copy()
    i, j = (result[:3, axis] / np.linalg.norm(result[:3, axis]) for axis in (0, 1))
    turned = Rotation.from_rotvec(np.cross(j, i) * np.arcsin(amount) / 2).as_matrix()
    result[:3, :3] = turned @ result[:3, :3]
    center = (np.array(shape[::-1]) - 1) / 2
    lean = sheared(amount, matrix)
    result[:3, 3] = lean[:3, 3] + (lean[:3, :3] - result[:3, :3]) @ center
    return result


def scaled(matrix: np.ndarray, factor: float) -> np.ndarray:
    result = matrix.copy()
    result[:3] *= factor
    return result


def with_nan() -> np.ndarray:
    array = ARRAY.copy()
    array[1, 2, 3], array[2, 3, 4] = NAN, np.inf
    return array


def without_nan() -> np.ndarray:
    array = ARRAY.copy()
    array[1, 2, 3] = array[2, 3, 4] = 0
    return array


MIRRORED = MATRIX @ np.diag([-1, 1, 1, 1])
SINGULAR = np.diag([0.0, 0.0, 0.0, 1.0])
NAN_FORM = {"srow_x": [NAN] * 4, "srow_y": [NAN] * 4, "srow_z": [NAN] * 4}
NO_FORM = {f"srow_{axis}": [0.0] * 4 for axis in "xyz"}
INTEGERS = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
LONG = np.zeros((2, 400, 400), np.uint8)

CASES: list[InputCase] = [
    InputCase("NIfTI-1, compressed", read_as(name="a.nii.gz"), "read"),
    InputCase("NIfTI-2", read_as(kind=Nifti2Header), "read"),
    InputCase("big-endian NIfTI", read_as(endianness=">"), "read"),
    InputCase("pair of .hdr and .img, either file", pair("a.img", ("a.hdr", "a.img")), "read"),
    InputCase("compressed pair", pair("a.hdr.gz", ("a.hdr.gz", "a.img.gz")), "read"),
    InputCase(
        ".hdr without .img",
        write_header_alone,
        "refused",
        "voxels .* are missing",
        "The voxels are in the other file.",
    ),
    InputCase(
        "Analyze 7.5",
        write_analyze,
        "read with a note",
        "a.img does not say its orientation",
        "The axes are taken to point left, anterior and superior, as in nibabel.",
    ),
    InputCase(
        ".nii.gz that is not compressed",
        content("a.nii.gz", file_content, read=True),
        "read",
        reason="The content decides, not the name.",
    ),
    InputCase(
        ".nii that is compressed",
        content("a.nii", lambda: gzip.compress(file_content()), read=True),
        "read",
        reason="The content decides, not the name.",
    ),
    InputCase("a.nii.gz beside another a.nii", write_twins, "read", reason="Its own voxels."),
    InputCase(
        "gzip in two parts, zeros behind", content("a.nii.gz", two_members, read=True), "read"
    ),
    InputCase(
        "gzip with a wrong checksum",
        content("a.nii.gz", wrong_checksum),
        "refused",
        "damaged or incomplete: copy it again",
    ),
    InputCase(
        "gzip with other data behind",
        content("a.nii.gz", lambda: gzip.compress(file_content()) + b"garbage"),
        "refused",
        "damaged or incomplete: copy it again",
    ),
    InputCase(
        "half a .nii.gz",
        content("a.nii.gz", lambda: half(gzip.compress(file_content()))),
        "refused",
        "incomplete: copy it again",
    ),
    InputCase(
        "half a .nii",
        content("a.nii", lambda: half(file_content())),
        "refused",
        "incomplete: copy it again",
    ),
    InputCase(
        "compressed header of half the voxels",
        content("a.nii.gz", lambda: gzip.compress(half(file_content()))),
        "refused",
        "incomplete: copy it again",
    ),
    InputCase(
        "sizes that the file cannot hold",
        refused(dim1=32000, dim2=32000, dim3=32000),
        "refused",
        "incomplete: copy it again",
        "Memory is not asked for in vain.",
    ),
    InputCase("size 0 along an axis", refused(dim3=0), "refused", "no voxels"),
    InputCase(
        "neither sform nor qform",
        read_as(matrix=unoriented(SPACING), codes=(0, 0)),
        "read with a note",
        "does not say its orientation: left and right are a guess",
        "The axes are taken to point left, anterior and superior, as in nibabel.",
    ),
    InputCase("qform alone", read_as(codes=(1, 0), sform=SINGULAR), "read"),
    InputCase("sform alone", read_as(codes=(0, 2), qform=np.diag([*SPACING, 1])), "read"),
    InputCase(
        "sform (code 2) away from the qform",
        read_as(codes=(1, 2), sform=shifted(20)),
        "read with a note",
        r"differ by up to 20 mm: its qform \(code 1\) is used",
        "The qform is used, as in 3D Slicer; labelmaps in NIfTI repeat both forms.",
    ),
    InputCase(
        "sform (code 4) mirrored against the qform",
        read_as(codes=(1, 4), sform=MIRRORED),
        "read with a note",
        r"swap left and right: its qform \(code 1\) is used.* not its sform \(code 4\)",
        "The qform is used; the note warns of the sides.",
    ),
    InputCase(
        "sform (code 1) away from the qform",
        read_as(codes=(1, 1), qform=shifted(20)),
        "read with a note",
        r"its sform \(code 1\) is used, not its qform",
        "The sform is used, as in 3D Slicer.",
    ),
    InputCase(
        "forms that differ by a small fraction of a voxel",
        read_as(codes=(1, 2), sform=shifted(0.05)),
        "read",
        reason="The qform is used, as in 3D Slicer.",
    ),
    InputCase(
        "sform of NaN, valid qform", read_as(**NAN_FORM), "read", reason="The qform is used."
    ),
    InputCase(
        "sform of zeros, valid qform", read_as(**NO_FORM), "read", reason="The qform is used."
    ),
    InputCase(
        "qform of NaN, valid sform", read_as(quatern_b=NAN), "read", reason="The sform is used."
    ),
    InputCase(
        "no valid form", refused(codes=(0, 1), **NAN_FORM), "refused", "no valid orientation"
    ),
    InputCase(
        "voxel size 0 or NaN in pixdim, valid sform",
        read_as(pixdim1=0, pixdim2=NAN),
        "read",
        reason="The sform is used, with its own voxel sizes.",
    ),
    InputCase(
        "voxel size 0 in pixdim, qform alone",
        read_as(matrix=MATRIX @ np.diag([1 / SPACING[0], 1, 1, 1]), codes=(1, 0), pixdim1=0),
        "read with a note",
        "0 x 0.8 x 2.5 mm by its header: 1 x 0.8 x 2.5 mm is a guess",
        "1 mm is a guess.",
    ),
    InputCase(
        "negative voxel size in pixdim, qform alone",
        read_as(codes=(1, 0), pixdim3=-2.5),
        "read with a note",
        "0.7 x 0.8 x -2.5 mm by its header: 0.7 x 0.8 x 2.5 mm is a guess",
        "The sign is ignored.",
    ),
    InputCase(
        "other voxel sizes in pixdim than in the sform",
        read_as(matrix=MATRIX @ np.diag([1, 1, 0.8, 1]), codes=(0, 1), pixdim3=2.0),
        "read with a note",
        "0.7 x 0.8 x 2 mm by its pixdim, but of 0.7 x 0.8 x 2.5 mm by its sform",
        "pixdim is used, as in 3D Slicer.",
    ),
    InputCase(
        "sform sheared by 0.001",
        read_as(matrix=unsheared(0.001, ARRAY.shape), codes=(0, 2), sform=sheared(0.001)),
        "read",
        reason="The nearest rectangular grid is used; no voxel moves noticeably.",
    ),
    InputCase(
        "sform sheared by 0.002, many voxels",
        read_as(LONG, unsheared(0.002, LONG.shape), codes=(0, 2), sform=sheared(0.002)),
        "read with a note",
        r"slightly sheared axes: .* up to 0\.2\d? mm away",
        "The nearest rectangular grid is used.",
    ),
    InputCase(
        "sheared sform alone",
        refused(codes=(0, 2), sform=sheared(0.02)),
        "refused",
        "sheared axes: resample it",
        "Arrays with rectangular axes cannot hold it.",
    ),
    InputCase(
        "sheared sform, valid qform",
        read_as(codes=(1, 2), sform=sheared(0.05)),
        "read with a note",
        r"its qform \(code 1\) is used",
        "The qform is used, as in 3D Slicer.",
    ),
    InputCase(
        "lengths in metres",
        read_as(qform=scaled(MATRIX, 1e-3), sform=scaled(MATRIX, 1e-3), xyzt_units=1),
        "read",
    ),
    InputCase(
        "lengths in micrometres",
        read_as(qform=scaled(MATRIX, 1e3), sform=scaled(MATRIX, 1e3), xyzt_units=3),
        "read",
    ),
    InputCase("lengths without unit", read_as(xyzt_units=0), "read", reason="They are in mm."),
    InputCase(
        "micrometres given as mm",
        refused(qform=scaled(MATRIX, 1e3), sform=scaled(MATRIX, 1e3)),
        "refused",
        "voxels of 700 x 800 x 2500 mm: correct their size or unit",
        "No scan has voxels of such a size.",
    ),
    InputCase(
        "scaled integers",
        read_as(INTEGERS * np.float32(0.5) + 3, written=INTEGERS, scl_slope=0.5, scl_inter=3),
        "read",
    ),
    InputCase(
        "scaled integers of more digits than float32",
        read_as(
            INTEGERS.astype(np.float32),
            written=INTEGERS.astype(np.int32) + 2**30,
            scl_slope=1,
            scl_inter=-(2**30),
        ),
        "read",
    ),
    InputCase(
        "voxels of 32 bits by bitpix, and in the file, but of 16 bits by datatype",
        refused(array=ARRAY.astype(np.float32), datatype=4),
        "refused",
        "voxels of type int16 and of 32 bits",
    ),
    InputCase("bitpix that neither datatype nor file has", read_as(INTEGERS, bitpix=8), "read"),
    InputCase(
        "slope 0 or NaN", read_as(INTEGERS, scl_slope=0, scl_inter=3), "read", reason="Unscaled."
    ),
    InputCase("64-bit integers", read_as(INTEGERS.astype(np.int64)), "read"),
    InputCase(
        "NaN and infinite voxels",
        read_as(without_nan(), written=with_nan()),
        "read",
        reason="Some programs put them outside the body: they are read as 0.",
    ),
    InputCase("complex voxels", refused(array=ARRAY.astype(np.complex64)), "refused", "complex"),
    InputCase("colours", refused(datatype=128, bitpix=24), "refused", "3 values per voxel"),
    InputCase("128-bit floats", refused(datatype=1536, bitpix=128), "refused", "unsupported type"),
    InputCase("4D of one volume", read_as(written=ARRAY[None]), "read"),
    InputCase(
        "4D of several volumes",
        refused(array=np.zeros((2, *ARRAY.shape), np.int16)),
        "refused",
        "4D image: give a single 3D volume",
    ),
    InputCase(
        "vectors",
        refused(array=np.zeros((3, 1, *ARRAY.shape), np.int16), intent_code=1007),
        "refused",
        "3 values per voxel",
    ),
    InputCase("2D image", refused(array=np.zeros((9, 8), np.int16)), "refused", "2D image"),
    InputCase(
        "web page under the name .nii.gz",
        content("a.nii.gz", lambda: b"\n<!DOCTYPE html><html>404</html>"),
        "refused",
        "is a web page",
    ),
    InputCase(
        "pointer of Git LFS",
        content("a.nii.gz", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0"),
        "refused",
        "git lfs pull",
    ),
    InputCase(
        "JSON under the name .nii.gz",
        content("a.nii.gz", lambda: b'{"EchoTime": 0.03}' * 50),
        "refused",
        "cannot be read as an image",
    ),
    InputCase(
        "compressed twice",
        content("a.nii.gz", lambda: gzip.compress(gzip.compress(file_content()))),
        "refused",
        "cannot be read as an image",
    ),
    InputCase("folder and name that are not UTF-8", write_below_a_strange_folder, "read"),
    InputCase("path of 1200 letters", write_below_long_folders, "read"),
]

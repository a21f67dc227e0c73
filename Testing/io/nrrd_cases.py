"""NRRD and MetaImage inputs of many kinds, with the outcome of reading each."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from Testing.helpers.input_cases import Expected, InputCase
from Testing.io.helpers import oblique_volume
from Testing.io.nifti_cases import sheared, unsheared

VOLUME = oblique_volume(mirrored=True)
ARRAY, MATRIX = VOLUME.array, VOLUME.ijk_to_ras
WHOLE = np.rint(100 * ARRAY)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
UNSIZED = np.diag([-1.0, -1.0, 1.0, 1.0])
SIZED = np.diag([-0.7, -0.8, 2.5, 1.0])
AXES = "TransformMatrix = 1 0 0 0 1 0 0 0 1"


def nrrd_content(
    array: np.ndarray = ARRAY, matrix: np.ndarray | None = MATRIX, *lines: str, **fields: str
) -> bytes:
    """Return the content of a NRRD file.

    Args:
        array: voxels with reversed axes, such as [K, J, I].
        matrix: matrix from voxel indices to the file's space; None to leave out the spatial fields.
        *lines: further lines of the header.
        **fields: further or replaced fields of the header, empty to leave a field out;
            ``space_units`` is "space units".
    """
    header = {
        "type": "float" if array.dtype == np.float32 else "short",
        "dimension": str(array.ndim),
        "sizes": " ".join(map(str, array.shape[::-1])),
        "endian": "little",
        "encoding": "raw",
    }
    if matrix is not None:
        header["space"] = "right-anterior-superior"
        header["space directions"] = " ".join(vector(matrix[:3, axis]) for axis in range(3))
        header["space origin"] = vector(matrix[:3, 3])
    header |= {name.replace("_", " "): value for name, value in fields.items()}
    text = [f"{name}: {value}" for name, value in header.items() if value]
    voxels = array.astype(array.dtype.newbyteorder("<")).tobytes()
    if header["encoding"] == "gzip":
        voxels = gzip.compress(voxels)
    return "\n".join(["NRRD0005", *text, *lines, "", ""]).encode() + voxels


def vector(values: np.ndarray) -> str:
    return "(" + ",".join(f"{value:.17g}" for value in values) + ")"


def meta_content(
    array: np.ndarray = ARRAY, matrix: np.ndarray | None = MATRIX, *lines: str
) -> bytes:
    """Return the content of a MetaImage file.

    Args:
        array: voxels with reversed axes, such as [K, J, I].
        matrix: matrix from voxel indices to RAS; None to leave it to ``lines``.
        *lines: further lines of the header.
    """
    place = []
    if matrix is not None:
        lps = LPS @ matrix
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        directions = lps[:3, :3] / spacing
        place = [
            "TransformMatrix = " + " ".join(f"{value:.17g}" for value in directions.T.ravel()),
            "Offset = " + " ".join(f"{value:.17g}" for value in lps[:3, 3]),
            "ElementSpacing = " + " ".join(f"{value:.17g}" for value in spacing),
        ]
    header = [
        "ObjectType = Image",
        f"NDims = {array.ndim}",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        *place,
        *lines,
        "DimSize = " + " ".join(map(str, array.shape[::-1])),
        "ElementType = MET_FLOAT",
        "ElementDataFile = LOCAL",
    ]
    return ("\n".join(header) + "\n").encode() + array.astype("<f4").tobytes()


def case(
    title: str,
    content: bytes,
    outcome: str = "read",
    message: str = "",
    reason: str = "",
    array: np.ndarray = ARRAY,
    matrix: np.ndarray = MATRIX,
) -> InputCase:
    """Return the case of a file; its name follows from the format of the content."""
    name = "a.nrrd" if content.startswith(b"NRRD") else "a.mha"

    def write(folder: Path) -> Expected:
        (folder / name).write_bytes(content)
        path = folder / name
        return Expected(path) if outcome == "refused" else Expected(path, array, matrix)

    return InputCase(title, write, outcome, message, reason)  # type: ignore[arg-type]


def detached(name: str, folder_name: str = "") -> Callable[[Path], Expected]:
    """Return a writer of a header whose voxels are in another file."""

    def write(folder: Path) -> Expected:
        folder = Path(os.fsdecode(os.fsencode(folder) + b"/" + os.fsencode(folder_name)))
        folder.mkdir(exist_ok=True)
        if name.endswith(".mhd"):
            content = meta_content().replace(b"LOCAL", b"voxels.raw")
            header = content[: -ARRAY.nbytes]
        else:
            content = nrrd_content(ARRAY, MATRIX, "data file: voxels.raw")
            header = content[: -ARRAY.nbytes - 1]
        (folder / name).write_bytes(header)
        (folder / "voxels.raw").write_bytes(ARRAY.astype("<f4").tobytes())
        return Expected(folder / name, ARRAY, MATRIX)

    return write


def deflated_meta(
    *, flipped: int | None = None, sized: bool = True, big_endian: bool = False
) -> bytes:
    """Return the content of a MetaImage file with compressed voxels.

    Args:
        flipped: index of the damaged byte in the compressed voxels; None for no damage.
        sized: whether the header says the number of compressed bytes.
        big_endian: whether the highest byte of a voxel comes first.
    """
    voxels = bytearray(zlib.compress(ARRAY.astype(">f4" if big_endian else "<f4").tobytes()))
    if flipped is not None:
        voxels[flipped] ^= 255
    size = (f"CompressedDataSize = {len(voxels)}",) if sized else ()
    content = meta_content(ARRAY, MATRIX, "CompressedData = True", *size)
    if big_endian:
        content = content.replace(b"OrderMSB = False", b"OrderMSB = True")
    return content[: -ARRAY.nbytes] + bytes(voxels)


def deflated_nrrd(
    *, parts: int = 1, big_endian: bool = False, inserted: int | None = None
) -> bytes:
    """Return the content of a NRRD file with compressed voxels.

    Args:
        parts: number of parts of the compressed data.
        big_endian: whether the highest byte of a voxel comes first.
        inserted: index of an extra byte in the unpacked voxels, such as damaged compressed data
            gives; None for no damage.
    """
    voxels = ARRAY.astype(">f4" if big_endian else "<f4").tobytes()
    size = -(-len(voxels) // parts)
    data = b"".join(gzip.compress(voxels[n : n + size]) for n in range(0, len(voxels), size))
    if inserted is not None:
        longer = gzip.compress(voxels[:inserted] + b"\0" + voxels[inserted:])
        data = longer[:-8] + data[-8:]  # checksum and size of the true voxels
    header = nrrd_content(encoding="gzip", endian="big" if big_endian else "little")
    return header[: header.index(b"\n\n") + 2] + data


def long_meta(bits: int) -> bytes:
    """Return a MetaImage file of type MET_LONG with WHOLE as integers of ``bits`` bits."""
    header = meta_content()[: -ARRAY.nbytes].replace(b"MET_FLOAT", b"MET_LONG")
    return header + WHOLE.astype(f"<i{bits // 8}").tobytes()


def sliced_meta(data: str, count: int) -> Callable[[Path], Expected]:
    """Return a writer of a .mhd whose slices are in files of their own.

    Args:
        data: value of ElementDataFile; after "LIST", the names of the slice files follow.
        count: number of slice files to write and list.
    """

    def write(folder: Path) -> Expected:
        names = [f"slice{k}.raw" for k in range(count)]
        for name, plane in zip(names, ARRAY, strict=False):
            (folder / name).write_bytes(plane.astype("<f4").tobytes())
        header = meta_content().replace(b"LOCAL", data.encode())[: -ARRAY.nbytes]
        listed = "".join(f"{name}\n" for name in names) if data == "LIST" else ""
        (folder / "a.mhd").write_bytes(header + listed.encode())
        return Expected(folder / "a.mhd", ARRAY, MATRIX)

    return write


def write_list_of_volumes(folder: Path) -> Expected:
    path = detached("a.mhd")(folder).path
    path.write_bytes(path.read_bytes().replace(b"= voxels.raw", b"= LIST 3\nvoxels.raw"))
    return Expected(path)


def coded_meta(code: str, directions: np.ndarray = LPS[:3, :3]) -> bytes:
    """Return the content of a MetaImage file that states AnatomicalOrientation.

    Args:
        code: letters of the axes, such as "RAI".
        directions: (3, 3), directions of the axes in RAS as columns.
    """
    matrix = np.eye(4)
    matrix[:3, :3] = directions * (0.7, 0.8, 2.5)
    return meta_content(ARRAY, matrix, f"AnatomicalOrientation = {code}")


def cut(name: str) -> Callable[[Path], Expected]:
    """Return a writer of a file with header and voxels, cut off within the voxels."""

    def write(folder: Path) -> Expected:
        content = meta_content() if name.endswith(".mhd") else nrrd_content()
        (folder / name).write_bytes(content[:2000])
        return Expected(folder / name)

    return write


def without_voxels(name: str) -> Callable[[Path], Expected]:
    """Return a writer of a header whose voxel file is missing."""

    def write(folder: Path) -> Expected:
        expected = detached(name)(folder)
        (folder / "voxels.raw").unlink()
        return Expected(expected.path)

    return write


def write_tiff(folder: Path) -> Expected:
    array = np.arange(120, dtype=np.uint8).reshape(4, 5, 6)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / "a.tif"))
    return Expected(folder / "a.tif", array, UNSIZED)


def in_units(*factors: float) -> np.ndarray:
    """Return the matrix of VOLUME in units along R, A and S of ``factors`` mm."""
    return np.diag([*(1 / factor for factor in factors), 1.0]) @ MATRIX


def nan_origin() -> np.ndarray:
    matrix = MATRIX.copy()
    matrix[:3, 3] = np.nan
    return matrix


UNORIENTED = "does not say its orientation: left and right are a guess"
AS_DICOM = "The axes are taken for those of DICOM: left, posterior, superior."
SERIES = np.stack([ARRAY, ARRAY])
PLACED = "(1,0,0) (0,1,0) (0,0,1)"

CASES: list[InputCase] = [
    case("NRRD in RAS", nrrd_content()),
    case("NRRD in LPS", nrrd_content(ARRAY, LPS @ MATRIX, space="left-posterior-superior")),
    case("NRRD in LAS", nrrd_content(ARRAY, np.diag([-1, 1, 1, 1]) @ MATRIX, space="LAS")),
    case("compressed NRRD", nrrd_content(encoding="gzip")),
    case("compressed NRRD, highest byte first", deflated_nrrd(big_endian=True)),
    case("compressed NRRD in two parts", deflated_nrrd(parts=2)),
    case(
        "compressed NRRD with damaged voxels",
        deflated_nrrd(inserted=2000),
        "refused",
        "damaged or incomplete: copy it again",
    ),
    InputCase(".nhdr with its voxels in another file", detached("a.nhdr"), "read"),
    InputCase(
        ".nhdr without its voxels",
        without_voxels("a.nhdr"),
        "refused",
        "is only a header: its voxels are missing",
        "The voxels are in the other file.",
    ),
    case(
        "NRRD without space",
        nrrd_content(matrix=None, spacings="0.7 0.8 2.5"),
        "read with a note",
        UNORIENTED,
        AS_DICOM,
        matrix=SIZED,
    ),
    case(
        "NRRD without voxel size",
        nrrd_content(matrix=None, space="left-posterior-superior"),
        "read with a note",
        "does not say the size of its voxels: 1 mm is a guess",
        "1 mm is a guess.",
        matrix=UNSIZED,
    ),
    case(
        "space units um, cm and m",
        nrrd_content(ARRAY, in_units(1e-3, 10, 1e3), space_units='"um" "cm" "m"'),
        reason="They become mm.",
    ),
    case(
        "units of the axes",
        nrrd_content(matrix=None, spacings="0.07 0.08 0.25", units='"cm" "cm" "cm"'),
        "read with a note",
        UNORIENTED,
        "They become mm; the orientation is a guess.",
        matrix=SIZED,
    ),
    case(
        "unknown space units",
        nrrd_content(space_units='"mm" "furlong" "mm"'),
        "read with a note",
        "unknown unit 'furlong', read as mm",
        "They are taken for mm.",
    ),
    case(
        "micrometres given as mm",
        nrrd_content(ARRAY, in_units(1e-3, 1e-3, 1e-3)),
        "refused",
        "voxels of 700 x 800 x 2500 mm: correct their size or unit",
        "No scan has voxels of such a size.",
    ),
    case(
        "spacing of NaN",
        nrrd_content(matrix=None, spacings="nan 0.8 2.5"),
        "refused",
        "a voxel size, axis or origin that is no number",
    ),
    case(
        "axis of zeros",
        nrrd_content(ARRAY, MATRIX @ np.diag([0, 1, 1, 1])),
        "refused",
        "size 0 or axes that are not independent",
    ),
    case(
        "origin of NaN",
        nrrd_content(ARRAY, nan_origin()),
        "refused",
        "a voxel size, axis or origin that is no number",
    ),
    case(
        "axes sheared by 0.001",
        nrrd_content(ARRAY, sheared(0.001)),
        reason="The nearest rectangular grid is used; no voxel moves noticeably.",
        matrix=unsheared(0.001, ARRAY.shape),
    ),
    case(
        "sheared axes",
        nrrd_content(ARRAY, sheared(0.2)),
        "refused",
        "sheared axes: resample it",
        "Arrays with rectangular axes cannot hold it.",
    ),
    case(
        "sequence of one volume",
        nrrd_content(
            ARRAY[None], kinds="domain domain domain list", space_directions=PLACED + " none"
        )
        .replace(b"right-anterior", b"left-posterior")
        .replace(vector(MATRIX[:3, 3]).encode(), b"(0,0,0)"),
        matrix=UNSIZED,
    ),
    case(
        "sequence of several volumes",
        nrrd_content(SERIES, kinds="domain domain domain list", space_directions=PLACED + " none"),
        "refused",
        "2 values per voxel",
    ),
    case(
        "NRRD in RAS and time, of one volume",
        nrrd_content(
            ARRAY[None],
            None,
            space="right-anterior-superior-time",
            space_directions="(0.7,0,0,0) (0,0.8,0,0) (0,0,2.5,0) (0,0,0,1)",
        ),
        matrix=np.diag([0.7, 0.8, 2.5, 1.0]),
    ),
    case("4D of several volumes", nrrd_content(SERIES, None), "refused", "4D image"),
    case("NaN voxels", nrrd_content(ARRAY * np.float32(np.nan)), "refused", "NaN or infinite"),
    case("size 0 along an axis", nrrd_content(sizes="13 11 0"), "refused", "no voxels"),
    case(
        "sizes that the file cannot hold",
        nrrd_content(sizes="20000 30000 40000"),
        "refused",
        "incomplete: copy it again",
        "Memory is not asked for in vain.",
    ),
    case("half a NRRD", nrrd_content()[:2000], "refused", "damaged, incomplete"),
    InputCase(
        "half a .nhdr with voxels of its own", cut("a.nhdr"), "refused", "damaged, incomplete"
    ),
    case("MetaImage", meta_content()),
    InputCase(".mhd with its voxels in another file", detached("a.mhd"), "read"),
    InputCase(
        ".mhd without its voxels",
        without_voxels("a.mhd"),
        "refused",
        "is only a header: its voxels are missing",
        "The voxels are in the other file.",
    ),
    case(
        "MetaImage in micrometres",
        meta_content(ARRAY, None, AXES, "ElementSpacing = 700 800 2500", 'DistanceUnits = "um"'),
        reason="They become mm.",
        matrix=SIZED,
    ),
    case(
        "MetaImage without TransformMatrix",
        meta_content(ARRAY, None, "ElementSpacing = 0.7 0.8 2.5"),
        "read with a note",
        UNORIENTED,
        AS_DICOM,
        matrix=SIZED,
    ),
    case(
        "MetaImage without ElementSpacing",
        meta_content(ARRAY, None, AXES),
        "read with a note",
        "does not say the size of its voxels: 1 mm is a guess",
        "1 mm is a guess.",
        matrix=UNSIZED,
    ),
    case(
        "ElementSpacing of NaN",
        meta_content(ARRAY, None, AXES, "ElementSpacing = nan 0.8 2.5"),
        "refused",
        "a voxel size, axis or origin that is no number",
    ),
    case(
        "ElementSpacing of 0",
        meta_content(ARRAY, None, AXES, "ElementSpacing = 0 0.8 2.5"),
        "refused",
        "size 0 or axes that are not independent",
    ),
    case(
        "negative ElementSpacing",
        meta_content(ARRAY, None, AXES, "ElementSpacing = 0.7 0.8 -2.5"),
        "refused",
        "a negative voxel size",
        "The direction of that axis is unknown.",
    ),
    case(
        "TransformMatrix with axes of length 2",
        meta_content(
            ARRAY,
            None,
            "TransformMatrix = 2 0 0 0 2 0 0 0 2",
            "ElementSpacing = 0.35 0.4 1.25",
        ),
        "read with a note",
        "axes of length 2 x 2 x 2 in its TransformMatrix",
        "The lengths multiply the voxel size, as in 3D Slicer.",
        matrix=SIZED,
    ),
    case("AnatomicalOrientation from side to side", coded_meta("RAI"), matrix=SIZED),
    case("AnatomicalOrientation of directions", coded_meta("LPS"), matrix=SIZED),
    case(
        "AnatomicalOrientation against TransformMatrix",
        coded_meta("RAS"),
        "read with a note",
        "AnatomicalOrientation = RAS, but its TransformMatrix says RAI",
        "The matrix is used, as in 3D Slicer.",
        matrix=SIZED,
    ),
    case(
        "values with ElementToIntensityFunction",
        meta_content(
            ARRAY,
            MATRIX,
            "ElementToIntensityFunctionSlope = 2",
            "ElementToIntensityFunctionOffset = -1024",
        ),
        reason="Slope and offset are applied.",
        array=2 * ARRAY - 1024,
    ),
    case("MetaImage of 32-bit MET_LONG", long_meta(32), array=WHOLE),
    case(
        "MetaImage of 64-bit MET_LONG",
        long_meta(64),
        "refused",
        "voxels of 64 bits, but MET_LONG .* has 32: write MET_LONG_LONG",
        "Long integers have 64 bits on most systems; readers take half of them for a voxel.",
    ),
    case("compressed MetaImage", deflated_meta()),
    case("compressed MetaImage, highest byte first", deflated_meta(big_endian=True)),
    case(
        "compressed MetaImage with damaged voxels",
        deflated_meta(flipped=2000),
        "refused",
        "damaged or incomplete: copy it again",
    ),
    case(
        "compressed MetaImage with a wrong checksum",
        deflated_meta(flipped=-1),
        "refused",
        "damaged or incomplete: copy it again",
    ),
    case(
        "compressed MetaImage without CompressedDataSize",
        deflated_meta(sized=False),
        "refused",
        "lacks its CompressedDataSize",
    ),
    InputCase(
        ".mhd with a file for each slice",
        sliced_meta(f"slice%d.raw 0 {len(ARRAY) - 1} 1", len(ARRAY)),
        "read",
    ),
    InputCase(".mhd with a list of files", sliced_meta("LIST", len(ARRAY)), "read"),
    InputCase(
        ".mhd with a list of one file for all slices",
        write_list_of_volumes,
        "refused",
        "'LIST 3': name the file itself as ElementDataFile",
        "ITK returns other memory in place of the voxels.",
    ),
    InputCase(
        ".mhd with a list of too few files",
        sliced_meta("LIST", len(ARRAY) - 1),
        "refused",
        "incomplete: copy it again",
    ),
    case("sheared MetaImage", meta_content(ARRAY, sheared(0.2)), "refused", "sheared axes"),
    case("half a MetaImage", meta_content()[:2000], "refused", "damaged, incomplete"),
    InputCase("half a .mhd with voxels of its own", cut("a.mhd"), "refused", "damaged, incomplete"),
    InputCase(
        "TIFF stack",
        write_tiff,
        "read with a note",
        f"{UNORIENTED}.*the distance of its slices is a guess, too: 1 mm",
        "TIFF stores no orientation and no distance of slices: those of DICOM and 1 mm are taken.",
    ),
    InputCase(
        "header and folder that are not UTF-8",
        detached(os.fsdecode(b"\xfc.nhdr"), os.fsdecode(b"caf\xe9")),
        "read",
    ),
]

"""Fields of NRRD and MetaImage headers that SimpleITK ignores: units, and values that are missing.

SimpleITK reads the voxels and their place; a doubt that it passes over in silence is found here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import LARGEST_COMPRESSION

_NRRD_MAGIC = b"NRRD000"
# Headers are a few kilobytes; those of segmentations with many segments are the longest.
_HEADER_BYTES = 1 << 22
_MILLIMETRES = {
    "": 1.0, "???": 1.0, "mm": 1.0, "millimeter": 1.0, "millimetre": 1.0,
    "cm": 10.0, "centimeter": 10.0, "centimetre": 10.0, "m": 1e3, "meter": 1e3, "metre": 1e3,
    "um": 1e-3, "\u00b5m": 1e-3, "\u03bcm": 1e-3, "micron": 1e-3, "micrometer": 1e-3,
    "micrometre": 1e-3, "nm": 1e-6, "nanometer": 1e-6, "nanometre": 1e-6,
}  # fmt: skip
_ANATOMICAL_SPACES = (
    "right-anterior-superior", "left-anterior-superior", "left-posterior-superior",
    "ras", "las", "lps",
)  # fmt: skip
_META_IMAGE_AXES = ("transformmatrix", "rotation", "orientation")
_META_IMAGE_NUMBERS = (*_META_IMAGE_AXES, "elementspacing", "elementsize", "offset", "position",
                       "origin", "dimsize")  # fmt: skip
_META_IMAGE_LARGEST_DIMENSION = 10


@dataclass(frozen=True)
class Placement:
    """Facts about the place of a volume that SimpleITK does not use.

    Attributes:
        to_mm: float64 (3,), factors that turn coordinates along the axes of space into mm.
        notes: messages for the user about doubts.
    """

    to_mm: NDArray[np.float64]
    notes: tuple[str, ...] = ()


def read_placement(path: Path) -> Placement:
    """Return the facts that the header of a NRRD or MetaImage file has.

    Other formats that SimpleITK reads, such as TIFF, do not say their orientation.

    Raises:
        MaskSAMError: the header has numbers that are not finite, or sizes that the file cannot
            hold.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        # A buffer of the full size would take more memory than small images do.
        start = file.read(min(_HEADER_BYTES, path.stat().st_size))
    if start.startswith(_NRRD_MAGIC):
        return _nrrd_placement(path, start)
    if path.name.lower().endswith((".mha", ".mhd")):
        return _meta_image_placement(path, start)
    if path.name.lower().endswith(".mnc"):  # MINC always has directions
        return Placement(np.ones(3))
    return Placement(np.ones(3), (_unoriented(path),))


def _nrrd_placement(path: Path, start: bytes) -> Placement:
    header = _text(re.split(rb"\r?\n\r?\n", start, maxsplit=1)[0])
    fields = {}
    for line in header.splitlines()[1:]:
        name, separator, value = line.partition(":")
        if separator and not value.startswith("=") and not line.startswith("#"):
            fields[name.strip().lower().replace(" ", "")] = value.strip()
    directions = re.findall(r"none|\([^)]*\)", fields.get("spacedirections", "").lower())
    vectors = [vector for vector in directions if vector != "none"]
    spacings = _numbers(fields.get("spacings", ""))
    missing = len(vectors) < 3 if directions else sum(map(math.isfinite, spacings)) < 3
    coordinates = _numbers(" ".join([*vectors, fields.get("spaceorigin", "")]))
    incomplete = (directions or spacings) and missing and _integer(fields.get("dimension", "")) >= 3
    if incomplete or not np.isfinite(coordinates).all():
        raise _invalid(path)
    sizes = [int(size) for size in _numbers(fields.get("sizes", "")) if math.isfinite(size)]
    detached = "datafile" in fields or path.name.lower().endswith(".nhdr")
    if not detached and "bz" not in fields.get("encoding", "").lower():
        _check_sizes(path, sizes)
    notes = [] if directions or spacings else [_unsized(path)]
    units = _quoted(fields.get("spaceunits", ""))
    if not units and spacings:
        axes = zip(_quoted(fields.get("units", "")), spacings, strict=False)
        units = [unit for unit, spacing in axes if math.isfinite(spacing)]
    to_mm, unit_notes = _factors(path, units)
    notes += unit_notes
    if fields.get("space", "").lower() not in _ANATOMICAL_SPACES:
        notes.append(_unoriented(path))
    return Placement(to_mm, tuple(notes))


def _meta_image_placement(path: Path, start: bytes) -> Placement:
    fields = {}
    for line in start.splitlines():
        name, separator, value = _text(line[:4096]).partition("=")
        if not separator:
            break
        fields[name.strip().lower()] = value.strip()
        if name.strip().lower() == "elementdatafile":
            break
    if "ndims" not in fields:  # another format under this name
        return Placement(np.ones(3))
    # SimpleITK's reader ends the process at some impossible numbers of values.
    count = _integer(fields.get("ndims", ""))
    if not 1 <= count <= _META_IMAGE_LARGEST_DIMENSION:
        raise _damaged(path)
    for name in _META_IMAGE_NUMBERS:
        numbers = _numbers(fields.get(name, ""))
        if not np.isfinite(numbers).all():
            raise _invalid(path)
        if name in fields and len(numbers) != (count**2 if name in _META_IMAGE_AXES else count):
            raise _damaged(path)
    if fields.get("elementdatafile", "").lower() == "local":
        _check_sizes(path, [int(size) for size in _numbers(fields.get("dimsize", ""))])
    unit = fields.get("distanceunits", "").strip('"')
    to_mm, notes = _factors(path, [unit] * 3)
    if "elementspacing" not in fields and "elementsize" not in fields:
        notes = [*notes, _unsized(path)]
    if not any(name in fields for name in _META_IMAGE_AXES):
        notes = [*notes, _unoriented(path)]
    return Placement(to_mm, tuple(notes))


def _check_sizes(path: Path, sizes: list[int]) -> None:
    """Check that a file can hold its voxels, before memory is asked for them."""
    if sizes and min(sizes) <= 0:
        raise MaskSAMError(f"{path} has no voxels: its header says {sizes} voxels along its axes")
    if math.prod(sizes) > path.stat().st_size * LARGEST_COMPRESSION:
        raise MaskSAMError(f"{path} is incomplete: copy it again")


def _factors(path: Path, units: list[str]) -> tuple[NDArray[np.float64], list[str]]:
    """Return millimetres per unit for the three axes, and a note for an unknown unit."""
    if len(units) != 3:
        return np.ones(3), []
    plain = [unit.strip().lower() for unit in units]
    plain = [unit[:-1] if unit.endswith("s") else unit for unit in plain]
    unknown = sorted({unit for unit in plain if unit not in _MILLIMETRES})
    notes = [f"{path.name} has the unknown unit '{unit}', read as mm" for unit in unknown]
    return np.array([_MILLIMETRES.get(unit, 1.0) for unit in plain]), notes


def _unsized(path: Path) -> str:
    return f"{path.name} does not say the size of its voxels: 1 mm is a guess"


def _unoriented(path: Path) -> str:
    return (
        f"{path.name} does not say its orientation: left and right are a guess"
        " (its axes are taken for those of DICOM: left, posterior, superior)"
    )


def _invalid(path: Path) -> MaskSAMError:
    return MaskSAMError(
        f"{path} has a voxel size, axis or origin that is no number: correct its header"
    )


def _damaged(path: Path) -> MaskSAMError:
    return MaskSAMError(f"{path} has a damaged header: copy it again")


def _integer(text: str) -> int:
    """Return the whole number of a field, or 0 if it has none."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0


def _numbers(text: str) -> list[float]:
    """Return the numbers of a field; words that are no numbers become NaN."""
    numbers = []
    for word in re.split(r"[\s,()]+", text.strip("() \t")):
        if word:
            try:
                numbers.append(float(word))
            except ValueError:
                numbers.append(math.nan)
    return numbers


def _quoted(text: str) -> list[str]:
    return re.findall(r'"([^"]*)"', text)


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")

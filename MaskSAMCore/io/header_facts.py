"""Facts in the text headers of images that SimpleITK ignores, and parsing of header fields."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import LARGEST_COMPRESSION

_MILLIMETRES = {
    "": 1.0, "?": 1.0, "???": 1.0, "mm": 1.0, "millimeter": 1.0, "millimetre": 1.0,
    "cm": 10.0, "centimeter": 10.0, "centimetre": 10.0, "m": 1e3, "meter": 1e3, "metre": 1e3,
    "um": 1e-3, "\u00b5m": 1e-3, "\u03bcm": 1e-3, "micron": 1e-3, "micrometer": 1e-3,
    "micrometre": 1e-3, "nm": 1e-6, "nanometer": 1e-6, "nanometre": 1e-6,
}  # fmt: skip


@dataclass(frozen=True)
class DeflatedVoxels:
    """Place of compressed voxels.

    Attributes:
        path: file that holds the voxels.
        position: place of the first byte in the file.
        size: number of compressed bytes; 0 for all bytes up to the end of the file.
        little_endian: whether the lowest byte of a voxel comes first.
    """

    path: Path
    position: int
    size: int
    little_endian: bool


@dataclass(frozen=True)
class HeaderFacts:
    """Facts about an image that SimpleITK does not use.

    Attributes:
        to_mm: float64 (3,), factors that convert SimpleITK's coordinates along the axes of space to
            mm; negative where SimpleITK reads an axis in the opposite direction.
        slope: factor from stored to real values.
        intercept: real value of the stored value 0.
        notes: messages for the user about doubts in the header.
        deflated: compressed voxels that SimpleITK reads without checking them; None if there are
            none.
    """

    to_mm: NDArray[np.float64]
    slope: float = 1.0
    intercept: float = 0.0
    notes: tuple[str, ...] = ()
    deflated: DeflatedVoxels | None = None


def check_sizes(path: Path, sizes: list[int]) -> None:
    """Check that a file is large enough for its voxels, before memory is allocated for them.

    Raises:
        MaskSAMError: a size is not positive, or the file is too small.
    """
    if sizes and min(sizes) <= 0:
        raise MaskSAMError(f"{path} has no voxels: its header says {sizes} voxels along its axes")
    if math.prod(sizes) > path.stat().st_size * LARGEST_COMPRESSION:
        raise incomplete(path)


def unit_factors(path: Path, units: list[str]) -> tuple[NDArray[np.float64], list[str]]:
    """Return millimetres per unit for the three axes, and notes about unknown units."""
    if len(units) != 3:
        return np.ones(3), []
    plain = [unit.strip().lower() for unit in units]
    plain = [unit[:-1] if unit.endswith("s") else unit for unit in plain]
    unknown = sorted({unit for unit in plain if unit not in _MILLIMETRES})
    notes = [f"{path.name} has the unknown unit '{unit}', read as mm" for unit in unknown]
    return np.array([_MILLIMETRES.get(unit, 1.0) for unit in plain]), notes


def unsized(path: Path) -> str:
    """Return the note for a header without a voxel size."""
    return f"{path.name} does not say the size of its voxels: 1 mm is a guess"


def unoriented(path: Path) -> str:
    """Return the note for a header without orientation."""
    return (
        f"{path.name} does not say its orientation: left and right are a guess"
        " (its axes are taken for those of DICOM: left, posterior, superior)"
    )


def invalid(path: Path) -> MaskSAMError:
    """Return the error for a header in which a voxel size, axis or origin is no number."""
    return MaskSAMError(
        f"{path} has a voxel size, axis or origin that is no number: correct its header"
    )


def damaged(path: Path) -> MaskSAMError:
    """Return the error for a header that contradicts itself."""
    return MaskSAMError(f"{path} has a damaged header: copy it again")


def incomplete(path: Path) -> MaskSAMError:
    """Return the error for a file that lacks voxels."""
    return MaskSAMError(f"{path} is incomplete: copy it again")


def integer_or_zero(text: str) -> int:
    """Return the non-negative integer in a field, or 0 if the field holds anything else."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0


def numbers(text: str) -> list[float]:
    """Return the numbers of a field; words that are no numbers become NaN."""
    found = []
    for word in re.split(r"[\s,()]+", text.strip("() \t")):
        if word:
            try:
                found.append(float(word))
            except ValueError:
                found.append(math.nan)
    return found


def decoded(content: bytes) -> str:
    """Return the text of a header, decoded as UTF-8 or else Latin-1."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")

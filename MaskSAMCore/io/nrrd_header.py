"""Facts in NRRD headers that SimpleITK ignores: units, missing values, voxels to be checked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from MaskSAMCore.io.header_facts import (
    DeflatedVoxels,
    HeaderFacts,
    check_sizes,
    decoded,
    integer_or_zero,
    invalid,
    numbers,
    unit_factors,
    unoriented,
    unsized,
)

# Spaces whose axes SimpleITK converts to those of DICOM.
_ANATOMICAL_SPACES = (
    "right-anterior-superior", "left-anterior-superior", "left-posterior-superior",
    "ras", "las", "lps",
)  # fmt: skip
# Spaces in which SimpleITK reads axes without directions correctly: it takes them for DICOM's axes.
_DICOM_SPACES = ("left-posterior-superior", "lps")
# Signs that correct the axes of spaces with time, which SimpleITK takes for those of DICOM.
_TIME_SPACES = {
    "right-anterior-superior-time": (-1, -1, 1), "rast": (-1, -1, 1),
    "left-anterior-superior-time": (1, -1, 1), "last": (1, -1, 1),
    "left-posterior-superior-time": (1, 1, 1), "lpst": (1, 1, 1),
}  # fmt: skip


def nrrd_facts(path: Path, start: bytes) -> HeaderFacts:
    """Return the facts in the header of a NRRD file.

    Args:
        path: the file.
        start: first bytes of the file, including the whole header.

    Raises:
        MaskSAMError: the header has numbers that are not finite, or sizes that the file cannot
            hold.
    """
    end = re.search(rb"\r?\n\r?\n", start)
    header = decoded(start[: end.start()] if end else start)
    fields: dict[str, str] = {}
    for line in header.splitlines()[1:]:
        name, separator, value = line.partition(":")
        if separator and not value.startswith("=") and not line.startswith("#"):
            fields[name.strip().lower().replace(" ", "")] = value.strip()
    directions = re.findall(r"none|\([^)]*\)", fields.get("spacedirections", "").lower())
    vectors = [vector for vector in directions if vector != "none"]
    spacings = numbers(fields.get("spacings", ""))
    missing = len(vectors) < 3 if directions else sum(map(math.isfinite, spacings)) < 3
    coordinates = numbers(" ".join([*vectors, fields.get("spaceorigin", "")]))
    incomplete = (
        (directions or spacings) and missing and integer_or_zero(fields.get("dimension", "")) >= 3
    )
    if incomplete or not np.isfinite(coordinates).all():
        raise invalid(path)
    sizes = [int(size) for size in numbers(fields.get("sizes", "")) if math.isfinite(size)]
    detached = "datafile" in fields or path.name.lower().endswith(".nhdr")
    if not detached and "bz" not in fields.get("encoding", "").lower():
        check_sizes(path, sizes)
    notes = [] if directions or spacings else [unsized(path)]
    units = _quoted(fields.get("spaceunits", ""))
    if not units and spacings:
        axes = zip(_quoted(fields.get("units", "")), spacings, strict=False)
        units = [unit for unit, spacing in axes if math.isfinite(spacing)]
    space = fields.get("space", "").lower()
    to_mm, unit_notes = unit_factors(path, units[:3] if space in _TIME_SPACES else units)
    notes += unit_notes
    if space in _TIME_SPACES:
        to_mm = to_mm * _TIME_SPACES[space]
    elif space not in (_ANATOMICAL_SPACES if directions else _DICOM_SPACES):
        notes.append(unoriented(path))
    deflated = _deflated_voxels(path, fields, end.end()) if end else None
    return HeaderFacts(to_mm, notes=tuple(notes), deflated=deflated)


def _deflated_voxels(path: Path, fields: Mapping[str, str], position: int) -> DeflatedVoxels | None:
    """Return the place of compressed voxels; None if they are not compressed or in several files.

    Args:
        path: the file with the header.
        fields: values by name in lower case without spaces.
        position: place of the voxels in the file, if it holds them.
    """
    compressed = fields.get("encoding", "").lower() in ("gz", "gzip")
    skipped = any(integer_or_zero(fields.get(name, "0")) for name in ("lineskip", "byteskip"))
    if not compressed or skipped:
        return None
    little_endian = fields.get("endian", "").lower() != "big"
    if "datafile" not in fields:
        return DeflatedVoxels(path, position, 0, little_endian)
    file = path.parent / fields["datafile"]
    return DeflatedVoxels(file, 0, 0, little_endian) if file.is_file() else None


def _quoted(text: str) -> list[str]:
    return re.findall(r'"([^"]*)"', text)

"""Fields of MetaImage headers that SimpleITK ignores, and damage that it does not report."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import axis_mapping
from MaskSAMCore.io.header_facts import (
    DeflatedVoxels,
    HeaderFacts,
    check_sizes,
    damaged,
    decoded,
    incomplete,
    integer_or_zero,
    invalid,
    numbers,
    unit_factors,
    unoriented,
    unsized,
)
from MaskSAMCore.io.orientation import size_text

_AXES = ("transformmatrix", "rotation", "orientation")
_SIZES = ("elementspacing", "elementsize")
_NUMBERS = (*_AXES, *_SIZES, "offset", "position", "origin", "dimsize")
_SLOPE, _INTERCEPT = "elementtointensityfunctionslope", "elementtointensityfunctionoffset"
_LARGEST_DIMENSION = 10
_ELEMENT_BYTES = {
    "char": 1, "uchar": 1, "short": 2, "ushort": 2, "int": 4, "uint": 4, "long": 4, "ulong": 4,
    "long_long": 8, "ulong_long": 8, "float": 4, "double": 8,
}  # fmt: skip
_MOST_FILES = 100_000
_BIG_ENDIAN = ("binarydatabyteordermsb", "elementbyteordermsb")
_LENGTH_TOLERANCE = 1e-3
# Cosine above which the anatomical direction of an axis is certain.
_CERTAIN = 0.8
_OPPOSITE = str.maketrans("RLAPSI", "LRPAIS")


def meta_image_facts(path: Path, start: bytes) -> HeaderFacts:
    """Return the facts in the header of a MetaImage file.

    Args:
        path: the file.
        start: first bytes of the file, including the whole header.

    Raises:
        MaskSAMError: the header has invalid numbers, or voxels are damaged or missing.
        OSError: a file with voxels cannot be read.
    """
    fields: dict[str, str] = {}
    position = 0
    for line in start.splitlines(keepends=True):
        position += len(line)
        name, separator, value = decoded(line[:4096]).partition("=")
        if not separator:
            break
        fields[name.strip().lower()] = value.strip()
        if name.strip().lower() == "elementdatafile":
            break
    if "ndims" not in fields:  # another format with this suffix
        return HeaderFacts(np.ones(3))
    # SimpleITK's reader ends the process on some wrong numbers of values.
    count = integer_or_zero(fields.get("ndims", ""))
    if not 1 <= count <= _LARGEST_DIMENSION:
        raise damaged(path)
    for name in _NUMBERS:
        values = numbers(fields.get(name, ""))
        if not np.isfinite(values).all():
            raise invalid(path)
        if name in fields and len(values) != (count**2 if name in _AXES else count):
            raise damaged(path)
        if name in _SIZES and values and min(values) < 0:
            raise MaskSAMError(f"{path} has a negative voxel size: correct its header")
    if fields.get("elementdatafile", "").lower() == "local":
        check_sizes(path, [int(size) for size in numbers(fields.get("dimsize", ""))])
    deflated = _deflated_voxels(path, fields, position)
    if deflated is None:
        _check_long(path, fields, position)
        _check_listed_files(path, fields, start[position:])
    unit = fields.get("distanceunits", "").strip('"')
    to_mm, notes = unit_factors(path, [unit] * 3)
    if not any(name in fields for name in _SIZES):
        notes = [*notes, unsized(path)]
    axes = next((fields[name] for name in _AXES if name in fields), None)
    if axes is None:
        notes = [*notes, unoriented(path)]
    elif count >= 3:
        directions = np.reshape(numbers(axes), (count, count))[:3, :3].T
        notes = [*notes, *_doubts(path, directions, fields.get("anatomicalorientation", ""))]
    slope, intercept = _scale(path, fields)
    return HeaderFacts(to_mm, slope, intercept, tuple(notes), deflated)


def _doubts(path: Path, directions: NDArray[np.float64], code: str) -> list[str]:
    """Return notes about doubtful axes.

    Args:
        path: the file.
        directions: (3, 3), LPS directions of the axes as columns.
        code: anatomical directions of the axes, such as "RAI"; any other text is ignored. Programs
            disagree whether a letter names the side that an axis comes from or leads to.
    """
    lengths = np.linalg.norm(directions, axis=0)
    if not lengths.all():  # SimpleITK refuses axes of length 0
        return []
    notes = []
    if np.abs(lengths - 1).max() > _LENGTH_TOLERANCE:
        notes.append(
            f"{path.name} has axes of length {size_text(lengths)} in its TransformMatrix: they"
            " multiply the size of its voxels, as in 3D Slicer"
        )
    code = code.upper()
    ras = np.diag([-1.0, -1.0, 1.0]) @ directions / lengths
    if re.fullmatch("[RLAPSI]{3}", code) and np.abs(ras).max(axis=0).min() > _CERTAIN:
        try:
            # The array is [K, J, I], so its axes have the letters in reverse order.
            axes, flips = axis_mapping(ras, code[::-1])
        except MaskSAMError:  # the letters name an axis twice
            return notes
        if axes != (0, 1, 2) or len(set(flips)) > 1:
            to = "".join(
                ("LR", "PA", "IS")[axis][int(ras[axis, column] > 0)]
                for column, axis in enumerate(np.abs(ras).argmax(axis=0))
            )
            notes.append(
                f"{path.name} says AnatomicalOrientation = {code}, but its TransformMatrix says"
                f" {to.translate(_OPPOSITE)}: the matrix is used, as in 3D Slicer"
            )
    return notes


def _scale(path: Path, fields: Mapping[str, str]) -> tuple[float, float]:
    """Return slope and intercept of the values; 1 and 0 by default.

    Raises:
        MaskSAMError: a value is no number.
    """
    slopes, intercepts = numbers(fields.get(_SLOPE, "1")), numbers(fields.get(_INTERCEPT, "0"))
    if len(slopes) != 1 or len(intercepts) != 1 or not np.isfinite(slopes + intercepts).all():
        raise damaged(path)
    # As in NIfTI files, a slope of 0 means that there is none.
    return (slopes[0], intercepts[0]) if slopes[0] else (1.0, 0.0)


def _deflated_voxels(path: Path, fields: Mapping[str, str], position: int) -> DeflatedVoxels | None:
    """Return the place of compressed voxels; None if they are not compressed.

    Args:
        path: the file with the header.
        fields: values by name in lower case.
        position: place of the voxels in the file, if it holds them.

    Raises:
        MaskSAMError: the header does not say the number of compressed bytes that follow it.
    """
    if not _is_true(fields.get("compresseddata", "")):
        return None
    size = integer_or_zero(fields.get("compresseddatasize", ""))
    big_endian = any(_is_true(fields.get(name, "")) for name in _BIG_ENDIAN)
    data = fields.get("elementdatafile", "")
    if data.lower() != "local":
        file = path.parent / data
        return DeflatedVoxels(file, 0, size, not big_endian) if file.is_file() else None
    if not size:
        raise MaskSAMError(f"{path} lacks its CompressedDataSize: save the image again")
    return DeflatedVoxels(path, position, size, not big_endian)


def _check_long(path: Path, fields: Mapping[str, str], position: int) -> None:
    """Check that MET_LONG voxels have 32 bits, as readers expect.

    Programs that write the system's long integers store 64 bits on most systems.

    Args:
        path: the file with the header.
        fields: values by name in lower case.
        position: place of the voxels in the file, if it holds them.

    Raises:
        MaskSAMError: the voxels have 64 bits.
        OSError: a file cannot be read.
    """
    element, data = fields.get("elementtype", "").upper(), fields.get("elementdatafile", "")
    if element not in ("MET_LONG", "MET_ULONG"):
        return
    local = data.lower() == "local"
    file, skipped = (path, position) if local else (path.parent / data, 0)
    count = math.prod(int(size) for size in numbers(fields.get("dimsize", "")))
    if file.is_file() and file.stat().st_size - skipped == 8 * count > 0:
        raise MaskSAMError(
            f"{path} has voxels of 64 bits, but {element} in its header has 32: write"
            f" {element}_LONG there"
        )


def _check_listed_files(path: Path, fields: Mapping[str, str], after: bytes) -> None:
    """Check that voxels in several files are complete, which SimpleITK does not check.

    Args:
        path: the file with the header.
        fields: values by name in lower case.
        after: content of the file after the header, which may be the list of files.

    Raises:
        MaskSAMError: the files have too few voxels, or SimpleITK cannot read this kind of list.
        OSError: a file cannot be read.
    """
    words = fields.get("elementdatafile", "").lower().split()
    if len(words) == 2 and words[0] == "list" and words[1] == fields["ndims"]:
        raise MaskSAMError(
            f"{path} has its voxels in one file by 'LIST {words[1]}': name the file itself as"
            " ElementDataFile"
        )
    element = fields.get("elementtype", "").lower().removeprefix("met_").removesuffix("_array")
    if element not in _ELEMENT_BYTES or not _is_true(fields.get("binarydata", "true")):
        return
    sizes = [int(number) for number in numbers(fields.get("dimsize", ""))]
    channels = integer_or_zero(fields.get("elementnumberofchannels", "1"))
    size = math.prod(sizes) * channels * _ELEMENT_BYTES[element]
    files = _listed_files(path, fields.get("elementdatafile", ""), after)
    if files and sum(file.stat().st_size for file in files if file.is_file()) < size:
        raise incomplete(path)


def _is_true(text: str) -> bool:
    """Return whether the text of a MetaImage field means true."""
    return text[:1].lower() in ("t", "1")


def _listed_files(path: Path, data: str, after: bytes) -> list[Path]:
    """Return the files that each hold a part of the voxels; none if one file holds all.

    Args:
        path: the file with the header.
        data: "LIST", or a pattern with first index, last index and step, such as
            "slice%03d.raw 1 20 1".
        after: content of the file after the header, which is the list of files.
    """
    pattern, *words = data.split() or [""]
    if pattern.lower() == "list":
        return [path.parent / name.strip() for name in decoded(after).splitlines() if name.strip()]
    if "%" not in pattern or not 2 <= len(words) <= 3:
        return []
    first, last, step = (integer_or_zero(word) for word in (*words, "1")[:3])
    try:
        indices = range(first, last + 1, max(step, 1))[:_MOST_FILES]
        return [path.parent / (pattern % index) for index in indices]
    except (TypeError, ValueError):  # SimpleITK refuses such a pattern
        return []

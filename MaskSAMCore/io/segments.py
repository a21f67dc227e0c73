"""Reading of segmentations with the names of their segments, on the grid of an image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import SAME_GRID_MM, Volume
from MaskSAMCore.io.files import is_segmentation_name
from MaskSAMCore.io.images import to_image
from MaskSAMCore.io.labelmaps import read_labelmap
from MaskSAMCore.labels import Label, Terminology, default_colors
from MaskSAMCore.terminology import terminology_of

# Limit on the bytes read; a header with hundreds of segments is far smaller.
_HEADER_BYTES = 1 << 22
_FIELD = re.compile(r"Segment([0-9]+)_(Name|LabelValue|Layer|Color|Tags)")
# NRRD headers write a backslash as \\ and a line break as \n.
_ESCAPED = re.compile(r"\\([\\n])")


def read_segment_labels(path: Path) -> tuple[Label, ...]:
    """Return the segments of a ``.seg.nrrd`` file with their values, colours and terminology.

    Raises:
        MaskSAMError: the file cannot be read, has no segments, two segments of the same name, a
            segment without a value, or overlapping segments, which lie in several layers.
    """
    segments = _segment_fields(path)
    if any(segment.get("Layer", "0") != "0" for segment in segments.values()):
        raise MaskSAMError(f"{path} has segments that overlap: export it without overlaps")
    found: dict[str, Label] = {}
    colors = default_colors(len(segments))
    for (number, segment), color in zip(segments.items(), colors, strict=True):
        name = segment.get("Name", f"Segment_{number}")
        if name in found:
            raise MaskSAMError(f"{path} has two segments named '{name}': rename one")
        value = segment.get("LabelValue", "")
        if not value.isdecimal() or int(value) == 0:
            raise MaskSAMError(
                f"{path}: the segment '{name}' has no value: save it in 3D Slicer again"
            )
        terminology = _terminology(segment.get("Tags", ""))
        found[name] = Label(
            int(value), name, _color(segment.get("Color", "")) or color, terminology
        )
    if not found:
        raise MaskSAMError(f"{path} names no segments: save the segmentation in 3D Slicer again")
    return tuple(found.values())


def read_segment_values(path: Path) -> dict[str, int]:
    """Return the value of each segment of a ``.seg.nrrd`` file by its name.

    Raises:
        MaskSAMError: see :func:`read_segment_labels`.
    """
    return {label.name: label.value for label in read_segment_labels(path)}


def has_segments(path: Path) -> bool:
    """Return whether a file is a ``.seg.nrrd`` file whose segments have names.

    Raises:
        MaskSAMError: the file cannot be read.
    """
    if not is_segmentation_name(path):
        return False
    return any("Name" in segment for segment in _segment_fields(path).values())


def read_segmentation(
    path: Path, image: Volume, names: Mapping[str, int]
) -> tuple[NDArray[np.integer], dict[str, int]]:
    """Return a labelmap on the grid of an image, and the values of its classes by name.

    Args:
        path: a ``.seg.nrrd`` file, or a labelmap.
        image: image that the segmentation belongs to. A segmentation on another grid, such as one
            that was cropped to its segments, is resampled to the nearest voxel.
        names: values of the classes by name, for a labelmap, which stores no names.

    Raises:
        MaskSAMError: the file cannot be read, or does not overlap the image, or a labelmap has
            values without a name.
    """
    labelmap = read_labelmap(path)
    named = is_segmentation_name(path)
    values = read_segment_values(path) if named else dict(names)
    array = labelmap.array
    if not labelmap.same_grid(image, SAME_GRID_MM):
        resampled = sitk.Resample(
            to_image(array, labelmap.ijk_to_ras),
            to_image(np.zeros(image.shape, np.uint8), image.ijk_to_ras),
            sitk.Transform(),
            sitk.sitkNearestNeighbor,
            0,
        )
        if array.any() and not sitk.GetArrayViewFromImage(resampled).any():
            raise MaskSAMError(f"{path} does not overlap the image '{image.name}'")
        array = sitk.GetArrayFromImage(resampled)
    unnamed = sorted(set(np.unique(array).tolist()) - {0, *values.values()})
    if unnamed:
        raise MaskSAMError(
            f"{path} has values without a class: {unnamed[:10]}: give a .seg.nrrd file, or a"
            " labelmap with the values of the model"
        )
    return array, values


def _segment_fields(path: Path) -> dict[str, dict[str, str]]:
    """Return name, value, layer, color and tags of the segments in the header of a NRRD file."""
    try:
        with path.open("rb") as stream:
            start = stream.read(_HEADER_BYTES)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MaskSAMError(f"{path} cannot be read: {reason}") from error
    header = re.split(rb"\r?\n\r?\n", start, maxsplit=1)[0].decode("utf-8", "replace")
    segments: dict[str, dict[str, str]] = {}
    for line in header.splitlines():
        key, separator, value = line.partition(":=")
        match = _FIELD.fullmatch(key.strip())
        if separator and match is not None:
            plain = _ESCAPED.sub(lambda found: "\n" if found[1] == "n" else "\\", value)
            segments.setdefault(match[1], {})[match[2]] = plain.strip()
    return segments


def _color(text: str) -> tuple[float, float, float] | None:
    """Return red, green and blue, 0 to 1; None if the text is not three numbers."""
    try:
        red, green, blue = (min(max(float(part), 0.0), 1.0) for part in text.split())
    except ValueError:
        return None
    return red, green, blue


def _terminology(tags: str) -> Terminology | None:
    """Return the terminology among the tags of a segment, "NAME:VALUE|NAME:VALUE|"."""
    named = dict(tag.partition(":")[::2] for tag in tags.split("|"))
    return terminology_of(named.get("TerminologyEntry", ""))

"""Slices on which a box is segmented, and the rectangle of the box on each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.inference.box_prompts import crossed_slices
from MaskSAMCore.inference.sliding_window import Region, Shape

# Above this ratio of voxel sizes, slices that are not across the axis with the longest voxels show
# steps, not anatomy.
_ANISOTROPIC_RATIO = 1.5
# Larger than the rounding of voxel sizes in headers, so that copies of a volume have the same axes.
_ROUNDING = 1e-3
# A box must appear this much larger than on axial slices for another axis to be used: otherwise a
# face dragged by one voxel could change the axis and with it all slices to encode.
_LARGER_RATIO = 1.5
# Slices are strips without context if their shorter side is below this share of the largest shorter
# side.
_STRIP_RATIO = 0.25


@dataclass(frozen=True)
class BoxSlices:
    """A box on the slices across one axis.

    Attributes:
        axis: axis of the image (0 axial, 1 coronal, 2 sagittal) that the slices are across.
        slices: indices of the slices along this axis.
        rectangle: x1 y1 x2 y2 on each slice, in pixel edges (columns, rows).
        place: index of the voxels whose centre lies in the box.
    """

    axis: int
    slices: range
    rectangle: tuple[float, float, float, float]
    place: Region


def box_slices(
    edges: NDArray[np.float64], shape: Shape, spacing: tuple[float, float, float]
) -> BoxSlices:
    """Return the slices of a box across its best axis.

    Args:
        edges: (2, 3), lower and upper edges along the axes of the image, in voxels.
        shape: shape of the image.
        spacing: mm along the axes of the image.
    """
    axis = best_axis(edges[1] - edges[0], shape, spacing)
    rows, columns = in_plane(axis)
    k, j, i = (crossed_slices(edges[0, a], edges[1, a], shape[a]) for a in (0, 1, 2))
    place = (k, j, i)
    (y1, x1), (y2, x2) = edges[:, [rows, columns]].tolist()
    slices = range(place[axis].start, place[axis].stop)
    return BoxSlices(axis, slices, (x1, y1, x2, y2), place)


def best_axis(size: NDArray[Any], shape: Shape, spacing: tuple[float, float, float]) -> int:
    """Choose the axis that the slices of a box are across.

    If voxels are more than 1.5 times as long along one axis as along another, the axis along which
    they are longest is chosen: the volume was acquired in slices across it, and all others would
    show steps. Otherwise it is the axis whose slices show the box largest in SAM's input, because
    SAM segments large objects best; it also has the fewest slices to encode. Axial slices, on which
    MedSAM was mostly trained, are kept unless others show the box more than 1.5 times as large, so
    that a small change of the box does not change the axis. Axes whose slices are narrow strips, in
    a volume of few slices, are excluded.

    Args:
        size: voxels of the box along the axes of the image, axial first.
        shape: shape of the image; SAM's input shows the longest side of a slice in 1024 pixels.
        spacing: mm along the axes of the image.
    """
    shorter = [min(shape[a] for a in in_plane(axis)) for axis in (0, 1, 2)]
    candidates = [a for a in (0, 1, 2) if shorter[a] >= _STRIP_RATIO * max(shorter)]
    longest = max(spacing[a] for a in candidates)
    if longest > _ANISOTROPIC_RATIO * min(spacing) * (1 + _ROUNDING):
        candidates = [
            a for a in candidates if spacing[a] > longest / _ANISOTROPIC_RATIO * (1 + _ROUNDING)
        ]
    areas = {}
    for axis in candidates:
        rows, columns = in_plane(axis)
        areas[axis] = size[rows] * size[columns] / max(shape[rows], shape[columns]) ** 2
    largest = max(candidates, key=lambda axis: (areas[axis], -axis))
    first = candidates[0]
    return largest if areas[largest] > _LARGER_RATIO * areas[first] else first


def in_plane(axis: int) -> tuple[int, int]:
    """Return the axes of the rows and columns of slices across an axis."""
    rows, columns = (a for a in (0, 1, 2) if a != axis)
    return rows, columns

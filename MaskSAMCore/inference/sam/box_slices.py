"""Which slices a box is segmented on, and where it lies on each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.inference.box_prompts import crossed_slices

# Beyond this ratio of voxel sizes, a slice across the coarse axis shows steps, not anatomy.
_ANISOTROPIC = 1.5
# An axis must show a box so much larger than the axial one: else dragging a face by a voxel would
# change the axis, and with it every slice that has been encoded.
_CLEARLY_LARGER = 1.5
# Slices whose shorter side is a smaller part of the best slices' are strips without context.
_NOT_A_STRIP = 0.25


@dataclass(frozen=True)
class BoxSlices:
    """A box on the slices of one axis.

    Attributes:
        axis: 0, 1 or 2 of the upright array (see `sam_session.ORIENTATION`) that slices are across.
        slices: indices along it.
        rectangle: x1 y1 x2 y2 on each slice, in pixel edges (columns, rows).
        place: the index of the box's voxels, those whose centre lies in it, in the upright array.
    """

    axis: int
    slices: range
    rectangle: tuple[float, float, float, float]
    place: tuple[slice, slice, slice]


def box_slices(
    edges: NDArray[np.float64], shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> BoxSlices:
    """The slices of a box along its best axis.

    Args:
        edges: (2, 3), lower and upper edges along the axes of the upright array.
        shape: of that array.
        spacing: mm along its axes.
    """
    axis = best_axis(edges[1] - edges[0], shape, spacing)
    rows, columns = in_plane(axis)
    k, j, i = (crossed_slices(edges[0, a], edges[1, a], shape[a]) for a in (0, 1, 2))
    place = (k, j, i)
    (y1, x1), (y2, x2) = edges[:, [rows, columns]].tolist()
    slices = range(place[axis].start, place[axis].stop)
    return BoxSlices(axis, slices, (x1, y1, x2, y2), place)


def best_axis(
    size: NDArray[Any], shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> int:
    """The axis that a box's slices are across.

    Where voxels are more than 1.5 times as long along one axis as along another, slices are across
    the longest: that is how the volume was acquired, and every other slice would show steps. Else
    it is the axis whose slices show the box largest in SAM's input, because SAM sees what is large
    best; that is also the one with the fewest slices to encode. The axial one is kept unless
    another shows the box more than 1.5 times as large: so a face that is dragged a little does not
    change the axis, and MedSAM saw mostly axial slices. Axes whose slices are narrow strips (of a
    volume of few slices, whatever their spacing) are left out.

    Args:
        size: of the box in voxels along the axes of the upright array, axial first.
        shape: of that array; SAM's input shows its longest side in 1024 pixels.
        spacing: mm along its axes.
    """
    shorter = [min(shape[a] for a in in_plane(axis)) for axis in (0, 1, 2)]
    candidates = [a for a in (0, 1, 2) if shorter[a] >= _NOT_A_STRIP * max(shorter)]
    longest = max(spacing[a] for a in candidates)
    if longest > _ANISOTROPIC * min(spacing):
        candidates = [a for a in candidates if spacing[a] > longest / _ANISOTROPIC]
    areas = {}
    for axis in candidates:
        rows, columns = in_plane(axis)
        areas[axis] = size[rows] * size[columns] / max(shape[rows], shape[columns]) ** 2
    largest = max(candidates, key=lambda axis: (areas[axis], -axis))
    first = candidates[0]
    return largest if areas[largest] > _CLEARLY_LARGER * areas[first] else first


def in_plane(axis: int) -> tuple[int, int]:
    """Rows and columns of the slices across an axis."""
    rows, columns = (a for a in (0, 1, 2) if a != axis)
    return rows, columns

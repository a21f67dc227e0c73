"""Labelmaps on one grid, where Slicer has cropped a segmentation to its segments."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.geometry import SAME_GRID_MM, Volume


def united(
    a: Volume, b: Volume, cropped: tuple[bool, bool]
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return two labelmaps on the smallest grid that contains both, with background around them.

    Args:
        a: first labelmap.
        b: second labelmap.
        cropped: whether each labelmap may have been cropped from a larger one.

    Returns:
        Both arrays [K, J, I]; None if the grids do not overlap, if their voxels do not coincide, or
        if a labelmap that is not cropped does not cover the other one.
    """
    if a.same_grid(b, SAME_GRID_MM):
        return a.array, b.array
    first = np.rint((np.linalg.inv(b.ijk_to_ras) @ a.ijk_to_ras)[:3, 3])
    moved = b.ijk_to_ras.copy()
    moved[:3, 3] += moved[:3, :3] @ first
    if not a.same_grid(replace(a, ijk_to_ras=moved), SAME_GRID_MM):
        return None
    starts = np.array([first[::-1], np.zeros(3)], dtype=int)
    stops = starts + np.array([a.shape, b.shape])
    if (starts.max(0) >= stops.min(0)).any():
        return None
    start, stop = starts.min(0), stops.max(0)
    whole = (starts == start).all(1) & (stops == stop).all(1)
    if not (whole | np.array(cropped)).all():
        return None
    arrays = []
    for volume, own_start, own_stop in zip((a, b), starts, stops, strict=True):
        margins = np.stack([own_start - start, stop - own_stop], axis=1)
        arrays.append(np.pad(volume.array, margins) if margins.any() else volume.array)
    return arrays[0], arrays[1]

"""Resampling of a case's channels to one grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume

# A channel that covers a smaller share of the first channel gets a note.
_FULL_COVER = 0.9
# Tolerance of voxel edges in voxels, for matrices that were rounded in a file.
_EDGE_TOLERANCE = 1e-3


def align_channels(volumes: Sequence[Volume]) -> list[Volume]:
    """Return the channels of a case on the grid of the first one.

    A channel on another grid is interpolated linearly. Voxels outside the channel get its lowest
    intensity, like the surroundings of a patient; if they are many, the channel gets a note.

    Args:
        volumes: one volume for each channel, in the same space.

    Raises:
        MaskSAMError: a channel does not overlap the first one.
    """
    first = volumes[0]
    return [first, *(_on_grid(volume, first) for volume in volumes[1:])]


def _on_grid(volume: Volume, grid: Volume) -> Volume:
    if grid.same_grid(volume):
        return volume
    to_voxels = np.linalg.inv(volume.ijk_to_ras) @ grid.ijk_to_ras
    array = volume.array if volume.array.dtype != np.bool_ else volume.array.astype(np.uint8)
    result = np.full(grid.shape, _lowest(array), dtype=np.float32)
    last = np.array(volume.shape[::-1])[:, None, None] - 0.5 + _EDGE_TOLERANCE
    j, i = np.indices(grid.shape[1:], dtype=np.float64)
    covered = 0
    for k in range(grid.shape[0]):  # by slices, since coordinates need far more memory than voxels
        points = np.stack([i, j, np.full_like(i, k), np.ones_like(i)])
        voxels = np.tensordot(to_voxels[:3], points, axes=1)
        inside = ((voxels >= -0.5 - _EDGE_TOLERANCE) & (voxels <= last)).all(axis=0)
        coordinates = voxels[::-1, inside]
        result[k][inside] = ndimage.map_coordinates(
            array, coordinates, output=np.float32, order=1, mode="nearest"
        )
        covered += int(inside.sum())
    names = f"'{volume.name}'", f"'{grid.name}'"
    if not covered:
        raise MaskSAMError(
            f"the channel {names[0]} does not overlap {names[1]}: choose images of one patient in"
            " one position, or register them first"
        )
    notes = volume.notes
    share = covered / result.size
    if share < _FULL_COVER:
        notes = (*notes, f"{names[0]} covers only {100 * share:.0f} % of {names[1]}.")
    return replace(volume, array=result, ijk_to_ras=grid.ijk_to_ras, notes=notes, orientation=None)


def _lowest(array: NDArray[np.generic]) -> float:
    """Return the lowest finite value of an array; 0 if it has none."""
    finite = array[np.isfinite(array)]
    return float(finite.min()) if finite.size else 0.0

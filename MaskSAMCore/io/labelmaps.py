"""Reading of labelmaps, whose voxels must be integers, whatever type the file stores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.io.images import read_volume

# Largest error of label values that were stored as floating-point numbers.
_TOLERANCE = 0.01
_LARGEST = np.iinfo(np.uint32).max
# Largest number of different values in a labelmap; images have more.
_MOST_VALUES = 1000
# A file with more than _FEW_VALUES values is a labelmap only if it consists of regions: at
# least the share _LEAST_EQUAL of its foreground voxels must equal the next voxel along some axis.
# In images few do.
_FEW_VALUES = 64
_LEAST_EQUAL = 0.2


def read_labelmap(path: Path | str) -> Volume:
    """Read a labelmap, with the smallest integer type that holds its values.

    Raises:
        MaskSAMError: the file cannot be read, or it is an image or a probability map and not a
            labelmap.
    """
    volume = read_volume(path)
    array = volume.array
    lowest, highest = float(array.min(initial=0)), float(array.max(initial=0))
    if lowest < -_LARGEST or highest > _LARGEST:
        raise MaskSAMError(
            f"{path} is not a labelmap: its values range from {lowest:g} to {highest:g}"
        )
    if array.dtype.kind == "f":
        whole = np.rint(array)
        if np.abs(array - whole).max(initial=0) > _TOLERANCE:
            raise MaskSAMError(
                f"{path} has values that are not integers: give a labelmap, not an image or"
                " probabilities"
            )
        array = whole
    dtype = np.result_type(np.min_scalar_type(int(lowest)), np.min_scalar_type(int(highest)))
    array = array.astype(dtype, copy=False)
    if highest - lowest <= _FEW_VALUES:
        return replace(volume, array=array)
    count = len(np.unique(array))
    if count > _MOST_VALUES or (count > _FEW_VALUES and _largest_equal_share(array) < _LEAST_EQUAL):
        raise MaskSAMError(f"{path} has {count} different values: give a labelmap, not an image")
    return replace(volume, array=array)


def _largest_equal_share(array: NDArray[np.integer]) -> float:
    """Return the share of foreground voxels that equal the next voxel, along the best axis."""
    shares = [0.0]
    for axis in range(array.ndim):
        moved = np.moveaxis(array, axis, 0)
        inside = moved[:-1] != 0
        equal = (moved[:-1] == moved[1:]) & inside
        shares.append(int(np.count_nonzero(equal)) / max(1, int(np.count_nonzero(inside))))
    return max(shares)

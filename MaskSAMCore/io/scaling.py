"""Conversion of stored values to real values by the slope and intercept of a file."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def scaled(voxels: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """Return the voxels scaled by slope and intercept; integers become float32.

    Floats are scaled in place.

    Args:
        voxels: integers or floats [K, J, I].
        slope: finite factor.
        intercept: finite summand.
    """
    if (slope, intercept) == (1.0, 0.0):
        return voxels
    result = voxels if voxels.dtype.kind == "f" else np.empty(voxels.shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for target, plane in zip(result, voxels, strict=True):
            # The stored integers may have more digits than float32.
            target[...] = plane.astype(np.float64) * slope + intercept
    return result

"""Voxels as the 8-bit grey values that SAM and MedSAM were trained on.

The rules are MedSAM's: CT is shown in a named window, everything else between the percentiles 0.5
and 99.5 of its voxels that are not 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.geometry import CT_AIR

# Level and width in Hounsfield units, those that MedSAM's training images were shown in.
CT_WINDOWS = {"soft tissue": (40, 400), "lung": (-160, 1500), "bone": (300, 1800)}
# Medians of a box's voxels below and above which lung and bone are what it is drawn around.
_LUNG_BELOW, _BONE_ABOVE = -400, 200
# Percentiles are of a sample: those of all voxels of a large CT would need a copy of them.
_SAMPLE = 1 << 21

Limits = tuple[float, float]


def is_ct(array: NDArray[Any]) -> bool:
    """Whether voxels look like Hounsfield units: there is air among them."""
    return bool(_sample(array).min() <= CT_AIR)


def percentile_limits(array: NDArray[Any]) -> Limits:
    """The percentiles 0.5 and 99.5 of the voxels that are not 0, of a regular sample of them."""
    voxels = _sample(array)
    shown = voxels[voxels != 0]
    if shown.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(shown, (0.5, 99.5))
    return float(low), float(high)


def ct_limits(inside: NDArray[Any]) -> Limits:
    """Limits of the CT window that suits what a box is drawn around.

    Args:
        inside: the voxels in the box, in Hounsfield units.
    """
    median = float(np.median(_sample(inside)))
    name = "lung" if median < _LUNG_BELOW else "bone" if median > _BONE_ABOVE else "soft tissue"
    level, width = CT_WINDOWS[name]
    return level - width / 2, level + width / 2


def to_grey(plane: NDArray[Any], limits: Limits) -> NDArray[np.uint8]:
    """A slice as 0 to 255, black at the lower limit and white at the upper."""
    low, high = limits
    scaled = (plane.astype(np.float64) - low) * (255 / max(high - low, 1e-12))
    return np.clip(scaled, 0, 255).astype(np.uint8)


def _sample(array: NDArray[Any]) -> NDArray[Any]:
    step = max(1, int(np.ceil((array.size / _SAMPLE) ** (1 / array.ndim))))
    return array[(slice(None, None, step),) * array.ndim]

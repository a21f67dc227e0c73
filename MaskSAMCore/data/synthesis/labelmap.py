"""Labelmap of a case, prepared for synthesis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.geometry import Volume, apply_axes, axis_mapping


@dataclass(frozen=True)
class Labelmap:
    """Label indices along the axes of a plan.

    Attributes:
        indices: uint8 (D, R, C), indices into a `LabelScheme`.
        spacing: mm along D, R, C.
    """

    indices: Tensor
    spacing: tuple[float, float, float]

    @classmethod
    def from_volume(cls, volume: Volume, orientation: str) -> Labelmap:
        """Turn a volume of label indices to the plan's orientation.

        The result is cropped to the labels and framed by one voxel of background, which stands for
        everything outside the labelmap.
        """
        axes, flips = axis_mapping(volume.ijk_to_ras, orientation)
        indices = apply_axes(volume.array, axes, flips)
        cropped = tuple(map(slice, *bounds_of(indices > 0)))
        framed = np.pad(indices[cropped].astype(np.uint8), 1)
        d, r, c = (volume.spacing[2 - axis] for axis in axes)
        return cls(torch.from_numpy(framed), (d, r, c))

    def to(self, device: torch.device) -> Labelmap:
        """Return the labelmap on a device."""
        return Labelmap(self.indices.to(device), self.spacing)

    @property
    def extent(self) -> tuple[float, float, float]:
        """Size along D, R, C in mm."""
        d, r, c = (n * mm for n, mm in zip(self.indices.shape, self.spacing, strict=True))
        return d, r, c


def bounds_of(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the index of the first voxel of a mask along each axis, and the index after the last;
    an empty mask has the bounds of its array.

    Args:
        mask: bool (D, R, C).
    """
    if not mask.any():
        return np.zeros(3, np.intp), np.array(mask.shape)
    lines = [np.flatnonzero(mask.any(axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return np.array([line[0] for line in lines]), np.array([line[-1] + 1 for line in lines])

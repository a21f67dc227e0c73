"""Labelmap of a case, prepared for synthesis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
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
        inside = np.argwhere(indices > 0) if indices.any() else np.zeros((1, 3), int)
        cropped = tuple(
            slice(low, high + 1) for low, high in zip(inside.min(0), inside.max(0), strict=True)
        )
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

"""Random lesions in windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from MaskSAMCore.data.synthesis.deformation import along_axes, grid_bases
from MaskSAMCore.data.synthesis.random_source import RandomSource

# Standard deviation, over all positions, of a cubic B-spline along one axis whose coefficients
# have a standard deviation of 1.
_SPLINE_SPREAD = math.sqrt(151 / 315)


@dataclass(frozen=True)
class LesionField:
    """A smooth random field over a window; a tissue has lesions where it exceeds a threshold.

    Attributes:
        lesion_of: for each label the label of lesions within it, or itself.
        control: (a, b, c), coefficients of a cubic B-spline.
        knot_spacing: distance of the coefficients along each axis in mm.
        extent: size of the window along each axis in mm.
        threshold: value of the field above which voxels are lesions.
    """

    lesion_of: Sequence[int]
    control: Tensor
    knot_spacing: Sequence[float]
    extent: Sequence[float]
    threshold: float

    @classmethod
    def random(
        cls,
        lesion_of: Sequence[int],
        extent: Sequence[float],
        knot_spacing: float,
        threshold: float,
        rng: RandomSource,
    ) -> LesionField:
        """Return a random field.

        Args:
            lesion_of: for each label the label of lesions within it, or itself.
            extent: size of the window along each axis in mm.
            knot_spacing: approximate distance of the coefficients in mm, about the size of lesions.
            threshold: value above which voxels are lesions, in standard deviations of the field.
            rng: random numbers.
        """
        counts = [max(1, round(length / knot_spacing)) for length in extent]
        shape = [count + 3 for count in counts]
        control = rng.unit_uniform_tensor(math.prod(shape)).reshape(shape).to(rng.device)
        spacings = [length / count for length, count in zip(extent, counts, strict=True)]
        return cls(lesion_of, control, spacings, extent, threshold * _SPLINE_SPREAD**3)

    def apply(self, labels: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the labels of a grid in the window after adding lesions.

        Args:
            labels: label indices, uint8 (T, H, W).
            spacing: mm of the grid's voxels along each axis.

        Returns:
            Uint8 (T, H, W).
        """
        bases = grid_bases(self.extent, labels.shape, spacing, self.knot_spacing, labels.device)
        inside = along_axes(self.control, bases) > self.threshold
        table = torch.tensor(self.lesion_of, dtype=torch.uint8, device=labels.device)
        lesions = table.index_select(0, labels.int().flatten()).reshape(labels.shape)
        return torch.where(inside, lesions, labels)

"""Intensities of each class near every place of a volume, which decide where outlines run.

A network with large voxels predicts well which classes meet at a place, but less well in which of
the input's smaller voxels they meet. There its scores count as prior probabilities, as in unified
segmentation (Ashburner and Friston, NeuroImage 26, 2005), and each class has a normal distribution
of intensities that is estimated from the volume itself. Its mean and variance are weighted by the
squared probability of the class and by a Gaussian of the distance, so that they follow a bias
field.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.inference.memory import array_bytes
from MaskSAMCore.inference.parallel import cpu_threads, results_in_order

# Standard deviation in mm of the neighbourhood whose voxels count, and the size in mm of the cells
# that means and variances are computed for.
_NEIGHBOURHOOD_MM = 16.0
_CELL_MM = 4.0
# Weight of all voxels of a class in the volume, as a share of a neighbourhood that the class fills:
# a place without voxels of the class gets the mean and variance of the class in the whole volume.
_WHOLE_VOLUME = 0.02
# Lowest sum of the squared probabilities of a class, in voxels of the plan's grid, from which its
# intensities can be estimated.
_LEAST_VOXELS = 10.0
# Smallest standard deviation of a class, as a share of that of the whole volume.
_LEAST_SPREAD = 0.05
# Intensities farther from the mean of a class, in standard deviations, count as this far.
_FARTHEST = math.sqrt(6.0)


class IntensityModel:
    """Normal distributions of the intensities of each class.

    Args:
        images: one image per channel, all of one shape (depth, rows, columns), on the output's grid
            along the plan's axes.
        scores: (K + 1, depth, rows, columns), automatic scores on the plan's grid, which covers the
            same box of space.
        spacing: mm of the plan's voxels along depth, rows and columns.
        weight: exponent of the densities, between 0 and 1; less than 1 allows for the dependence
            between the errors of neighbouring voxels.

    Attributes:
        shape: (depth, rows, columns) of the grid of means and variances.
        known: indices of the classes whose intensities are known.
        weight: exponent of the densities.
    """

    def __init__(
        self,
        images: Sequence[NDArray[np.number]],
        scores: Tensor,
        spacing: Sequence[float],
        weight: float,
    ) -> None:
        self.weight = weight
        self._images = images
        self._scales = [_scale(image) for image in images]
        grid = scores.shape[1:]
        depth, rows, columns = (
            max(1, min(n, round(n * mm / _CELL_MM))) for n, mm in zip(grid, spacing, strict=True)
        )
        self.shape = depth, rows, columns
        blurs = [
            _gaussian(m, _NEIGHBOURHOOD_MM * m / (n * mm))
            for n, m, mm in zip(grid, self.shape, spacing, strict=True)
        ]
        moments = []
        for image, (mean, spread) in zip(images, self._scales, strict=True):
            moments += [*_cell_moments(image, grid, mean, spread)]
        total = scores.sum(0, dtype=torch.float32).clamp_(min=torch.finfo(torch.float32).tiny)

        def distribution(score: Tensor) -> Tensor | None:
            weights = (score / total).square()
            known = float(weights.sum()) >= _LEAST_VOXELS
            return self._distribution(weights, moments, blurs) if known else None

        with results_in_order(distribution, list(scores), cpu_threads()) as found:
            self._fields = {i: field for i, field in enumerate(found) if field is not None}
        self.known = self._fields.keys()

    @property
    def memory_bytes(self) -> int:
        """Bytes of the means and variances, without the images."""
        return array_bytes(self._fields.values())

    def fields(self, index: int) -> Tensor:
        """Return the mean and the variance of a class in each channel, on the model's own grid:
        (2, channels, depth, rows, columns)."""
        return self._fields[index]

    def intensities(self, voxels: Tensor) -> Tensor:
        """Return the standardised intensities (channels, N) of voxels (N, 3) of the output."""
        place = tuple(voxels.numpy().T)
        found = [
            (image[place].astype(np.float32) - np.float32(mean)) / np.float32(spread)
            for image, (mean, spread) in zip(self._images, self._scales, strict=True)
        ]
        return torch.from_numpy(np.stack(found))

    def log_density(self, intensities: Tensor, means: Tensor, variances: Tensor) -> Tensor:
        """Return the weighted logarithm of the densities of a class, up to a constant.

        Args:
            intensities: (channels, N), standardised intensities of voxels.
            means: (channels, N), means of the class at the voxels.
            variances: (channels, N), variances of the class at the voxels.

        Returns:
            (N,), the sum over the channels.
        """
        distance = ((intensities - means).square_() / variances).clamp_(max=_FARTHEST**2)
        return (distance + variances.log()).sum(0).mul_(-0.5 * self.weight)

    def _distribution(
        self, weights: Tensor, moments: Sequence[Tensor], blurs: Sequence[Tensor]
    ) -> Tensor:
        """Return the means and variances (2, channels, depth, rows, columns) of a class.

        Args:
            weights: (depth, rows, columns), weight of each voxel of the plan's grid.
            moments: mean intensity and mean squared intensity in each voxel of the plan's grid, for
                each channel in turn.
            blurs: Gaussian weights (cells, cells) of all cells for each cell, for each axis.
        """
        weighted = torch.stack([weights, *(weights * moment for moment in moments)])
        cells = F.adaptive_avg_pool3d(weighted, self.shape)
        whole = cells.sum((1, 2, 3))
        for axis, blur in enumerate(blurs, start=1):
            cells = torch.movedim(torch.tensordot(cells, blur, ([axis], [1])), -1, axis)
        cells += _WHOLE_VOLUME * (whole / whole[0])[:, None, None, None]
        means, squares = (cells[first::2] / cells[0] for first in (1, 2))
        variances = (squares - means.square()).clamp_(min=0).add_(_LEAST_SPREAD**2)
        return torch.stack([means, variances])


def _scale(image: NDArray[np.number]) -> tuple[float, float]:
    """Return the mean and the standard deviation of an image."""
    mean = float(image.mean(dtype=np.float64))
    # Plane by plane, because the conversion copies the voxels.
    variance = float(np.mean([np.mean((plane.astype(np.float64) - mean) ** 2) for plane in image]))
    return mean, math.sqrt(variance) or 1.0


def _gaussian(count: int, deviation: float) -> Tensor:
    """Return Gaussian weights (count, count) of all cells along an axis for each cell."""
    place = torch.arange(count, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((place - place[:, None]) / deviation).square())
    # The weights of a whole neighbourhood sum to 1, also at the faces of the volume.
    return weights / weights.sum(1, keepdim=True)


def _cell_moments(
    image: NDArray[np.number], grid: Sequence[int], mean: float, spread: float
) -> tuple[Tensor, Tensor]:
    """Return the mean standardised intensity and its mean square in each voxel of a grid.

    Only the planes of one slice of the grid are converted at a time.

    Args:
        image: (depth, rows, columns).
        grid: shape of the grid, which covers the same box of space.
        mean: mean of the image.
        spread: standard deviation of the image.
    """
    depth, rows, columns = grid
    found = torch.empty(2, depth, rows, columns)
    for index in range(depth):
        first = index * len(image) // depth
        last = -((index + 1) * -len(image) // depth)
        planes = image[first:last].astype(np.float32)
        values = torch.from_numpy((planes - np.float32(mean)) / np.float32(spread))
        both = torch.stack([values.mean(0), values.square().mean(0)])
        found[:, index] = F.adaptive_avg_pool2d(both, (rows, columns))
    return found[0], found[1]

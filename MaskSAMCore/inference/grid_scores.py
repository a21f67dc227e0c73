"""Scores of a network on its own grid, and the probabilities that they give the input's voxels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.geometry import invert_axes
from MaskSAMCore.inference.decision import RegionScores
from MaskSAMCore.inference.intensity_model import IntensityModel
from MaskSAMCore.inference.model_grid import ModelGrid
from MaskSAMCore.inference.scoring import Shares


@dataclass(frozen=True)
class GridScores:
    """Scores of all classes of a volume, without boxes of the user.

    Attributes:
        scores: (K + 1, depth, rows, columns) on the grid, background first.
        grid: grid of the network, and its place in the volume.
        background_weight: factor of the background's scores.
        notes: messages for the user about the volume and the run.
        shares: shares of the classes that a refiner decides, or None.
        intensities: intensities of the classes, or None.
    """

    scores: Tensor
    grid: ModelGrid
    background_weight: float
    notes: tuple[str, ...] = ()
    shares: Shares | None = None
    intensities: IntensityModel | None = None

    def classes(self) -> Tensor:
        """Return the class index of each voxel of the grid: int32 (depth, rows, columns)."""
        depth, rows, columns = (slice(0, size) for size in self.grid.shape)
        whole = RegionScores(
            self.scores,
            {},
            self.grid.shape,
            (depth, rows, columns),
            self.background_weight,
            self.shares,
        )
        return whole.decide()[0]

    def probabilities(self, planes: slice) -> Iterator[NDArray[Any]]:
        """Yield the probabilities of each class, background first, at voxels of the volume.

        Args:
            planes: planes along K, counted from the start of the processed region.

        Returns:
            Iterator of float32 [K, J, I] of these planes of the region.
        """
        grid = self.grid
        extent = [part.stop - part.start for part in grid.region.slices()]
        parts = [planes, slice(0, extent[1]), slice(0, extent[2])]
        region = []
        for axis, flip in zip(grid.axes, grid.flips, strict=True):
            part, size = parts[axis], extent[axis]
            region.append(slice(size - part.stop, size - part.start) if flip else part)
        depth, rows, columns = (extent[axis] for axis in grid.axes)
        decided = RegionScores(
            self.scores,
            {},
            (depth, rows, columns),
            (region[0], region[1], region[2]),
            self.background_weight,
            self.shares,
            self.intensities,
        )
        for probability in decided.probabilities():
            yield invert_axes(probability.numpy(), grid.axes, grid.flips)

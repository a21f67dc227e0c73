"""Trilinear interpolation from a grid to the voxels of a finer or coarser one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from MaskSAMCore.inference.sliding_window import Region
from MaskSAMCore.modeling.layers import linear_weights


@dataclass(frozen=True)
class Located:
    """Positions of N voxels between the cells of a region of a grid.

    Attributes:
        first: (N,), flat index in the region of the cell that is the lower one along each axis.
        shares: (3, N), weight of the lower cell along each axis; the upper cell has the rest.
        steps: difference of the flat indices of the upper and the lower cell along each axis.
    """

    first: Tensor
    shares: Tensor
    steps: tuple[int, int, int]

    def nearest(self) -> Tensor:
        """Return the flat index (N,) of the cell nearest to each voxel."""
        cell = self.first.clone()
        for share, step in zip(self.shares, self.steps, strict=True):
            cell += step * (share < 0.5)
        return cell

    def interpolated(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return values (M,) at some of the voxels.

        Args:
            values: (depth, rows, columns) of the region.
            rows: (M,), indices of the voxels.
        """
        flat, first = values.flatten().float(), self.first.index_select(0, rows)
        corners = [flat[offset:].index_select(0, first) for offset in self._offsets()]
        for share, count in zip(self.shares, (4, 2, 1), strict=True):
            lower = share.index_select(0, rows)
            corners = [torch.lerp(corners[i + count], corners[i], lower) for i in range(count)]
        return corners[0]

    def _offsets(self) -> list[int]:
        """Return the flat offsets of the eight corners from the first, depth changing slowest."""
        return [sum(steps) for steps in itertools.product(*((0, step) for step in self.steps))]


class GridSampler:
    """Trilinear interpolation from the plan's grid to a region of the output's grid.

    Both grids cover the same box of space: voxel edges 0 and n coincide along each axis.

    Args:
        source_shape: (depth, rows, columns) of the plan's grid.
        target_shape: (depth, rows, columns) of the output's grid.
        region: voxels of the output's grid.

    Attributes:
        source: region of the plan's grid that values in ``region`` are interpolated from.
    """

    def __init__(
        self, source_shape: Sequence[int], target_shape: Sequence[int], region: Region
    ) -> None:
        self._axes: list[Tensor | None] = []
        parts = []
        for n, m, part in zip(source_shape, target_shape, region, strict=True):
            if n == m:
                self._axes.append(None)
                parts.append(part)
                continue
            weights = linear_weights(n, m)[part]
            reached = weights.any(0).nonzero()
            cells = slice(int(reached[0]), int(reached[-1]) + 1)
            self._axes.append(weights[:, cells])
            parts.append(cells)
        self.source: Region = (parts[0], parts[1], parts[2])

    def __call__(self, values: Tensor) -> Tensor:
        """Interpolate values.

        Args:
            values: (depth, rows, columns) of the region `source` of the plan's grid.

        Returns:
            float32 (depth, rows, columns) of the region of the output's grid.
        """
        values = values.float()
        depth, rows, columns = self._axes
        # Along each axis the interpolation is a product with a matrix of two weights per row.
        if depth is not None:
            values = (depth @ values.flatten(1)).unflatten(1, values.shape[1:])
        if rows is not None:
            values = rows @ values
        if columns is not None:
            values = values @ columns.T
        return values

    def picked(self, values: Tensor, index: Tensor, voxels: Tensor) -> Tensor:
        """Interpolate at some voxels only, each in one of several arrays.

        Args:
            values: (C, depth, rows, columns) of the region `source` of the plan's grid.
            index: (N,), index of the array that each voxel is interpolated in.
            voxels: (N, 3), places in the region of the output's grid.

        Returns:
            float32 (N,).
        """
        sides = [self._neighbours(axis, places) for axis, places in enumerate(voxels.unbind(1))]
        total = torch.zeros(len(index))
        for (z, of_z), (y, of_y), (x, of_x) in itertools.product(*sides):
            total += of_z * of_y * of_x * values[index, z, y, x].float()
        return total

    def located(self, voxels: Tensor) -> Located:
        """Return the positions of voxels (N, 3) of the region between the cells of `source`."""
        shape = [part.stop - part.start for part in self.source]
        first = torch.zeros(len(voxels), dtype=torch.int64)
        shares, steps = [], []
        for axis, (places, count) in enumerate(zip(voxels.unbind(1), shape, strict=True)):
            (lower, share), *_ = self._neighbours(axis, places)
            # The last cell has no upper neighbour, so it becomes the upper cell of its pair.
            last = lower > max(count - 2, 0)
            shares.append(torch.where(last, 1 - share, share))
            first = first * count + torch.where(last, lower - 1, lower)
            steps.append(math.prod(shape[axis + 1 :]) if count > 1 else 0)
        return Located(first, torch.stack(shares), (steps[0], steps[1], steps[2]))

    def _neighbours(self, axis: int, places: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the cells of `source` that places along an axis lie between, and their weights."""
        weights = self._axes[axis]
        if weights is None:
            return [(places, torch.ones(len(places)))]
        cells, lower = weights.shape[1], (weights > 0).int().argmax(1)
        upper = (lower + 1).clamp(max=cells - 1)
        share = weights.gather(1, lower[:, None])[:, 0]
        return [(lower[places], share[places]), (upper[places], 1 - share[places])]

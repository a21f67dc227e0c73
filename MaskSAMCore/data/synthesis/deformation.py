"""Spatial transform from a window to a labelmap, as one cubic B-spline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from MaskSAMCore.data.synthesis.labelmap import Labelmap
from MaskSAMCore.data.synthesis.random_source import RandomSource


@dataclass(frozen=True)
class BSplineTransform:
    """A map from positions in a window to positions in a labelmap.

    Attributes:
        control: (3, a, b, c), positions of the control points in the labelmap in mm.
        knot_spacing: distance of control points along each axis of the window in mm.
        extent: size of the window along each axis in mm.
    """

    control: Tensor
    knot_spacing: Sequence[float]
    extent: Sequence[float]

    @classmethod
    def random(
        cls,
        matrix: Tensor,
        centre: Sequence[float],
        extent: Sequence[float],
        knot_spacing: float,
        strength: float,
        rng: RandomSource,
    ) -> BSplineTransform:
        """Compose an affine map with a random smooth deformation.

        Args:
            matrix: (3, 3), linear part of the affine map about the window's centre.
            centre: position in the labelmap of the window's centre in mm.
            extent: size of the window along each axis in mm.
            knot_spacing: approximate distance of control points in mm.
            strength: standard deviation of the control points' shifts in mm.
            rng: random numbers.
        """
        spacings = [length / max(1, round(length / knot_spacing)) for length in extent]
        axes = [
            torch.arange(-1, round(length / gap) + 2) * gap - length / 2
            for length, gap in zip(extent, spacings, strict=True)
        ]
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        # Splines reproduce linear functions, so the affine map is applied to the control points.
        control = torch.einsum("ab,bxyz->axyz", matrix, points)
        control += torch.tensor(list(centre), dtype=torch.float32)[:, None, None, None]
        shifts = rng.unit_uniform_tensor(control.numel())
        return cls(control + strength * shifts.reshape(control.shape), spacings, extent)

    @classmethod
    def identity(cls, labelmap: Labelmap) -> BSplineTransform:
        """Return the transform from a window that covers a labelmap to that labelmap."""
        extent = labelmap.extent
        axes = [torch.arange(-1.0, 3.0) * length for length in extent]
        return cls(torch.stack(torch.meshgrid(*axes, indexing="ij")), extent, extent)

    def sample(self, labelmap: Labelmap, shape: Sequence[int], spacing: Sequence[float]) -> Tensor:
        """Return the nearest label at each voxel of a grid in the window.

        Args:
            labelmap: the labelmap to read.
            shape: voxels of the grid along each axis.
            spacing: mm of the grid's voxels along each axis.

        Returns:
            Uint8 of ``shape``; positions outside the labelmap get its outermost voxels.
        """
        device = labelmap.indices.device
        bases = grid_bases(self.extent, shape, spacing, self.knot_spacing, device)
        index: Tensor | None = None
        sizes = zip(labelmap.indices.shape, labelmap.spacing, strict=True)
        for axis, (size, mm) in enumerate(sizes):
            position = along_axes((self.control[axis] / mm).to(device), bases)
            voxel = position.clamp_(0, size - 1).int()
            index = voxel if index is None else index.mul_(size).add_(voxel)
        assert index is not None
        return labelmap.indices.flatten().index_select(0, index.flatten()).reshape(index.shape)


def along_axes(volume: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply a volume by one matrix along each of its axes.

    Args:
        volume: (D, R, C).
        matrices: three matrices (new size, old size), one for each axis.
    """
    # Axes that shrink come first, which makes the other products smaller.
    order = sorted(range(3), key=lambda axis: matrices[axis].shape[0] / matrices[axis].shape[1])
    for axis in order:
        matrix = matrices[axis]
        if axis == 2:
            volume = volume @ matrix.T
        elif axis == 1:
            volume = matrix @ volume
        else:
            rest = volume.shape[1:]
            volume = (matrix @ volume.reshape(len(volume), -1)).reshape(-1, *rest)
    return volume


def grid_bases(
    extent: Sequence[float],
    shape: Sequence[int],
    spacing: Sequence[float],
    knot_spacing: Sequence[float],
    device: torch.device,
) -> list[Tensor]:
    """Return the values of cubic B-spline basis functions at the voxels of a grid in a window.

    Args:
        extent: size of the window along each axis in mm.
        shape: voxels of the grid along each axis.
        spacing: mm of the grid's voxels along each axis.
        knot_spacing: distance of the control points along each axis in mm.
        device: device of the result.

    Returns:
        For each axis (voxels, control points), see :func:`spline_basis`.
    """
    axes = zip(extent, shape, spacing, knot_spacing, strict=True)
    return [
        spline_basis(voxel_centres(length, mm) + length / 2, gap, length)[:count].to(device)
        for length, count, mm, gap in axes
    ]


def spline_basis(positions: Tensor, knot_spacing: float, length: float) -> Tensor:
    """Return the values of cubic B-spline basis functions.

    Args:
        positions: (P,), from 0 to ``length``.
        knot_spacing: distance of control points; they lie at -knot_spacing, 0, knot_spacing, …,
            length + knot_spacing.
        length: length of the axis.

    Returns:
        Float32 (P, control points).
    """
    count = round(length / knot_spacing) + 3
    distance = (positions[:, None] / knot_spacing - torch.arange(-1, count - 1)).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far).float()


def voxel_centres(length: float, size: float, shift: float = 0.0) -> Tensor:
    """Return the centres of voxels of a given size along an axis, about the axis' middle.

    Args:
        length: length of the axis in mm.
        size: voxel size in mm.
        shift: offset of the whole grid in mm.
    """
    count = max(1, round(length / size))
    return (torch.arange(count) - (count - 1) / 2) * size + shift


def rotation_matrix(angles: Sequence[float]) -> Tensor:
    """Return the 3 x 3 matrix of rotations about the three axes in order, angles in radians."""
    matrix = torch.eye(3)
    for axis, angle in enumerate(angles):
        rotation = torch.eye(3)
        a, b = [other for other in range(3) if other != axis]
        rotation[a, a] = rotation[b, b] = math.cos(angle)
        rotation[a, b], rotation[b, a] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ rotation
    return matrix

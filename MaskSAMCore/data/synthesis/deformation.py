"""Where a window lies in a label map: an affine map and a smooth deformation as one B-spline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.data.synthesis.random_source import Draw

Three = tuple[float, float, float]


@dataclass(frozen=True)
class LabelMap:
    """A label map ready for windows to be cut from.

    Attributes:
        labels: uint8 (D, R, C), label indices, turned to the plan's orientation, cropped to what is
            not background and framed by one voxel of it.
        spacing: mm along its axes.
    """

    labels: Tensor
    spacing: Three

    @classmethod
    def of(cls, labels: NDArray[np.integer], spacing: Three) -> LabelMap:
        """From whole (D, R, C) label indices."""
        inside = np.argwhere(labels > 0) if labels.any() else np.zeros((1, 3), int)
        cut = tuple(
            slice(low, high + 1) for low, high in zip(inside.min(0), inside.max(0), strict=True)
        )
        framed = np.pad(labels[cut].astype(np.uint8), 1)
        return cls(torch.from_numpy(framed), spacing)

    def to(self, device: torch.device) -> LabelMap:
        """The map on a device."""
        return LabelMap(self.labels.to(device), self.spacing)

    @property
    def extent(self) -> Three:
        """Millimetres along its axes."""
        d, r, c = (n * mm for n, mm in zip(self.labels.shape, self.spacing, strict=True))
        return d, r, c


@dataclass(frozen=True)
class Mapping:
    """From a window to a label map, by control points of a cubic B-spline.

    Attributes:
        control: (3, a, b, c), positions in the label map in mm.
        gaps: mm between control points in the window.
        extent: of the window, mm.
    """

    control: Tensor
    gaps: Sequence[float]
    extent: Sequence[float]

    @classmethod
    def of(
        cls,
        matrix: Tensor,
        centre: Sequence[float],
        extent: Sequence[float],
        knots: float,
        strength: float,
        draw: Draw,
    ) -> Mapping:
        """An affine map about the window's middle, and shifts of its control points in mm."""
        gaps = [length / max(1, round(length / knots)) for length in extent]
        axes = [
            torch.arange(-1, round(length / gap) + 2) * gap - length / 2
            for length, gap in zip(extent, gaps, strict=True)
        ]
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        # Splines reproduce what is linear, so the affine map goes into the control points.
        moved = torch.einsum("ab,bxyz->axyz", matrix, points)
        moved += torch.tensor(list(centre), dtype=torch.float32)[:, None, None, None]
        shifts = draw.uniforms(moved.numel(), -1.7, 1.7).reshape(moved.shape)
        return cls(moved + strength * shifts, gaps, extent)

    @classmethod
    def identity(cls, source: LabelMap) -> Mapping:
        """The whole label map as it is."""
        extent = source.extent
        axes = [torch.arange(-1.0, 3.0) * length for length in extent]
        return cls(torch.stack(torch.meshgrid(*axes, indexing="ij")), extent, extent)

    def sample(self, source: LabelMap, shape: Sequence[int], spacing: Sequence[float]) -> Tensor:
        """Labels, uint8 of ``shape``, at the centres of voxels of ``spacing`` in the window; the
        background outside the map."""
        device = source.labels.device
        bases = [
            spline_basis(voxel_centres(length, mm) + length / 2, gap, length)[:count].to(device)
            for length, mm, gap, count in zip(self.extent, spacing, self.gaps, shape, strict=True)
        ]
        index: Tensor | None = None
        for axis, (size, mm) in enumerate(zip(source.labels.shape, source.spacing, strict=True)):
            place = along_axes((self.control[axis] / mm).to(device), bases)
            voxel = place.clamp_(0, size - 1).int()
            index = voxel if index is None else index.mul_(size).add_(voxel)
        assert index is not None
        return source.labels.flatten().index_select(0, index.flatten()).reshape(index.shape)


def along_axes(volume: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """A matrix (new, old) applied along each axis of (D, R, C); where it shrinks, first."""
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


def spline_basis(at: Tensor, gap: float, length: float) -> Tensor:
    """(positions, control points): cubic B-splines at positions from 0 to ``length``, whose control
    points lie at -gap, 0, gap, …, length + gap."""
    count = round(length / gap) + 3
    distance = (at[:, None] / gap - torch.arange(-1, count - 1)).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far).float()


def voxel_centres(length: float, size: float, start: float = 0.0) -> Tensor:
    """Voxel centres within a length, about its middle; with ``start`` the grid is shifted."""
    count = max(1, round(length / size))
    return (torch.arange(count) - (count - 1) / 2) * size + start


def rotation_matrix(angles: Sequence[float]) -> Tensor:
    """3 x 3, turns by angles in radians about the axes in order."""
    matrix = torch.eye(3)
    for axis, angle in enumerate(angles):
        turned = torch.eye(3)
        a, b = [other for other in range(3) if other != axis]
        turned[a, a] = turned[b, b] = math.cos(angle)
        turned[a, b], turned[b, a] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turned
    return matrix

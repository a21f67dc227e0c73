"""Sliding window: overlapping windows, and the Gaussian weights that blend their scores.

The positions of the windows are the product of positions along depth, rows and columns, so that the
sum of the weights at a voxel is a product as well. Each window therefore has weights that are
normalised in advance: blending is a sum in place and needs no volume of weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.data.planning import WINDOW_OVERLAP

Shape = tuple[int, int, int]
# Part of a three-dimensional array.
Region = tuple[slice, slice, slice]


class Span(NamedTuple):
    """Position of a window along one axis, see :class:`Window`."""

    start: int
    weights: Tensor
    image: slice
    inside: slice


@dataclass(frozen=True)
class Window:
    """Position of the network's window on the plan's grid.

    Attributes:
        start: first voxel (depth, row, column), negative if the window is larger than the volume.
        size: (T, H, W) in voxels.
        weights: normalised weights of the window's voxels along each axis, 0 outside the volume.
        image: part of the volume that the window covers.
        inside: part of the window that covers the volume.
        repeats_edges: True if the window repeats the first and last slices of the volume beyond
            them.
    """

    start: Shape
    size: Shape
    weights: tuple[Tensor, Tensor, Tensor]
    image: tuple[slice, slice, slice]
    inside: tuple[slice, slice, slice]
    repeats_edges: bool = False

    @cached_property
    def weight(self) -> Tensor:
        """Weights (t, h, w) of the part of the window that lies in the volume."""
        depth, rows, columns = (w[part] for w, part in zip(self.weights, self.inside, strict=True))
        return depth[:, None, None] * (rows[:, None] * columns)

    def largest_weight(self, region: Region) -> float:
        """Return the largest weight of the window's voxels in a region of the volume."""
        largest = 1.0
        for weights, image, inside, part in zip(
            self.weights, self.image, self.inside, region, strict=True
        ):
            own = weights[inside][max(part.start - image.start, 0) : part.stop - image.start]
            largest *= float(own.max()) if len(own) else 0.0
        return largest


def hull(regions: Sequence[Region]) -> Region:
    """Return the smallest region that contains all given regions."""
    a, b, c = (
        slice(min(r[axis].start for r in regions), max(r[axis].stop for r in regions))
        for axis in range(3)
    )
    return a, b, c


def window_starts(length: int, size: int, overlap: float = WINDOW_OVERLAP) -> list[int]:
    """Return the first voxels of overlapping windows along an axis.

    The windows are spread evenly and cover the whole axis. An axis shorter than the window has one
    window, which is centred on it and starts before the volume.

    Args:
        length: voxels of the volume.
        size: voxels of a window.
        overlap: smallest overlap of neighbouring windows, as a share of a window.
    """
    if length <= size:
        return [-((size - length) // 2)]
    steps = math.ceil((length - size) / max((1 - overlap) * size, 1))
    return [round(i * (length - size) / steps) for i in range(steps + 1)]


def axis_weights(length: int, size: int, starts: Sequence[int]) -> NDArray[np.float64]:
    """Return Gaussian weights (windows, size), sigma = size / 8, whose sum at each voxel is 1."""
    offset = (np.arange(size) - (size - 1) / 2) / (size / 8)
    gaussian = np.exp(-0.5 * offset**2)
    voxels = np.asarray(starts)[:, None] + np.arange(size)
    weights = np.where((voxels >= 0) & (voxels < length), gaussian, 0.0)
    total = np.zeros(length)
    np.add.at(total, np.clip(voxels, 0, length - 1), weights)
    return weights / total[np.clip(voxels, 0, length - 1)]


def plan_windows(
    shape: Sequence[int],
    size: Sequence[int],
    every_slice: bool = False,
    overlap: float = WINDOW_OVERLAP,
) -> list[Window]:
    """Return the windows of a volume in order of depth, row and column.

    Args:
        shape: (depth, rows, columns) of the volume on the plan's grid.
        size: (T, H, W) of a window.
        every_slice: True centres a window on each slice, repeating the slices at the ends, and
            weights all windows of a slice equally (MA-SAM).
        overlap: see :func:`window_starts`.
    """
    spans = [
        _spans(n, extent, window_starts(n, extent, overlap))
        for n, extent in zip(shape, size, strict=True)
    ]
    if every_slice:
        spans[0] = _centred_spans(shape[0], size[0])
    return _windows(spans, size, every_slice)


def divided_windows(
    shape: Sequence[int],
    size: Sequence[int],
    fine: Sequence[int],
    parts: Sequence[int],
    overlap: float = WINDOW_OVERLAP,
) -> list[Window]:
    """Return the windows of :func:`plan_windows` on a grid whose voxels are parts of the plan's.

    The sizes of both grids are rounded, so that a window may be moved by a voxel of the finer one.

    Args:
        shape: (depth, rows, columns) of the volume on the plan's grid.
        size: (T, H, W) of a window there.
        fine: (depth, rows, columns) of the volume on the finer grid. Every voxel has a window if no
            size exceeds that of :func:`largest_divided`.
        parts: number of parts of a voxel along each axis.
        overlap: see :func:`window_starts`.
    """
    spans = [
        _spans(length, part * extent, [part * start for start in window_starts(n, extent, overlap)])
        for n, extent, length, part in zip(shape, size, fine, parts, strict=True)
    ]
    return _windows(spans, [part * extent for extent, part in zip(size, parts, strict=True)])


def largest_divided(shape: Sequence[int], size: Sequence[int], parts: Sequence[int]) -> list[int]:
    """Return the largest (depth, rows, columns) of a finer grid whose every voxel has a window.

    The sizes count the parts of the plan's voxels, and the voxels beyond the end of a small volume
    that its window reaches.

    Args:
        shape: (depth, rows, columns) of the volume on the plan's grid.
        size: (T, H, W) of a window there.
        parts: number of parts of a voxel along each axis.
    """
    return [
        part * (window_starts(n, extent)[-1] + extent)
        for n, extent, part in zip(shape, size, parts, strict=True)
    ]


def _windows(
    spans: Sequence[Sequence[Span]], size: Sequence[int], repeats_edges: bool = False
) -> list[Window]:
    slices, height, width = size
    return [
        Window(
            (d.start, r.start, c.start),
            (slices, height, width),
            (d.weights, r.weights, c.weights),
            (d.image, r.image, c.image),
            (d.inside, r.inside, c.inside),
            repeats_edges,
        )
        for d, r, c in product(*spans)
    ]


def _spans(length: int, size: int, starts: Sequence[int]) -> list[Span]:
    """Return the positions of windows along an axis."""
    return _placed(length, size, starts, axis_weights(length, size, starts))


def _centred_spans(length: int, size: int) -> list[Span]:
    """Return the positions of windows that are centred on each slice."""
    starts = [slice_ - size // 2 for slice_ in range(length)]
    voxels = np.asarray(starts)[:, None] + np.arange(size)
    inside = (voxels >= 0) & (voxels < length)
    count = np.bincount(voxels[inside], minlength=length)
    weights = np.where(inside, 1 / count[np.clip(voxels, 0, length - 1)], 0.0)
    return _placed(length, size, starts, weights)


def _placed(length: int, size: int, starts: Sequence[int], axis: NDArray[np.float64]) -> list[Span]:
    spans = []
    for start, weights in zip(starts, axis, strict=True):
        low, high = max(start, 0), min(start + size, length)
        inside = slice(low - start, high - start)
        spans.append(Span(start, torch.from_numpy(weights).float(), slice(low, high), inside))
    return spans


def extract(image: NDArray[Any], window: Window, fill: Tensor) -> Tensor:
    """Return a window of an image.

    Args:
        image: (C, depth, rows, columns).
        window: the window.
        fill: (C,), intensities outside the image: the lowest of each channel, as in training. A
            window that repeats edge slices is filled with them along depth instead.

    Returns:
        float32 (C, T, H, W).
    """
    d, r, c = window.image
    if window.repeats_edges:
        slices, last = window.size[0], image.shape[1] - 1
        shown = np.clip(np.arange(window.start[0], window.start[0] + slices), 0, last)
        image, d = image[:, shown], slice(0, slices)
        window = replace(
            window, image=(d, r, c), inside=(d, *window.inside[1:]), repeats_edges=False
        )
    part = torch.from_numpy(np.ascontiguousarray(image[:, d, r, c]))
    if tuple(part.shape[1:]) == window.size:
        return part.float()
    values = fill.float()[:, None, None, None].repeat(1, *window.size)
    d, r, c = window.inside
    values[:, d, r, c] = part.float()
    return values


def accumulate(
    total: Tensor,
    scores: Tensor,
    window: Window,
    region: Sequence[slice] | None = None,
    share: float = 1.0,
) -> None:
    """Add the weighted scores of a window to those of the volume, in place.

    Args:
        total: (classes, depth, rows, columns), float16 or float32.
        scores: (classes, T, H, W).
        window: the window.
        region: part of the volume that `total` covers, which must contain the window; None for
            the whole volume.
        share: factor of the scores.
    """
    d, r, c = window.inside
    part = scores[:, d, r, c]
    first = [0, 0, 0] if region is None else [span.start for span in region]
    d, r, c = (slice(s.start - f, s.stop - f) for s, f in zip(window.image, first, strict=True))
    target = total[:, d, r, c]
    if target.dtype == part.dtype:
        target.addcmul_(part, window.weight, value=share)
    else:
        target += part * (share * window.weight)

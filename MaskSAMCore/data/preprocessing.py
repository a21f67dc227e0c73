"""Preprocessing: volumes on a plan's grid with normalised intensities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from MaskSAMCore.data.planning import ChannelNormalization, Plan, coarse_axis
from MaskSAMCore.geometry import Volume, apply_axes, axis_mapping
from MaskSAMCore.intensities import UsableIntensities, usable_intensities

# As in nnU-Net, the mean and deviation are those of the non-zero region if its share is below this.
_NONZERO_SHARE = 0.75
# Number of voxels that are converted to double precision at a time.
_PART_VOXELS = 1 << 20


@dataclass(frozen=True)
class PreparedCase:
    """A case on the plan's grid.

    Attributes:
        image: float32 (C, D, R, W): channels, depth, rows, columns.
        labelmap: uint8 or uint16 (D, R, W), or None.
        notes: messages for the user about voxels that were ignored or clipped.
    """

    image: NDArray[np.float32]
    labelmap: NDArray[np.integer] | None = None
    notes: tuple[str, ...] = ()


def preprocess(
    volumes: Sequence[Volume],
    plan: Plan,
    labelmap: NDArray[np.integer] | None = None,
    largest: Sequence[int] | None = None,
) -> PreparedCase:
    """Reorient, normalise and resample a case.

    Args:
        volumes: one volume for each channel, all on the same grid.
        plan: plan of the network.
        labelmap: [K, J, I] on the same grid, or None.
        largest: largest number of voxels along the plan's axes; None for no limit.
    """
    axes, flips = axis_mapping(volumes[0].ijk_to_ras, plan.orientation)
    spacing = [volumes[0].spacing[2 - axis] for axis in axes]
    shape = plan_shape([volumes[0].shape[axis] for axis in axes], spacing, plan)
    if largest is not None:
        depth, rows, columns = map(min, shape, largest)
        shape = depth, rows, columns
    coarse = coarse_axis(spacing)
    if coarse is None:
        coarse = coarse_axis(plan.spacing)
    images: list[NDArray[np.float32]] = []
    notes: list[str] = []
    for volume, normalization in zip(volumes, plan.normalization, strict=True):
        usable = network_intensities(volume, normalization)
        notes += usable.notes
        array = np.ascontiguousarray(apply_axes(usable.array, axes, flips), dtype=np.float32)
        # Interpolation would blur the zeros that normalisation ignores, so it comes second.
        images.append(resample(normalize(array, normalization), shape, coarse))
    resampled = None
    if labelmap is not None:
        turned = np.ascontiguousarray(apply_axes(labelmap, axes, flips))
        resampled = resample_labelmap(turned, shape, coarse)
    return PreparedCase(np.stack(images), resampled, tuple(notes))


def network_intensities(volume: Volume, normalization: ChannelNormalization) -> UsableIntensities:
    """Return the intensities that a network gets: without padding and outliers, unless its
    normalisation clips intensities.

    Args:
        volume: one channel; its voxels are finite and within the range of float32.
        normalization: normalization of the channel.
    """
    if normalization.limits is None:
        return usable_intensities(volume)
    return UsableIntensities(volume.array)


def repeat_edge_slices(case: PreparedCase, count: int) -> PreparedCase:
    """Pad a case along depth with ``count`` copies of its first and of its last slice."""
    padding = (count, count), (0, 0), (0, 0)
    labelmap = None if case.labelmap is None else np.pad(case.labelmap, padding, mode="edge")
    image = np.pad(case.image, ((0, 0), *padding), mode="edge")
    return PreparedCase(image, labelmap, case.notes)


def plan_shape(shape: Sequence[int], spacing: Sequence[float], plan: Plan) -> tuple[int, int, int]:
    """Return the shape of a volume on the plan's grid.

    An axis whose spacing agrees with the plan's within 0.1 % keeps its size. Copies of a volume
    whose headers round its spacing differently have the same shape.

    Args:
        shape: voxels along the plan's axes.
        spacing: mm along the plan's axes.
        plan: plan of the network.
    """
    d, r, w = (
        size if abs(mm / wanted - 1) < 1e-3 else max(1, round(round(size * mm / wanted, 2)))
        for size, mm, wanted in zip(shape, spacing, plan.spacing, strict=True)
    )
    return d, r, w


def resample(
    array: NDArray[np.float32],
    shape: tuple[int, int, int],
    coarse: int | None,
    order: Literal[1, 3] = 3,
) -> NDArray[np.float32]:
    """Resample an array to another grid over the same extent.

    Args:
        array: any array with 3 axes.
        shape: shape of the result.
        coarse: axis along which the nearest slice is taken, because distant slices do not show the
            tissue between them; None interpolates along every axis.
        order: order of the interpolating splines.
    """
    if array.shape == shape:
        return array
    depth, rows, columns = (
        nearest_slices(old, new) if axis == coarse else spline_matrix(old, new, order)
        for axis, (old, new) in enumerate(zip(array.shape, shape, strict=True))
    )
    # Working on few slices, then few rows, at a time keeps the arrays in double precision small.
    in_plane = np.empty((array.shape[0], *shape[1:]), np.float32)
    for part in _parts_of(len(array), array[0].size):
        in_plane[part] = rows @ (array[part].astype(np.float64) @ columns.T)
    resampled = np.empty(shape, np.float32)
    for part in _parts_of(shape[1], in_plane[:, 0].size):
        resampled[:, part] = np.tensordot(depth, in_plane[:, part].astype(np.float64), 1)
    # Splines overshoot at edges: clipping keeps intensities within their old range.
    return np.clip(resampled, array.min(), array.max(), out=resampled)


@lru_cache(maxsize=32)
def spline_matrix(old: int, new: int, order: Literal[1, 3]) -> NDArray[np.float64]:
    """Return the matrix (new, old) that interpolates an axis between voxel centres over the same
    extent; beyond the outermost centres, the edge voxels are repeated.

    Splines in 3D are products of splines along each axis, so an array is resampled by one matrix
    product for each axis.
    """
    if old == new:
        return np.eye(old)
    units = np.eye(old)
    columns = (
        ndimage.zoom(unit, new / old, order=order, mode="nearest", grid_mode=True) for unit in units
    )
    return np.stack(list(columns), -1)


def nearest_slices(old: int, new: int) -> NDArray[np.float64]:
    """Return the matrix (new, old) that takes the nearest slice along an axis."""
    return np.eye(old)[_nearest_index(old, new)]


def _parts_of(length: int, size: int) -> Iterator[slice]:
    """Split ``length`` planes of ``size`` voxels each into parts of about a million voxels."""
    step = max(1, _PART_VOXELS // size)
    for first in range(0, length, step):
        yield slice(first, first + step)


def resample_labelmap(
    labelmap: NDArray[np.integer], shape: tuple[int, int, int], coarse: int | None = None
) -> NDArray[np.integer]:
    """Resample a labelmap: each voxel gets the label with the largest linearly interpolated share.

    Args:
        labelmap: any array with 3 axes.
        shape: shape of the result.
        coarse: axis along which the nearest slice is taken, or None.
    """
    if labelmap.shape == shape:
        return labelmap
    best = np.zeros(shape, np.float32)
    result = np.zeros(shape, labelmap.dtype)
    for value in np.unique(labelmap):
        share = resample((labelmap == value).astype(np.float32), shape, coarse, order=1)
        wins = share > best
        result[wins] = value
        best[wins] = share[wins]
    return result


def nearest_voxels(array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """Resample an array to another grid over the same extent by nearest-neighbour interpolation.

    Args:
        array: any array with 3 axes.
        shape: shape of the result.
    """
    places = (_nearest_index(old, new) for old, new in zip(array.shape, shape, strict=True))
    return array[np.ix_(*places)]


def normalize(
    image: NDArray[np.float32], normalization: ChannelNormalization
) -> NDArray[np.float32]:
    """Normalise the intensities of a channel; a constant image becomes zeros.

    Args:
        image: any array with 3 axes.
        normalization: the plan's normalisation of the channel.
    """
    if normalization.kind == "ct":
        clipped = np.clip(image, normalization.lower, normalization.upper)
        scaled = (clipped - normalization.mean) / max(normalization.std, 1e-8)
        return scaled.astype(np.float32)
    inside = image[image != 0]
    masked = 0 < inside.size < _NONZERO_SHARE * image.size and float(image.min()) >= 0
    values = inside if masked and inside.min() < inside.max() else image
    # Large intensities need double precision. Working on parts keeps peak memory low: a whole copy
    # in double precision would be the largest array during a segmentation.
    mean = values.mean(dtype=np.float64)
    squares = sum(float(np.square(part - mean).sum()) for part in _parts(values))
    std = np.sqrt(squares / values.size)
    normalized = np.zeros_like(image)
    # For equal values, rounding leaves a standard deviation of about 1e-16 of the mean.
    if std > 1e-13 * abs(mean):
        for target, plane in zip(normalized, image, strict=True):
            target[...] = (plane - mean) / std
    return normalized


def _parts(values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Split an array into parts of about a million values."""
    flat = values.reshape(-1)
    return np.array_split(flat, max(1, flat.size // _PART_VOXELS))


def _nearest_index(old: int, new: int) -> NDArray[np.intp]:
    """Return for each of ``new`` slices the nearest of ``old`` slices over the same extent."""
    centres = (np.arange(new) + 0.5) * old / new
    return np.clip(centres.astype(np.intp), 0, old - 1)

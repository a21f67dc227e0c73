"""From volumes to the network's grid and intensities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from MaskSAMCore.geometry import Volume, axis_mapping, turn

from .planning import ANISOTROPY, ChannelNormalization, Plan

# nnU-Net's rule: statistics come from the non-zero region where that is much smaller.
_CROP_SHARE = 0.75


@dataclass(frozen=True)
class Prepared:
    """A case on the plan's grid.

    Attributes:
        image: float32 (C, D, R, W): channels, depth, rows, columns.
        label: uint8 or uint16 (D, R, W), or None.
    """

    image: NDArray[np.float32]
    label: NDArray[np.integer] | None = None


def preprocess(
    volumes: Sequence[Volume], plan: Plan, label: NDArray[np.integer] | None = None
) -> Prepared:
    """Turns, resamples and normalises a case.

    Args:
        volumes: one a channel, all on one grid.
        plan: of the network.
        label: [K, J, I] on the same grid, or None.
    """
    axes, flips = axis_mapping(volumes[0].ijk_to_ras, plan.orientation)
    spacing = [volumes[0].spacing[2 - axis] for axis in axes]
    shape = plan_shape([volumes[0].shape[axis] for axis in axes], spacing, plan)
    images = []
    for volume, how in zip(volumes, plan.normalization, strict=True):
        array = np.ascontiguousarray(turn(volume.array, axes, flips), dtype=np.float32)
        images.append(normalize(resample(array, shape, spacing, plan), how))
    turned = None
    if label is not None:
        turned = resample_labels(np.ascontiguousarray(turn(label, axes, flips)), shape)
    return Prepared(np.stack(images), turned)


def plan_shape(shape: Sequence[int], spacing: Sequence[float], plan: Plan) -> tuple[int, int, int]:
    """Voxels on the plan's grid; an axis whose spacing agrees within 0.1 % keeps its own."""
    d, r, w = (
        size if abs(mm / wanted - 1) < 1e-3 else max(1, round(size * mm / wanted))
        for size, mm, wanted in zip(shape, spacing, plan.spacing, strict=True)
    )
    return d, r, w


def resample(
    array: NDArray[np.float32],
    shape: tuple[int, int, int],
    spacing: Sequence[float],
    plan: Plan,
) -> NDArray[np.float32]:
    """The image on another grid over the same extent: cubic, but nearest along an axis that is more
    than 3 times coarser than the others, in the image or in the plan."""
    if array.shape == shape:
        return array
    coarse = (
        _coarse_axis(spacing) if _coarse_axis(spacing) is not None else _coarse_axis(plan.spacing)
    )
    if coarse is not None:
        in_plane = list(shape)
        in_plane[coarse] = array.shape[coarse]
        nearest = _nearest_index(array.shape[coarse], shape[coarse])
        moved = np.moveaxis(array, coarse, 0)
        target = tuple(size for axis, size in enumerate(in_plane) if axis != coarse)
        slices = np.stack([_cubic(each, target) for each in moved])
        return np.ascontiguousarray(np.moveaxis(slices[nearest], 0, coarse))
    return _cubic(array, shape)


def resample_labels(label: NDArray[np.integer], shape: tuple[int, int, int]) -> NDArray[np.integer]:
    """Labels on another grid: the class with the largest linearly interpolated share."""
    if label.shape == shape:
        return label
    best = np.zeros(shape, np.float32)
    result = np.zeros(shape, label.dtype)
    for value in np.unique(label):
        share = _zoom((label == value).astype(np.float32), shape, order=1)
        wins = share > best
        result[wins] = value
        best[wins] = share[wins]
    return result


def normalize(image: NDArray[np.float32], how: ChannelNormalization) -> NDArray[np.float32]:
    """Intensities of a channel; a constant image becomes zeros."""
    if how.kind == "ct":
        clipped = np.clip(image, how.lower, how.upper)
        return ((clipped - how.mean) / max(how.std, 1e-8)).astype(np.float32)
    inside = image[image != 0]
    masked = 0 < inside.size < _CROP_SHARE * image.size and float(image.min()) >= 0
    values = inside if masked and inside.min() < inside.max() else image
    # In double precision, for large intensities would lose the mean in single; plane by plane, for
    # a copy of a large volume in double precision would be the peak of a whole segmentation.
    mean = values.mean(dtype=np.float64)
    squares = sum(float(np.square(part - mean).sum()) for part in _planes(values))
    std = np.sqrt(squares / values.size)
    normalized = np.zeros_like(image)
    if std >= 1e-8 * max(1.0, abs(mean)):
        for target, plane in zip(normalized, image, strict=True):
            target[...] = (plane - mean) / std
    return normalized


def _planes(values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Parts of about a million values."""
    flat = values.reshape(-1)
    return np.array_split(flat, max(1, flat.size >> 20))


def _coarse_axis(spacing: Sequence[float]) -> int | None:
    worst = int(np.argmax(spacing))
    return worst if spacing[worst] > ANISOTROPY * min(spacing) else None


def _nearest_index(old: int, new: int) -> NDArray[np.intp]:
    centres = (np.arange(new) + 0.5) * old / new
    return np.clip(centres.astype(np.intp), 0, old - 1)


def _cubic(array: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    resampled = _zoom(array, shape, order=3)
    # Splines overshoot at edges; intensities that were never there must not appear.
    return np.clip(resampled, array.min(), array.max(), out=resampled)


def _zoom(
    array: NDArray[np.float32], shape: Sequence[int], order: Literal[1, 3]
) -> NDArray[np.float32]:
    """Interpolation between voxel centres over the same extent, edges repeated."""
    factors = [new / old for new, old in zip(shape, array.shape, strict=True)]
    zoomed: NDArray[np.float32] = ndimage.zoom(
        array, factors, order=order, mode="nearest", grid_mode=True
    )
    return zoomed

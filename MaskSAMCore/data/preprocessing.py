"""From volumes to the network's grid and intensities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from MaskSAMCore.data.planning import ChannelNormalization, Plan, coarse_axis
from MaskSAMCore.geometry import Volume, axis_mapping, turn

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
    """Turns, normalises and resamples a case.

    Args:
        volumes: one a channel, all on one grid.
        plan: of the network.
        label: [K, J, I] on the same grid, or None.
    """
    axes, flips = axis_mapping(volumes[0].ijk_to_ras, plan.orientation)
    spacing = [volumes[0].spacing[2 - axis] for axis in axes]
    shape = plan_shape([volumes[0].shape[axis] for axis in axes], spacing, plan)
    coarse = coarse_axis(spacing)
    if coarse is None:
        coarse = coarse_axis(plan.spacing)
    images = []
    for volume, how in zip(volumes, plan.normalization, strict=True):
        array = np.ascontiguousarray(turn(volume.array, axes, flips), dtype=np.float32)
        # Normalised first: interpolation would leave traces in zeros that do not count.
        images.append(resample(normalize(array, how), shape, coarse))
    turned = None
    if label is not None:
        turned = resample_labels(np.ascontiguousarray(turn(label, axes, flips)), shape, coarse)
    return Prepared(np.stack(images), turned)


def repeat_edge_slices(case: Prepared, count: int) -> Prepared:
    """A case with its first and last slice repeated ``count`` times, in depth."""
    ends = (count, count), (0, 0), (0, 0)
    label = None if case.label is None else np.pad(case.label, ends, mode="edge")
    return Prepared(np.pad(case.image, ((0, 0), *ends), mode="edge"), label)


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
    coarse: int | None,
    order: Literal[1, 3] = 3,
) -> NDArray[np.float32]:
    """The array on another grid over the same extent.

    Args:
        array: with 3 axes.
        shape: of the result.
        coarse: an axis along which the nearest slice is taken, for what lies between slices far
            apart is not known; or None.
        order: of the splines along the other axes.
    """
    if array.shape == shape:
        return array
    if coarse is None:
        return _zoom(array, shape, order)
    slices = np.moveaxis(array, coarse, 0)
    in_plane = [size for axis, size in enumerate(shape) if axis != coarse]
    zoomed = np.stack([_zoom(each, in_plane, order) for each in slices])
    nearest = _nearest_index(array.shape[coarse], shape[coarse])
    return np.ascontiguousarray(np.moveaxis(zoomed[nearest], 0, coarse))


def resample_labels(
    label: NDArray[np.integer], shape: tuple[int, int, int], coarse: int | None = None
) -> NDArray[np.integer]:
    """Labels on another grid: the class with the largest linearly interpolated share; arguments as
    for :func:`resample`."""
    if label.shape == shape:
        return label
    best = np.zeros(shape, np.float32)
    result = np.zeros(shape, label.dtype)
    for value in np.unique(label):
        share = resample((label == value).astype(np.float32), shape, coarse, order=1)
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


def _nearest_index(old: int, new: int) -> NDArray[np.intp]:
    centres = (np.arange(new) + 0.5) * old / new
    return np.clip(centres.astype(np.intp), 0, old - 1)


def _zoom(
    array: NDArray[np.float32], shape: Sequence[int], order: Literal[1, 3]
) -> NDArray[np.float32]:
    """Interpolation between voxel centres over the same extent, edges repeated."""
    factors = [new / old for new, old in zip(shape, array.shape, strict=True)]
    zoomed: NDArray[np.float32] = ndimage.zoom(
        array, factors, order=order, mode="nearest", grid_mode=True
    )
    # Splines overshoot at edges; intensities that were never there must not appear.
    return np.clip(zoomed, array.min(), array.max(), out=zoomed)

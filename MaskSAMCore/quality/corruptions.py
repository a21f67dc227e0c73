"""Corruptions of images that make a network fail, from slightly to completely.

Each function takes a labelled case, a severity from 0 to 1 and a random generator, and returns a
case whose labelmap is still correct. Corruptions of intensities treat all channels of a case alike;
corruptions of the geometry change the labelmap with the image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from MaskSAMCore.data.dataset import LabelledCase
from MaskSAMCore.geometry import Box, Volume, crop

Corruption = Callable[[LabelledCase, float, np.random.Generator], LabelledCase]

# Smallest number of voxels along an axis that a crop leaves.
_SMALLEST_CROP = 8
# Wrong headers, as the axis and the sign that replace R, A and S. None swaps left and right alone,
# because this cannot be seen in an image of paired structures.
_TURNS = (
    ((0, 1, 2), (1, -1, -1)),
    ((0, 1, 2), (-1, 1, -1)),
    ((0, 1, 2), (1, 1, -1)),
    ((0, 1, 2), (1, -1, 1)),
    ((0, 2, 1), (1, -1, 1)),
    ((0, 2, 1), (1, 1, -1)),
    ((1, 0, 2), (-1, 1, 1)),
    ((2, 1, 0), (1, 1, -1)),
)


def clean(case: LabelledCase, severity: float, rng: np.random.Generator) -> LabelledCase:
    """Return the case itself."""
    return case


def contrast(case: LabelledCase, severity: float, rng: np.random.Generator) -> LabelledCase:
    """Apply a gamma curve to the intensities, so that tissues become similar."""
    exponent = np.exp(rng.choice([-1, 1]) * 2.0 * severity)
    return _on_unit_range(case, lambda values: values**exponent)


def noise(case: LabelledCase, severity: float, rng: np.random.Generator) -> LabelledCase:
    """Add Rician noise, as in magnitude images."""
    spread = 0.5 * severity**1.5

    def noisy(values: NDArray[np.float32]) -> NDArray[Any]:
        real = values + spread * rng.standard_normal(values.shape, np.float32)
        return np.hypot(real, spread * rng.standard_normal(values.shape, np.float32))

    return _on_unit_range(case, noisy)


def motion(case: LabelledCase, severity: float, rng: np.random.Generator) -> LabelledCase:
    """Simulate motion of the body during the scan, which blurs the image and repeats its edges.

    In the middle of the scan the body lies where the labelmap says, because the k-space lines that
    are acquired then hold most of the image: it would otherwise be shifted as a whole.
    """
    axis, moved = int(rng.integers(3)), int(rng.integers(4, 13))
    shifts = rng.normal(0, 1 + 7 * severity, (moved, 3))
    angles = rng.normal(0, 1 + 9 * severity, moved)
    times = rng.uniform(-0.5, 0.5, moved)
    # Each movement overwrites lines of those applied before it; the ones far from the middle of the
    # scan come last.
    outwards = np.argsort(np.abs(times))

    def acquired(values: NDArray[np.float32]) -> NDArray[Any]:
        lines = np.fft.fft(values, axis=axis)
        length = values.shape[axis]
        # Lines near the centre of k-space are acquired in the middle of the scan, at time 0.
        acquired_at = (np.arange(length) - length // 2) / length
        for number in outwards:
            turned = ndimage.rotate(
                values, angles[number], axes=(1, 2), reshape=False, order=1, mode="nearest"
            )
            turned = ndimage.shift(turned, shifts[number], order=1, mode="nearest")
            time = times[number]
            part = np.fft.ifftshift(acquired_at < time if time < 0 else acquired_at > time)
            chosen: list[Any] = [slice(None)] * 3
            chosen[axis] = np.flatnonzero(part)
            lines[tuple(chosen)] = np.fft.fft(turned, axis=axis)[tuple(chosen)]
        return np.abs(np.fft.ifft(lines, axis=axis))

    return _on_unit_range(case, acquired)


def bias(case: LabelledCase, severity: float, rng: np.random.Generator) -> LabelledCase:
    """Multiply the intensities by a smooth field, as near a surface coil."""
    knots = rng.normal(0, 1.2 * severity, (3, 3, 3))

    def shaded(values: NDArray[np.float32]) -> NDArray[Any]:
        factors = [n / 3 for n in values.shape]
        field = ndimage.zoom(knots, factors, order=2, mode="nearest", grid_mode=True)
        return values * np.exp(field.astype(np.float32))

    return _on_unit_range(case, shaded)


def thick_slices(case: LabelledCase, severity: float, rng: np.random.Generator) -> LabelledCase:
    """Average neighbouring voxels along one axis, as in slices of up to 16 voxels."""
    axis, thickness = int(rng.integers(3)), 2 + round(14 * severity)

    def averaged(values: NDArray[np.float32]) -> NDArray[Any]:
        starts = np.arange(0, values.shape[axis], thickness)
        sizes = np.diff([*starts, values.shape[axis]])
        shape = [1, 1, 1]
        shape[axis] = -1
        means = np.add.reduceat(values, starts, axis) / sizes.reshape(shape)
        return np.repeat(means, sizes, axis)

    return _on_unit_range(case, averaged)


def cropped(case: LabelledCase, severity: float, rng: np.random.Generator) -> LabelledCase:
    """Cut off a part of the image at one or two sides."""
    shape = case.labelmap.shape
    lower, upper = [0] * 3, list(shape)
    for axis in rng.permutation(3)[: int(rng.integers(1, 3))]:
        removed = min(int(0.6 * severity * shape[axis]), shape[axis] - _SMALLEST_CROP)
        if removed <= 0:
            continue
        if rng.random() < 0.5:
            lower[axis] = removed
        else:
            upper[axis] -= removed
    box = Box("", _edges(lower), _edges(upper))
    channels = tuple(crop(channel, box) for channel in case.channels)
    return replace(case, channels=channels, labelmap=case.labelmap[box.slices()])


def wrong_orientation(
    case: LabelledCase, severity: float, rng: np.random.Generator
) -> LabelledCase:
    """Turn the header's axes, so that the body lies upside down or on another side."""
    order, signs = _TURNS[int(rng.integers(len(_TURNS)))]
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for row, (axis, sign) in enumerate(zip(order, signs, strict=True)):
        turn[row, axis] = sign
    return replace(
        case,
        channels=tuple(
            replace(channel, ijk_to_ras=turn @ channel.ijk_to_ras, orientation=None)
            for channel in case.channels
        ),
    )


def stripped(case: LabelledCase, severity: float, rng: np.random.Generator) -> LabelledCase:
    """Blank the surroundings of the labelled structures, and their outer voxels if severe."""
    mask = case.labelmap > 0
    if not mask.any():
        return case
    steps = round(6 - 10 * severity)
    if steps > 0:
        mask = ndimage.binary_dilation(mask, iterations=steps)
    elif steps < 0:
        mask = ndimage.binary_fill_holes(ndimage.binary_dilation(mask))
        mask = ndimage.binary_erosion(mask, iterations=1 - steps)
    return _on_unit_range(case, lambda values: np.where(mask, values, np.float32(0)))


def lesions(case: LabelledCase, severity: float, rng: np.random.Generator) -> LabelledCase:
    """Fill round regions in the labelled structures with another intensity."""
    inside = np.argwhere(case.labelmap > 0)
    if not len(inside):
        return case
    radius = np.cbrt(len(inside)) * 0.35 * severity
    mask = np.zeros(case.labelmap.shape, dtype=bool)
    for _ in range(int(rng.integers(1, 6))):
        _add_ball(mask, inside[rng.integers(len(inside))], radius * rng.uniform(0.4, 1.0), rng)
    intensity = np.float32(rng.uniform(0, 1.2))
    soft = ndimage.gaussian_filter(mask.astype(np.float32), 0.7)
    return _on_unit_range(case, lambda values: values + soft * (intensity - values))


def foreign(case: LabelledCase, severity: float, rng: np.random.Generator) -> LabelledCase:
    """Replace the image by random shapes and noise, in which there is nothing to segment."""
    shape = case.labelmap.shape
    smoothness = rng.uniform(1.0, max(min(shape) / 6, 1.5))
    kinds = int(rng.integers(2, 9))
    field = ndimage.gaussian_filter(
        rng.standard_normal((kinds, *shape), np.float32), (0, *[smoothness] * 3)
    )
    means = rng.random(kinds).astype(np.float32)
    values = means[field.argmax(0)]
    centre = [slice(-1, 1, complex(0, n)) for n in shape]
    outside = sum(axis**2 for axis in np.ogrid[tuple(centre)]) > rng.uniform(0.5, 3.0)
    values = np.where(outside, 0, values).astype(np.float32)
    values += rng.uniform(0, 0.3) * rng.standard_normal(shape, np.float32)
    replaced = _on_unit_range(case, lambda _: values)
    return replace(replaced, labelmap=np.zeros_like(case.labelmap))


def blurred(case: LabelledCase, severity: float, rng: np.random.Generator) -> LabelledCase:
    """Smooth the image along all axes."""
    return _on_unit_range(case, lambda values: ndimage.gaussian_filter(values, 4 * severity))


def inverted(case: LabelledCase, severity: float, rng: np.random.Generator) -> LabelledCase:
    """Invert the intensities, partly for a low severity."""
    return _on_unit_range(case, lambda values: (1 - severity) * values + severity * (1 - values))


def signal_void(case: LabelledCase, severity: float, rng: np.random.Generator) -> LabelledCase:
    """Blank a ball near the labelled structures, as metal does."""
    inside = np.argwhere(case.labelmap > 0)
    if not len(inside):
        return case
    mask = np.zeros(case.labelmap.shape, dtype=bool)
    radius = np.cbrt(len(inside)) * 0.6 * severity
    _add_ball(mask, inside[rng.integers(len(inside))], radius, rng)
    return _on_unit_range(case, lambda values: np.where(mask, np.float32(0), values))


def spikes(case: LabelledCase, severity: float, rng: np.random.Generator) -> LabelledCase:
    """Add stripes, as spikes in k-space cause them."""
    amplitude = 0.5 * severity
    waves = rng.uniform(-0.25, 0.25, (2, 3))

    def striped(values: NDArray[np.float32]) -> NDArray[Any]:
        axes = np.ogrid[tuple(slice(n) for n in values.shape)]
        for wave in waves:
            phase = sum(2 * np.pi * f * axis for f, axis in zip(wave, axes, strict=True))
            values = values + amplitude * np.cos(phase).astype(np.float32)
        return np.abs(values)

    return _on_unit_range(case, striped)


def wrong_voxel_size(case: LabelledCase, severity: float, rng: np.random.Generator) -> LabelledCase:
    """Enlarge or shrink the voxel size in the header."""
    factor = np.exp(rng.choice([-1, 1]) * 0.6 * severity)
    scaling = np.diag([factor, factor, factor, 1.0])
    return replace(
        case,
        channels=tuple(
            replace(channel, ijk_to_ras=channel.ijk_to_ras @ scaling, orientation=None)
            for channel in case.channels
        ),
    )


# Corruptions that estimators are fitted on, by name.
FITTED: Mapping[str, Corruption] = {
    "clean": clean,
    "contrast": contrast,
    "noise": noise,
    "motion": motion,
    "bias": bias,
    "thick slices": thick_slices,
    "cropped": cropped,
    "wrong orientation": wrong_orientation,
    "stripped": stripped,
    "lesions": lesions,
    "foreign": foreign,
}

# Corruptions that no estimator is fitted on, to measure estimators with.
HELD_OUT: Mapping[str, Corruption] = {
    "blurred": blurred,
    "inverted": inverted,
    "signal void": signal_void,
    "spikes": spikes,
    "wrong voxel size": wrong_voxel_size,
}


def _on_unit_range(
    case: LabelledCase, change: Callable[[NDArray[np.float32]], NDArray[Any]]
) -> LabelledCase:
    """Change the intensities of all channels, scaled to about 0 to 1 and back.

    Args:
        case: the case.
        change: function of the scaled intensities, none of which is below 0.
    """
    channels = []
    for channel in case.channels:
        values = channel.array.astype(np.float32)
        low, high = float(values.min()), float(np.percentile(values, 99.5))
        scale = max(high - low, 1e-6)
        changed = change((values - low) / scale)
        channels.append(_with_array(channel, (low + scale * changed).astype(np.float32)))
    return replace(case, channels=tuple(channels))


def _with_array(volume: Volume, array: NDArray[np.float32]) -> Volume:
    return replace(volume, array=array, notes=())


def _add_ball(
    mask: NDArray[np.bool_], centre: NDArray[Any], radius: float, rng: np.random.Generator
) -> None:
    """Set the voxels of an ellipsoid with random axes to True."""
    radii = np.maximum(radius * rng.uniform(0.7, 1.4, 3), 0.5)
    axes = np.ogrid[tuple(slice(n) for n in mask.shape)]
    distance = sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True))
    mask |= np.asarray(distance <= 1)


def _edges(values: list[int]) -> tuple[float, float, float]:
    """Return edges in the order I, J, K, given in the order K, J, I."""
    k, j, i = (float(value) for value in values)
    return i, j, k

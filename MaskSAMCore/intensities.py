"""Intensities that a network cannot use as they are: no contrast, padding, outliers.

Networks normalise by the mean and standard deviation of an image. A few voxels of another kind,
such as padding of -32768, would decide both, so they are replaced first. Ordinary images are
returned as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume

# Hounsfield units of air in CT: MR images have no such values, unless they are signed.
CT_AIR = (-1100, -500)
# Smallest share of air voxels in a CT image: fewer may be the edge of padding.
_AIR_SHARE = 1e-3
# Images have more distinct intensities than this, even with 8 bits; labelmaps rarely do.
_LABELS = 32
# Larger numbers do not fit into float32 once they are scaled.
_LARGEST = 1e38
# Smallest range of intensities, absolute and as a share of the largest one.
_SMALLEST_RANGE = 1e-8
# Padding and outliers lie further from the typical intensities than these multiples of the typical
# range.
_PADDING_BELOW, _PADDING_ABOVE, _OUTLIER = 2, 20, 20
# Like _PADDING_BELOW, for padding that is the only negative number of an image.
_NEGATIVE_PADDING = 0.25
# Largest number of outliers: this many voxels, or this share of the image if that is more.
_OUTLIERS, _OUTLIER_SHARE = 8, 1e-4
# Largest share of differing voxels in a blank image: in a small image, eight would be many.
_BLANK_SHARE = 1e-2
# Typical intensities are taken from about this many voxels, because sorting all takes too long.
_SAMPLE_VOXELS = 1 << 18
# This many voxels suffice to show that most images are not labelmaps.
_FEW_VOXELS = 1 << 12
# An image may have padding and outliers at both ends, and padding of two kinds.
_ROUNDS = 4


@dataclass(frozen=True)
class UsableIntensities:
    """Voxels without padding and outliers.

    Attributes:
        array: voxels of the image; the original array if nothing had to be replaced.
        notes: messages for the user about replaced voxels.
    """

    array: NDArray[Any]
    notes: tuple[str, ...] = ()


def check_intensities(
    array: NDArray[Any], subject: str, limits: tuple[float, float] | None = None
) -> None:
    """Check that an image has contrast and voxels that a network can compute with.

    Args:
        array: any array with 3 axes.
        subject: the image or part of it, as the messages name it.
        limits: lowest and highest intensity that the network distinguishes; None for no limits.

    Raises:
        MaskSAMError: a voxel is not a real number, is NaN, infinite or beyond float32, or the image
            has no voxels or no contrast.
    """
    if array.dtype.kind not in "biuf":
        raise MaskSAMError(f"{subject} has voxels of type {array.dtype}: give real numbers")
    if array.size == 0:
        raise MaskSAMError(f"{subject} has no voxels")
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all() and _not_finite(array):
        raise MaskSAMError(
            f"{subject} has voxels that are not numbers (NaN or infinite): replace them, for"
            " example by 0, and try again"
        )
    if max(-low, high) > _LARGEST:
        value = low if -low > high else high
        raise MaskSAMError(
            f"{subject} has voxels of {value:.3g}, too large to compute with (a fill value?):"
            " replace them, for example by 0, and try again"
        )
    if not _differ(low, high):
        seen = f"{low:g}" if low == high else f"between {low:g} and {high:g}"
        raise MaskSAMError(
            f"{subject} has no contrast (all voxels are {seen}): check that it is the right image"
        )
    value, others = _blank_but_for(array)
    if others:
        voxels = "1 voxel are" if others == 1 else f"{others} voxels are"
        raise MaskSAMError(
            f"{subject} has no contrast (all but {voxels} {value:g}): check that it is the right"
            " image"
        )
    if limits is not None and not _differ(*np.clip([low, high], *limits).tolist()):
        raise MaskSAMError(
            f"{subject} has no contrast between {limits[0]:g} and {limits[1]:g}, the intensities"
            f" that this model distinguishes (its voxels are {low:g} to {high:g}): check that it"
            " is the right image"
        )


def usable_intensities(volume: Volume) -> UsableIntensities:
    """Replace padding by the lowest other intensity, and clip outliers to the outermost others.

    Padding is one number in many voxels, far below or above all others; outliers are very few
    voxels, further away than any tissue. CT is not changed, because networks for CT clip its
    intensities.

    Args:
        volume: volume with finite voxels within the range of float32.
    """
    array, notes = volume.array, []
    if array.dtype.kind == "b" or modality(volume) == "CT":
        return UsableIntensities(array)
    where = f" of '{volume.name}'" if volume.name else ""
    for _ in range(_ROUNDS):
        found = _far_voxels(array)
        if found is None:
            break
        others = array[~found.mask]
        if found.padding:
            count = int((array == found.value).sum())
            notes.append(f"{count} voxels{where} are {found.value:g}: ignored as padding")
            array = np.where(found.mask, _background(others), array)
        else:
            count, nearest = int(found.mask.sum()), _nearest(others, found.value)
            voxels = "1 voxel" if count == 1 else f"{count} voxels"
            reach = "down" if found.value < nearest else "up"
            verb = "was" if count == 1 else "were"
            notes.append(
                f"{voxels}{where}, {reach} to {found.value:g}, lay far from all others and {verb}"
                f" clipped to {nearest:g}"
            )
            array = np.where(found.mask, nearest, array)
    return UsableIntensities(array, tuple(notes))


def modality(volume: Volume) -> str:
    """Return the modality that DICOM states, else "CT" if the volume has voxels of air, else ""."""
    if volume.modality and volume.modality != "OT":
        return volume.modality
    return "CT" if has_ct_air(volume.array) else ""


def has_ct_air(array: NDArray[Any]) -> bool:
    """Return whether an image has air in Hounsfield units."""
    voxels = sample(array, _SAMPLE_VOXELS)
    low, high = CT_AIR
    if voxels.dtype.kind not in "if" or not voxels.size:
        return False
    return float(((voxels >= low) & (voxels <= high)).mean()) >= _AIR_SHARE


def looks_like_labelmap(array: NDArray[Any]) -> bool:
    """Return whether an image has two intensities, or a few that are all whole numbers."""
    for count in (_FEW_VOXELS, _SAMPLE_VOXELS):
        values = np.unique(sample(array, count))
        if values.size > (_LABELS if _are_whole(values) else 2):
            return False
    return bool(values.size > 1)


def sample(array: NDArray[Any], voxels: int) -> NDArray[Any]:
    """Return about ``voxels`` evenly spaced voxels of an array."""
    step = max(1, int(np.ceil((array.size / voxels) ** (1 / array.ndim))))
    return array[(slice(None, None, step),) * array.ndim]


@dataclass(frozen=True)
class _FarVoxels:
    """Voxels far below or far above all others.

    Attributes:
        mask: bool, shape of the image.
        value: outermost intensity of these voxels.
        padding: True for padding, False for outliers.
    """

    mask: NDArray[np.bool_]
    value: float
    padding: bool


def _far_voxels(array: NDArray[Any]) -> _FarVoxels | None:
    """Return the padding or the outliers at one end of the intensities; None if there are none."""
    low, high = float(array.min()), float(array.max())
    typical = _typical(array, low, high)
    if typical is None:
        return None
    darkest, brightest = typical
    spread = brightest - darkest
    few = max(_OUTLIERS, _OUTLIER_SHARE * array.size)
    negative = low < 0 <= darkest
    padding_below = _NEGATIVE_PADDING if negative else _PADDING_BELOW
    if darkest - low > padding_below * spread:
        mask = array < (0 if negative else darkest - padding_below * spread)
        count = int((array == low).sum())
        # Other voxels of the mask are interpolated at the edges of the padding.
        if count > few and 2 * count >= mask.sum():
            return _FarVoxels(mask, low, True)
        mask = array < darkest - _OUTLIER * spread
        if 0 < mask.sum() <= few:
            return _FarVoxels(mask, low, False)
    if high - brightest > _PADDING_ABOVE * spread:
        mask = array > brightest + _PADDING_ABOVE * spread
        count = int((array == high).sum())
        if count > few and 2 * count >= mask.sum():
            return _FarVoxels(mask, high, True)
        if mask.sum() <= few:
            return _FarVoxels(mask, high, False)
    return None


def _are_whole(values: NDArray[Any]) -> bool:
    return values.dtype.kind != "f" or bool((values == np.round(values)).all())


def _blank_but_for(array: NDArray[Any]) -> tuple[float, int]:
    """Return the median intensity, and how many voxels differ from it: 0 unless they are few."""
    voxels = sample(array, _SAMPLE_VOXELS).ravel()
    value = np.partition(voxels, voxels.size // 2)[voxels.size // 2]
    few = min(max(_OUTLIERS, _OUTLIER_SHARE * array.size), _BLANK_SHARE * array.size)
    if (voxels != value).mean() > _BLANK_SHARE:
        return float(value), 0
    others = int(np.count_nonzero(array != value))
    return float(value), others if others <= few else 0


def _typical(array: NDArray[Any], low: float, high: float) -> tuple[float, float] | None:
    """Return the 2nd and 98th percentile of the intensities other than the extremes and 0.

    The interval is extended to 0 if the image contains 0. None is returned if there are no such
    intensities or the ends of the interval do not differ.
    """
    voxels = sample(array, _SAMPLE_VOXELS).astype(np.float64)
    shown = voxels[(voxels != low) & (voxels != high) & (voxels != 0)]
    if shown.size == 0:
        return None
    darkest, brightest = (float(value) for value in np.percentile(shown, (2, 98)))
    if (voxels == 0).any():
        darkest, brightest = min(darkest, 0.0), max(brightest, 0.0)
    return (darkest, brightest) if _differ(darkest, brightest) else None


def _background(others: NDArray[Any]) -> Any:
    """Return the intensity that replaces padding, in the type of the other voxels."""
    low, high = others.min(), others.max()
    # Images without padding are 0 outside the body, but 0 is too far from intensities around 1e9.
    return others.dtype.type(0) if 0 < float(low) <= float(high) - float(low) else low


def _nearest(others: NDArray[Any], value: float) -> Any:
    """Return the lowest other intensity for a value below it, else the highest, in their type."""
    return others.min() if value < float(others.min()) else others.max()


def _differ(low: float, high: float) -> bool:
    """Return whether two intensities differ enough for a network, in float32."""
    low, high = float(np.float32(low)), float(np.float32(high))
    return high - low > _SMALLEST_RANGE * max(1.0, abs(low), abs(high))


def _not_finite(array: NDArray[Any]) -> bool:
    """Return whether a voxel is NaN or infinite; long doubles may exceed a Python float."""
    return not all(np.isfinite(plane).all() for plane in array)

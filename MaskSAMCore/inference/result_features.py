"""Features of a result from which its overlap with the truth can be estimated.

They are computed from the image, the network's scores and the labels that follow from the scores,
all on the plan's grid, in a few passes over the scores. Components that are removed from a result
have no influence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from MaskSAMCore.inference.results import keep_largest_components
from MaskSAMCore.inference.scoring import Shares
from MaskSAMCore.labels import Label, side_of

# Features of a class; lengths are in mm, volumes in ml.
CLASS_FEATURES = (
    "soft_dice",
    "confidence",
    "margin",
    "purity",
    "outline_confidence",
    "outline_margin",
    "unsure_share",
    "log_volume",
    "roughness",
    "fragments",
    "border_share",
    "asymmetry",
    "extent_depth",
    "extent_rows",
    "extent_columns",
    "position_depth",
    "position_rows",
    "position_columns",
    "outline_contrast",
    "inner_contrast",
    "contrast_ratio",
    "intensity",
    "intensity_spread",
)

# Features of the whole image and its result.
IMAGE_FEATURES = (
    "found_share",
    "log_foreground_volume",
    "foreground_share",
    "log_extent_depth",
    "log_extent_rows",
    "log_extent_columns",
    "percentile_2",
    "percentile_25",
    "percentile_50",
    "percentile_75",
    "percentile_98",
    "skewness",
    "flat_share",
    "gradient_depth",
    "gradient_rows",
    "gradient_columns",
    "noise",
)

# Largest number of voxels used: of a larger grid, only every n-th voxel along each axis is used.
_LARGEST = 1 << 22
# A voxel is doubtful if the probability of its class is below this.
_UNSURE = 0.7
_PERCENTILES = (2, 25, 50, 75, 98)
# Percentiles of a larger image are taken from every n-th voxel, because sorting takes long.
_SORTED_VOXELS = 1 << 17
_TINY = 1e-6
# Probabilities of a class count up to this many voxels beyond the bounding box of its component, if
# only the largest one is kept.
_NEAR = 2
# A slice is an end of a class if it has less than this share of the voxels of the largest slice.
_END_SHARE = 0.3
# A class that a refiner does not decide counts as changed if its volume changes by more than this
# share.
_CHANGED = 0.05
_LOG_VOLUME = CLASS_FEATURES.index("log_volume")


@dataclass(frozen=True)
class ResultFeatures:
    """Features of a result.

    Attributes:
        classes: float64 (K, features), in the order of ``CLASS_FEATURES``; NaN for a class without
            voxels on the plan's grid.
        image: float64 (features,), in the order of ``IMAGE_FEATURES``.
        weakest: float64 (K, 3), a place (depth, row, column) in the middle of the slice of each
            class that the network is least sure of, in voxel edges of the plan's grid; NaN for a
            class without voxels.
        refined: features of the classes that a refiner decides, in its order, from the scores with
            its decisions; all other features are from the scores without them. None without a
            refiner.
        changed: indices from 0 of classes that the refiner does not decide, but whose volume its
            decisions change by more than a few percent.
    """

    classes: NDArray[np.float64]
    image: NDArray[np.float64]
    weakest: NDArray[np.float64]
    refined: ResultFeatures | None = None
    changed: frozenset[int] = frozenset()

    @property
    def found(self) -> frozenset[int]:
        """Indices from 0 of the classes with voxels on the plan's grid."""
        return frozenset(np.flatnonzero(~np.isnan(self.classes).any(1)).tolist())

    def with_refiner(self, complete: ResultFeatures, refined: Sequence[int]) -> ResultFeatures:
        """Return the features, with the features of a refiner's classes added.

        Args:
            complete: features of all classes from the scores with the refiner's decisions.
            refined: indices from 0 of the classes that the refiner decides, in its order.
        """
        before, after = (np.exp(features.classes[:, _LOG_VOLUME]) for features in (self, complete))
        changed = ~(np.abs(after - before) <= _CHANGED * before)
        others = self.found & {*np.flatnonzero(changed).tolist()} - {*refined}
        return replace(self, refined=complete.of_classes(refined), changed=others)

    def with_missing(self, count: int) -> ResultFeatures:
        """Return the features with ``count`` more classes, whose features are NaN."""
        classes, weakest = (
            np.pad(values, ((0, count), (0, 0)), constant_values=np.nan)
            for values in (self.classes, self.weakest)
        )
        return replace(self, classes=classes, weakest=weakest)

    def of_classes(self, indices: Sequence[int]) -> ResultFeatures:
        """Return the features of some classes, given by their indices from 0."""
        rows = list(indices)
        return replace(self, classes=self.classes[rows], weakest=self.weakest[rows])


@torch.inference_mode()
def result_features(
    scores: Tensor,
    image: NDArray[np.float32],
    spacing: Sequence[float],
    labels: Sequence[Label],
    background_weight: float = 1.0,
    largest_component: Set[int] = frozenset(),
    shares: Shares | None = None,
) -> ResultFeatures:
    """Return the features of an automatic result.

    Args:
        scores: (K + 1, depth, rows, columns), automatic scores on the plan's grid.
        image: (C, depth, rows, columns), the preprocessed image, of which the first channel is
            used.
        spacing: voxel size along depth, rows and columns in mm.
        labels: classes 1 to K.
        background_weight: factor of the background's scores.
        largest_component: indices of the classes that keep only their largest component.
        shares: shares of the classes that a refiner decides; None for a result without a refiner.
    """
    step = _step(scores.shape[1:])
    if shares is None:
        chosen = scores[:, ::step, ::step, ::step]
    else:
        chosen = shares.merged_with(scores, step)
    voxels = _decide(chosen, background_weight, largest_component)
    intensities = image[0, ::step, ::step, ::step]
    sizes = step * np.asarray(spacing, dtype=float)
    classes = _class_features(voxels, intensities, sizes, labels)
    # The centre of a voxel that is used is the same place on both grids.
    weakest = (_weakest_slices(voxels, len(labels) + 1) - 0.5) * step + 0.5
    return ResultFeatures(classes, _image_features(voxels, intensities, sizes), weakest)


def _step(shape: Sequence[int]) -> int:
    """Return the smallest step along each axis with which no more than `_LARGEST` voxels remain."""
    step = 1
    while math.prod(-(-length // step) for length in shape) > _LARGEST:
        step += 1
    return step


@dataclass(frozen=True)
class _Voxels:
    """Decision at each voxel of the plan's grid.

    Attributes:
        winner: int64 (depth, rows, columns), class indices with 0 for the background.
        probability: probability of the winner, of the same shape.
        margin: difference of the two largest probabilities.
        purity: sum of the squared probabilities.
        soft_volumes: (K + 1,), sums of the probabilities of each class: over all voxels, or near
            the component that is kept.
    """

    winner: NDArray[np.int64]
    probability: NDArray[np.float32]
    margin: NDArray[np.float32]
    purity: NDArray[np.float32]
    soft_volumes: NDArray[np.float64]


def _decide(scores: Tensor, background_weight: float, largest_component: Set[int]) -> _Voxels:
    count = len(scores)
    best = background_weight * scores[0].float()
    second = torch.zeros_like(best)
    winner = torch.zeros(best.shape, dtype=torch.int64)
    total, squares = best.clone(), best.square()
    for index in range(1, count):
        score = scores[index].float()
        total += score
        squares.addcmul_(score, score)
        torch.maximum(second, torch.minimum(best, score), out=second)
        winner.masked_fill_(score > best, index)
        torch.maximum(best, score, out=best)
    share = 1 / total.clamp_(min=_TINY)
    soft = [float((scores[index].float() * share).sum()) for index in range(count)]
    soft[0] *= background_weight
    kept = winner.numpy()
    keep_largest_components(kept, largest_component)
    for index, region in enumerate(ndimage.find_objects(kept, count - 1), start=1):
        if region is not None and index in largest_component:
            near = tuple(slice(max(part.start - _NEAR, 0), part.stop + _NEAR) for part in region)
            soft[index] = float((scores[index][near].float() * share[near]).sum())
    return _Voxels(
        kept,
        (best * share).numpy(),
        ((best - second) * share).numpy(),
        (squares * share.square()).numpy(),
        np.array(soft),
    )


class _ClassSums:
    """Sums over the voxels of each class.

    Args:
        winner: (depth, rows, columns), class indices.
        count: number of classes with the background.
    """

    def __init__(self, winner: NDArray[np.int64], count: int) -> None:
        self._winner, self._count = winner.ravel(), count
        self.voxels = np.bincount(self._winner, minlength=count).astype(float)

    def mean(self, values: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return the mean of values over the voxels of each class, 0 for a class without any.

        Args:
            values: values of the voxels, in the shape of the grid.
            mask: voxels that count; None for all.
        """
        if mask is None:
            sums = np.bincount(self._winner, values.ravel(), self._count)
            return sums / np.maximum(self.voxels, 1)
        chosen = self._winner[mask.ravel()]
        sums = np.bincount(chosen, values[mask], self._count)
        return sums / np.maximum(np.bincount(chosen, minlength=self._count), 1)


def _class_features(
    voxels: _Voxels,
    intensities: NDArray[np.float32],
    spacing: NDArray[np.float64],
    labels: Sequence[Label],
) -> NDArray[np.float64]:
    winner = voxels.winner
    count = len(labels) + 1
    sums = _ClassSums(winner, count)
    outline = _outline(winner)
    size = sums.voxels
    confidence = sums.mean(voxels.probability)
    inner, outer = _contrasts(winner, intensities, count)
    ml = size * spacing.prod() / 1000
    mean = sums.mean(intensities)
    spread = np.sqrt(np.maximum(sums.mean(intensities * intensities) - mean**2, 0))
    axes = np.ogrid[tuple(slice(n) for n in winner.shape)]
    centres = (
        np.stack([sums.mean(np.broadcast_to(axis, winner.shape)) for axis in axes], 1) * spacing
    )
    foreground = size[1:].sum()
    middle = (centres[1:] * size[1:, None]).sum(0) / max(foreground, 1)
    radius = max(np.cbrt(foreground * spacing.prod()), _TINY)
    fragments, extents, border = _shapes(winner, count, spacing)
    scale = np.maximum(np.cbrt(ml * 1000), _TINY)[:, None]
    table = np.column_stack(
        [
            2 * confidence * size / np.maximum(size + voxels.soft_volumes, _TINY),
            confidence,
            sums.mean(voxels.margin),
            sums.mean(voxels.purity),
            sums.mean(voxels.probability, outline),
            sums.mean(voxels.margin, outline),
            sums.mean(voxels.probability < _UNSURE),
            np.log(np.maximum(ml, _TINY)),
            sums.mean(outline) * np.cbrt(np.maximum(size, 1)),
            fragments,
            border,
            np.concatenate([[0.0], _asymmetries(ml[1:], labels)]),
            np.log(np.maximum(extents, _TINY) / scale),
            (centres - middle) / radius,
            outer,
            inner,
            np.log((outer + _TINY) / (inner + _TINY)),
            mean,
            spread,
        ]
    )
    table[size == 0] = np.nan
    return np.asarray(table[1:], dtype=np.float64)


def _outline(winner: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the voxels that share a face with one of another class."""
    outline = np.zeros(winner.shape, dtype=bool)
    for low, high in _neighbours():
        different = winner[low] != winner[high]
        outline[low] |= different
        outline[high] |= different
    return outline


def _neighbours() -> list[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Return for each axis the index of all voxels but the last, and that of the next voxels."""
    everything = [slice(None)] * 3
    pairs = []
    for axis in range(3):
        low, high = everything.copy(), everything.copy()
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        pairs.append((tuple(low), tuple(high)))
    return pairs


def _contrasts(
    winner: NDArray[np.int64], intensities: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean difference of neighbouring voxels within each class, and across its outline,
    both (count,)."""
    sums, faces = np.zeros((2, count)), np.zeros((2, count))
    for low, high in _neighbours():
        step = np.abs(intensities[high] - intensities[low])
        first, second = winner[low], winner[high]
        across = first != second
        inside = ~across & (first > 0)
        for row, classes, values in (
            (0, first[inside], step[inside]),
            (1, first[across], step[across]),
            (1, second[across], step[across]),
        ):
            sums[row] += np.bincount(classes, values, count)
            faces[row] += np.bincount(classes, minlength=count)
    inner, outer = sums / np.maximum(faces, 1)
    return inner, outer


def _shapes(
    winner: NDArray[np.int64], count: int, spacing: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return shapes of the classes.

    Returns:
        Share of the voxels outside the largest component (count,), lengths of the bounding box in
        mm (count, 3), and share of the voxels on a face of the grid (count,).
    """
    fragments, border, extents = np.zeros(count), np.zeros(count), np.zeros((count, 3))
    for index, region in enumerate(ndimage.find_objects(winner, count - 1), start=1):
        if region is None:
            continue
        mask = winner[region] == index
        components, found = ndimage.label(mask)
        size = np.count_nonzero(mask)
        if found > 1:
            largest = np.bincount(components.ravel())[1:].max()
            fragments[index] = 1 - largest / size
        extents[index] = [part.stop - part.start for part in region] * spacing
        for axis, (part, length) in enumerate(zip(region, winner.shape, strict=True)):
            for touches, place in ((part.start == 0, 0), (part.stop == length, -1)):
                if touches:
                    border[index] += np.count_nonzero(mask.take(place, axis)) / size
    return fragments, extents, border


def _weakest_slices(voxels: _Voxels, count: int) -> NDArray[np.float64]:
    """Return a place in the least sure slice along the depth of each class, (K, 3)."""
    winner = voxels.winner
    depth = len(winner)
    slices = np.arange(depth)[:, None, None] * count + winner

    def sums(weights: NDArray[Any] | None = None) -> NDArray[np.float64]:
        given = None if weights is None else np.broadcast_to(weights, winner.shape).ravel()
        found = np.bincount(slices.ravel(), given, depth * count)
        return found.reshape(depth, count).astype(float)

    size = sums()
    probability = sums(voxels.probability) / np.maximum(size, 1)
    # The ends of a structure are small, and the network is never sure of them.
    probability[size < _END_SHARE * size.max(0)] = np.inf
    weakest = probability[:, 1:].argmin(0)
    _, row, column = np.ogrid[tuple(slice(n) for n in winner.shape)]
    place = np.stack(
        [size * (np.arange(depth)[:, None] + 0.5), sums(row + 0.5), sums(column + 0.5)]
    )
    chosen = np.arange(1, count)
    found = place[:, weakest, chosen] / np.where(size[weakest, chosen], size[weakest, chosen], 1)
    found[:, size.sum(0)[1:] == 0] = np.nan
    return found.T


def _asymmetries(ml: NDArray[np.float64], labels: Sequence[Label]) -> NDArray[np.float64]:
    """Return the logarithm of the volume of each class over that of its other side; 0 if it has no
    other side."""
    structures: dict[str, dict[str, int]] = {}
    for index, label in enumerate(labels):
        side, structure = side_of(label.name)
        if side:
            structures.setdefault(structure, {})[side] = index
    values = np.zeros(len(labels))
    for sides in structures.values():
        for (_, one), (_, other) in product(sides.items(), repeat=2):
            if one != other:
                values[one] = np.log(max(ml[one], 1e-3) / max(ml[other], 1e-3))
    return values


def _image_features(
    voxels: _Voxels, intensities: NDArray[np.float32], spacing: NDArray[np.float64]
) -> NDArray[np.float64]:
    winner = voxels.winner
    found = np.bincount(winner.ravel(), minlength=len(voxels.soft_volumes))[1:]
    ml = float(np.prod(spacing)) / 1000
    extent = np.asarray(winner.shape) * spacing
    spread = max(float(intensities.std()), _TINY)
    flat = intensities.ravel()
    percentiles = np.percentile(flat[:: 1 + flat.size // _SORTED_VOXELS], _PERCENTILES)
    centred = (intensities - intensities.mean()) / spread
    steps = [np.abs(intensities[high] - intensities[low]) / spread for low, high in _neighbours()]
    gradients = [float(step.mean()) if step.size else 0.0 for step in steps]
    return np.array(
        [
            np.count_nonzero(found) / len(found),
            np.log(max(found.sum() * ml, _TINY)),
            found.sum() / winner.size,
            *np.log(extent),
            *percentiles,
            float((centred * centred * centred).mean()),
            float(np.mean([np.mean(step < 1e-3) for step in steps if step.size])),
            *(gradient / max(sum(gradients), _TINY) for gradient in gradients),
            float(np.median(np.abs(_second_differences(centred)))),
        ]
    )


def _second_differences(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the second differences along the columns, which noise enlarges; 0 for fewer than three
    columns."""
    if values.shape[2] < 3:
        return np.zeros(1, np.float32)
    return values[..., 2:] - 2 * values[..., 1:-1] + values[..., :-2]

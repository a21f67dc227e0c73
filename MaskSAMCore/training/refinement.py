"""Placement of a refiner: the anchor classes near which it decides, its reach and its windows."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Margin that windows show around the classes, and their least extent, in mm.
_MARGIN_MM, _LEAST_MM = 8.0, 48.0
# Smallest and largest distance from the anchors within which the refiner decides, in mm.
_LEAST_REACH_MM, _LARGEST_REACH_MM = 8.0, 40.0
# Share of the voxels of the corrected classes that must be within reach.
_REACHED = 0.995
# Largest share of the voxels of new classes that are far from all anchors.
_FAR_SHARE = 0.05
# Share of the corrected voxels above which a class of the base loses voxels to corrected classes.
_GIVER_SHARE = 0.01
# Components below this share of the largest one have no influence on the windows.
_SMALL_COMPONENT = 0.05
# Largest number of parts that a voxel of the plan is divided into along an axis, and largest number
# of windows that the refiner may then need for an image: each takes a good part of a second.
_MOST_PARTS, _MOST_WINDOWS = 2, 24


@dataclass(frozen=True)
class MeasuredCase:
    """A corrected case with the classes that the base predicts, on the plan's grid.

    Attributes:
        corrected: (D, R, W), index of the corrected class of each voxel, 0 for all others.
        found: (D, R, W), class indices that the base predicts.
        spacing: original voxel size of the image in mm along the plan's axes; None for the spacing
            of the plan.
        image: float32 (C, D, R, W), or None for a case whose image is not in memory.
    """

    corrected: NDArray[np.integer]
    found: NDArray[np.integer]
    spacing: tuple[float, float, float] | None = None
    image: NDArray[np.float32] | None = None


@dataclass
class Placement:
    """Sums over the corrected cases that determine where a refiner has to decide.

    Args:
        classes: number of corrected classes.
        known: number of classes of the base, without the background.
        spacing: voxel size of the plan in mm.
        whole: rows and columns of the base's window.
    """

    classes: int
    known: int
    spacing: tuple[float, float, float]
    whole: tuple[int, int]
    _overlaps: NDArray[np.int64] = field(init=False)
    _extents: list[tuple[float, float]] = field(init=False, default_factory=list)
    _images: tuple[int, int] = field(init=False, default=(0, 0))

    def __post_init__(self) -> None:
        self._overlaps = np.zeros((self.classes + 1, self.known + 1), np.int64)

    def add(self, case: MeasuredCase) -> None:
        """Add a case that the base has segmented."""
        pairs = case.corrected.astype(np.int64) * (self.known + 1) + case.found
        counts = np.bincount(pairs.ravel(), minlength=self._overlaps.size)
        self._overlaps += counts.reshape(self._overlaps.shape)
        self._extents += component_extents(case.corrected > 0, self.spacing)
        _, rows, columns = case.corrected.shape
        if is_small((rows, columns), self.whole):
            self._images = max(self._images[0], rows), max(self._images[1], columns)

    def nearest(self, index: int) -> int:
        """Return the base's class with the largest Dice with a corrected class; 0 if no class of
        the base overlaps it."""
        return next(iter(self.ranked([index])), 0)

    def ranked(self, indices: Sequence[int]) -> list[int]:
        """Return the base's classes that overlap the given corrected classes, in descending order
        of their Dice with the union of the corrected classes."""
        if not indices:
            return []
        union = self._overlaps[list(indices)]
        sizes = union.sum() + self._overlaps[:, 1:].sum(0)
        dice = 2 * union[:, 1:].sum(0) / np.maximum(sizes, 1)
        order = np.argsort(-dice, kind="stable")
        return [1 + int(index) for index in order if dice[index] > 0]

    def extent(self) -> tuple[float, float]:
        """Return the rows and columns in voxels that a refiner's window has to show: the classes
        with their surroundings, and the whole of small images."""
        found = np.array(self._extents or [(0.0, 0.0)])
        usual = np.quantile(found, 0.9, axis=0) + 2 * _MARGIN_MM
        rows, columns = np.maximum(usual, _LEAST_MM) / self.spacing[1:]
        return max(float(rows), self._images[0]), max(float(columns), self._images[1])


def is_small(extent: tuple[int, int], whole: Sequence[int]) -> bool:
    """Return whether an image is much smaller than the base's window.

    Args:
        extent: rows and columns of the image in voxels.
        whole: rows and columns of the window.
    """
    return 2 * extent[0] * extent[1] <= whole[0] * whole[1]


def component_extents(
    mask: NDArray[np.bool_], spacing: Sequence[float]
) -> list[tuple[float, float]]:
    """Return the extents along rows and columns in mm of the larger components of a mask."""
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if not count:
        return []
    sizes = np.bincount(parts.ravel())[1:]
    found = ndimage.find_objects(parts)
    return [
        ((rows.stop - rows.start) * spacing[1], (columns.stop - columns.start) * spacing[2])
        for (_, rows, columns), size in zip(found, sizes, strict=True)
        if size >= _SMALL_COMPONENT * sizes.max()
    ]


def choose_anchors(
    placement: Placement, own: Collection[int], new: Sequence[int], cases: Sequence[MeasuredCase]
) -> tuple[int, ...]:
    """Return the anchors: the base's classes near which a refiner decides.

    Anchors are the corrected classes that the base has. As long as many voxels of the new classes
    are far from all anchors, the class of the base with the next largest Dice with the union of the
    new classes is added.

    Args:
        placement: sums over the cases.
        own: class indices of the corrected classes that the base has.
        new: indices, among the corrected classes, of those that the base lacks.
        cases: cases whose images are not small.

    Returns:
        Class indices of the base; all of them if no class fits.
    """
    anchors = set(own)
    for candidate in placement.ranked(new):
        away = [d for case in cases for d in distances(case, anchors, placement.spacing, new)]
        known = bool(away) or anchors > set(own)
        if anchors and known and np.sum(np.array(away) > _LEAST_REACH_MM) <= _FAR_SHARE * len(away):
            break
        anchors.add(candidate)
    return tuple(sorted(anchors or range(1, placement.known + 1)))


def choose_givers(cases: Sequence[MeasuredCase]) -> tuple[int, ...]:
    """Return the base's classes that lose voxels to the corrected ones: the background, and classes
    with more than a small share of the corrected voxels.

    Args:
        cases: cases whose images are not small; without any, only the background is returned.
    """
    lost = [case.found[case.corrected > 0].astype(np.int64) for case in cases]
    counts = np.bincount(np.concatenate([np.empty(0, np.int64), *lost]), minlength=1)
    found = np.flatnonzero(counts > _GIVER_SHARE * counts.sum()).tolist()
    return tuple(sorted({0, *found}))


def distances(
    case: MeasuredCase, anchors: Collection[int], spacing: Sequence[float], classes: Sequence[int]
) -> list[float]:
    """Return the distances in mm of the voxels of corrected classes from the base's anchor classes;
    infinity in a case in which the base finds no anchor."""
    corrected = np.isin(case.corrected, classes)
    if not corrected.any():
        return []
    known = np.isin(case.found, sorted(anchors))
    if not known.any():
        return [math.inf] * int(corrected.sum())
    away = ndimage.distance_transform_edt(~known, sampling=spacing)
    found: list[float] = away[corrected].tolist()
    return found


def reach_in_voxels(found: Sequence[float], spacing: Sequence[float]) -> tuple[int, int, int]:
    """Return the distance from the anchors within which a refiner decides, in voxels.

    Args:
        found: distances of corrected voxels from the anchors in mm; infinite ones are ignored.
        spacing: voxel size of the plan in mm.
    """
    finite = [distance for distance in found if math.isfinite(distance)]
    needed = float(np.quantile(finite, _REACHED)) + _LEAST_REACH_MM / 2 if finite else 0.0
    reach = min(max(needed, _LEAST_REACH_MM), _LARGEST_REACH_MM)
    depth, rows, columns = (max(1, round(reach / mm)) for mm in spacing)
    return depth, rows, columns


def choose_subdivision(
    cases: Sequence[MeasuredCase],
    placement: Placement,
    decided: Sequence[int],
    largest: Sequence[int],
) -> tuple[int, int, int]:
    """Return the number of parts along each axis that a voxel of the plan is divided into.

    The refiner sees voxels about as small as those of the images, within limits. It keeps the
    plan's voxels if a window could otherwise not show a structure with its surroundings, or if too
    many windows would be needed.

    Args:
        cases: corrected cases.
        placement: sums over the cases.
        decided: number of the plan's voxels that the refiner decides about in each case whose image
            is not small.
        largest: (T, H, W) of the refiner's largest window in voxels.
    """
    spacings = [case.spacing for case in cases if case.spacing is not None]
    if not spacings:
        return 1, 1, 1
    usual = np.median(spacings, axis=0)
    depth, rows, columns = (
        int(np.clip(round(whole / mm), 1, _MOST_PARTS))
        for whole, mm in zip(placement.spacing, usual, strict=True)
    )
    extent = placement.extent()
    shows = extent[0] * rows <= largest[1] and extent[1] * columns <= largest[2]
    size = largest[0] * min(extent[0] * rows, largest[1]) * min(extent[1] * columns, largest[2])
    # Windows overlap by half along three axes, so that eight show each voxel.
    windows = 8 * depth * rows * columns * np.mean(decided) / size if len(decided) else 0.0
    return (depth, rows, columns) if shows and windows <= _MOST_WINDOWS else (1, 1, 1)

"""Overlapping masks of boxes in one labelmap."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.inference.sliding_window import Region

# Logits that differ by less than this, or by less than this share of them, are equal: float16
# rounds to 1 / 2048 of a value, and the rounding of equal boxes differs between processors.
TIE_TOLERANCE = 2e-3


class Overlay:
    """Labelmap of overlapping masks: the highest logit wins, and of equal ones the lowest label.

    The order in which masks are added does not matter. The only memory needed is two bytes for each
    voxel of the region, for the highest logit.

    Args:
        labelmap: written; 0 everywhere at the beginning, with any axes.
        region: part of the labelmap that masks may lie in.
    """

    def __init__(self, labelmap: NDArray[Any], region: Region) -> None:
        self._labels = labelmap[region]
        self._origin = tuple(part.start for part in region)
        self._best: NDArray[np.float16] = np.zeros(self._labels.shape, dtype=np.float16)

    def add(self, value: int, place: Region, logits: NDArray[np.float16]) -> None:
        """Write a label where its logits are above 0 and win.

        Args:
            value: value of the label.
            place: part of the labelmap that the logits cover.
            logits: above 0 inside the mask.
        """
        a, b, c = (
            slice(part.start - start, part.stop - start)
            for part, start in zip(place, self._origin, strict=True)
        )
        best, labels = self._best[a, b, c], self._labels[a, b, c]
        difference = logits.astype(np.float32) - best
        tie = abs(difference) <= TIE_TOLERANCE * np.maximum(best, np.float32(1))
        wins = (logits > 0) & np.where(tie, (labels > value) | (labels == 0), difference > 0)
        labels[wins] = value
        np.maximum(best, logits, out=best)

    def confidences(self, count: int) -> NDArray[np.float64]:
        """Return the mean probability of each label over its voxels.

        Args:
            count: number of labels, whose values are 1 to `count`.

        Returns:
            (count,), 0 for a label without voxels.
        """
        sums, voxels = np.zeros(count + 1), np.zeros(count + 1)
        for labels, best in zip(self._labels, self._best, strict=True):
            flat = labels.ravel()
            probability = 1 / (1 + np.exp(-best.ravel().astype(np.float64)))
            sums += np.bincount(flat, probability, minlength=count + 1)
            voxels += np.bincount(flat, minlength=count + 1)
        means: NDArray[np.float64] = (sums / np.maximum(voxels, 1))[1:]
        return means

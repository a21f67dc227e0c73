"""Masks of many boxes written into one labelmap."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Place = tuple[slice, slice, slice]


class Overlay:
    """Where masks of boxes overlap, the higher logit wins, and of equal ones the lower label.

    The order in which masks are added changes nothing. Only the smallest box around all that will
    be added is held: two bytes a voxel for the logits.

    Args:
        labelmap: written, [any axes]: all 0 to begin with.
        region: the index of the part that masks may lie in.
    """

    def __init__(self, labelmap: NDArray[Any], region: Place) -> None:
        self._labels = labelmap[region]
        self._origin = tuple(part.start for part in region)
        self._best: NDArray[np.float16] = np.zeros(self._labels.shape, dtype=np.float16)

    def add(self, value: int, place: Place, logits: NDArray[np.float16]) -> None:
        """Write a label where its logits are above 0 and win.

        Args:
            value: the label.
            place: the index in the labelmap of what the logits cover, at most three axes.
            logits: float16; above 0 is inside.
        """
        a, b, c = (
            slice(part.start - start, part.stop - start)
            for part, start in zip(place, self._origin, strict=True)
        )
        best, labels = self._best[a, b, c], self._labels[a, b, c]
        wins = (logits > best) | ((logits == best) & (logits > 0) & (labels > value))
        best[wins] = logits[wins]
        labels[wins] = value

    def scores(self, count: int) -> NDArray[np.float64]:
        """(count,): for labels 1 to count the mean probability over their voxels, else 0."""
        sums, voxels = np.zeros(count + 1), np.zeros(count + 1)
        for labels, best in zip(self._labels, self._best, strict=True):
            flat = labels.ravel()
            probability = 1 / (1 + np.exp(-best.ravel().astype(np.float64)))
            sums += np.bincount(flat, probability, minlength=count + 1)
            voxels += np.bincount(flat, minlength=count + 1)
        means: NDArray[np.float64] = (sums / np.maximum(voxels, 1))[1:]
        return means

"""Random objects of a labelmap: labels, their parts, and unions of neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Smallest and largest area of an object, as shares of the slice.
_LEAST_AREA, _LARGEST_AREA = 0.0015, 0.6
_LEAST_PIXELS = 6
# Shares of labels and of parts among the objects; the others are unions of two neighbours.
_LABELS, _PARTS = 0.4, 0.35
# Share of objects that are one connected piece of a label, a part or a union.
_PIECES = 0.6
# Number of random regions that are tried for each object.
_TRIES = 3


def random_objects(
    labels: NDArray[np.integer], parts: NDArray[np.integer], count: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return the masks of random objects, fewer if most regions are too small or too large.

    Args:
        labels: (rows, columns), labels of a slice.
        parts: (rows, columns), regions that differ in the image; each label has one or several.
        count: largest number of objects.
        rng: random generator.

    Returns:
        (N, rows, columns), N at most ``count``.
    """
    values, regions = np.unique(labels), np.unique(parts)
    pairs = _neighbours(parts)
    least = max(_LEAST_PIXELS, _LEAST_AREA * labels.size)
    found: list[NDArray[np.bool_]] = []
    for _ in range(_TRIES * count):
        kind = rng.random()
        if kind < _LABELS:
            mask = labels == rng.choice(values)
        elif kind < _LABELS + _PARTS or not len(pairs):
            mask = parts == rng.choice(regions)
        else:
            first, second = rng.choice(pairs)
            mask = (parts == first) | (parts == second)
        if rng.random() < _PIECES:
            pieces, number = ndimage.label(mask)
            mask = pieces == 1 + rng.integers(number)
        if least <= mask.sum() <= _LARGEST_AREA * mask.size:
            found.append(mask)
            if len(found) == count:
                break
    return np.stack(found) if found else np.zeros((0, *labels.shape), bool)


def _neighbours(parts: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return the pairs (P, 2) of regions that touch."""
    beside = np.stack([parts[:, :-1].ravel(), parts[:, 1:].ravel()], 1)
    below = np.stack([parts[:-1].ravel(), parts[1:].ravel()], 1)
    pairs = np.concatenate([beside, below])
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)

"""Volumes of a cohort: the distribution of each class, and the outliers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A robust z-score beyond this marks an outlier (Iglewicz and Hoaglin, 1993).
OUTLIER = 3.5
# Fewest volumes of a class from which outliers are determined.
FEWEST_VALUES = 10
# Standard deviation of a normal distribution with a median, or mean, absolute deviation of 1.
_PER_MEDIAN_DEVIATION = 1.4826
_PER_MEAN_DEVIATION = 1.2533


@dataclass(frozen=True)
class ClassVolumes:
    """Volumes of one class over a cohort.

    Attributes:
        name: class name.
        ml: volume by case in ml, 0 where the class was not found.
        scores: robust z-score by case; empty if there are too few cases.
        low, median, high: 5th, 50th and 95th percentile of the volumes in ml.
    """

    name: str
    ml: Mapping[str, float]
    scores: Mapping[str, float]
    low: float
    median: float
    high: float


def class_volumes(cases: Mapping[str, Mapping[str, float]]) -> list[ClassVolumes]:
    """Return the volumes of each class over a cohort, in the order of their first appearance.

    Args:
        cases: volumes in ml by case and class.
    """
    names = dict.fromkeys(name for volumes in cases.values() for name in volumes)
    found = []
    for name in names:
        ml = {case: volumes[name] for case, volumes in cases.items() if name in volumes}
        values = np.array(list(ml.values()))
        low, median, high = (float(value) for value in np.percentile(values, (5, 50, 95)))
        scores = {}
        if len(values) >= FEWEST_VALUES:
            scores = dict(zip(ml, robust_scores(values).tolist(), strict=True))
        found.append(ClassVolumes(name, ml, scores, low, median, high))
    return found


def robust_scores(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return robust z-scores: distances from the median in robust standard deviations.

    The standard deviation is estimated from the median absolute deviation, which outliers do not
    change; where more than half of the values are equal, from the mean absolute deviation.
    """
    differences = np.asarray(values, dtype=np.float64) - np.median(values)
    deviation = _PER_MEDIAN_DEVIATION * np.median(np.abs(differences))
    if deviation == 0:
        deviation = _PER_MEAN_DEVIATION * np.mean(np.abs(differences))
    return differences / deviation if deviation > 0 else np.zeros_like(differences)

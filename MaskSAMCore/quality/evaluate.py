"""Measures of an estimator of the Dice on results that it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.inference.quality import rate
from MaskSAMCore.io.files import atomic_file
from MaskSAMCore.models.expected_dice import DiceEstimator
from MaskSAMCore.quality.fit import FAILED_DICE
from MaskSAMCore.quality.samples import Sample

# Share of the results that a user would look at: those with the lowest bounds.
_LOWEST_SHARE = 0.1


@dataclass(frozen=True)
class QualityMeasures:
    """Measures of an estimator.

    Attributes:
        results: number of results.
        rank_correlation: Spearman's correlation of expected and true Dice by class name, for the
            classes with both; NaN where it is not defined.
        mean_rank_correlation: mean rank correlation over the classes; NaN if no class has one.
        coverage: share of the classes of all results whose true Dice is not below the bound.
        mean_error: mean absolute difference of expected and true Dice.
        failed: number of results with a mean true Dice below 0.6.
        detected: share of the failed results that are marked as doubtful or are among the tenth of
            all results with the lowest bounds.
        false_alarms: share of the results with a mean true Dice of at least 0.6 that are marked as
            doubtful.
    """

    results: int
    rank_correlation: dict[str, float]
    mean_rank_correlation: float
    coverage: float
    mean_error: float
    failed: int
    detected: float
    false_alarms: float

    def to_json(self) -> dict[str, Any]:
        """Return the measures as plain types."""
        return asdict(self)


@dataclass(frozen=True)
class RatedSamples:
    """Estimated and true Dice, one row for each rated class of each result.

    Attributes:
        expected: (rows,), expected Dice.
        low: (rows,), lower bound of the Dice.
        true: (rows,), true Dice.
        class_index: (rows,), index of the class from 0.
    """

    expected: NDArray[np.float64]
    low: NDArray[np.float64]
    true: NDArray[np.float64]
    class_index: NDArray[np.intp]

    @classmethod
    def of(cls, estimator: DiceEstimator, samples: Sequence[Sample]) -> RatedSamples:
        """Estimate the Dice of the classes that were found in samples."""
        rows = [
            (estimate.dice, estimate.low, dice, index)
            for sample in samples
            for index, (estimate, dice) in enumerate(
                zip(rate(estimator, sample.features).classes, sample.dice, strict=True)
            )
            if estimate is not None and not np.isnan(dice)
        ]
        expected, low, true, index = np.array(rows, dtype=float).reshape(-1, 4).T
        return cls(expected, low, true, index.astype(np.intp))


def measure(
    estimator: DiceEstimator, samples: Sequence[Sample], class_names: Sequence[str]
) -> QualityMeasures:
    """Measure an estimator on samples.

    Args:
        estimator: the estimator.
        samples: results that it was not fitted on.
        class_names: names of the classes 1 to K.

    Raises:
        MaskSAMError: no sample has a class with an expected and a true Dice.
    """
    rows = RatedSamples.of(estimator, samples)
    if not len(rows.true):
        raise MaskSAMError(
            f"none of {len(samples)} result(s) has a class with an expected and a true Dice: take"
            " more results, or cases that have the classes of the model"
        )
    correlations = {}
    for index, name in enumerate(class_names):
        chosen = rows.class_index == index
        if chosen.any():
            correlations[name] = _rank_correlation(rows.expected[chosen], rows.true[chosen])
    defined = [value for value in correlations.values() if not np.isnan(value)]
    lowest, doubtful = _lowest_and_doubtful(estimator, samples)
    means = np.array([sample.mean_dice for sample in samples])
    # A result without a true Dice, whose mean is NaN, is neither failed nor good.
    failed, good = means < FAILED_DICE, means >= FAILED_DICE
    lowest_bounds = np.zeros(len(samples), dtype=bool)
    lowest_bounds[np.argsort(lowest)[: round(_LOWEST_SHARE * len(samples))]] = True
    detected = (lowest_bounds | doubtful)[failed]
    return QualityMeasures(
        len(samples),
        correlations,
        float(np.mean(defined)) if defined else float("nan"),
        float((rows.true >= rows.low).mean()),
        float(np.abs(rows.expected - rows.true).mean()),
        int(failed.sum()),
        float(detected.mean()) if failed.any() else 1.0,
        float(doubtful[good].mean()) if good.any() else 0.0,
    )


def draw_scatter(
    estimator: DiceEstimator, samples: Sequence[Sample], title: str, path: Path
) -> None:
    """Draw the expected Dice and its bound against the true Dice to a PNG file."""
    # Matplotlib takes a second to import, and inference does not need it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = RatedSamples.of(estimator, samples)
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    broken = rows.true < rows.low
    left.scatter(rows.true, rows.expected, s=6, alpha=0.5, linewidths=0)
    right.scatter(rows.true[~broken], rows.low[~broken], s=6, alpha=0.5, linewidths=0)
    right.scatter(rows.true[broken], rows.low[broken], s=6, c="tab:red", linewidths=0)
    left.set(ylabel="expected Dice", xlabel="true Dice", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    right.set(ylabel=f"bound, holds in {100 * (~broken).mean():.0f} %", xlabel="true Dice")
    for plot in (left, right):
        plot.plot([0, 1], [0, 1], c="grey", lw=0.8)
        plot.grid(alpha=0.3)
        plot.set_aspect("equal")
    figure.suptitle(title, parse_math=False)  # a path may have dollar signs
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=80, format="png")


def _rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return Spearman's correlation; NaN for fewer than 3 values or constant ones."""
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(spearmanr(one, other)[0])


def _lowest_and_doubtful(
    estimator: DiceEstimator, samples: Sequence[Sample]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the lowest bound of each result, and whether it is marked as doubtful."""
    lowest, doubtful = [], []
    for sample in samples:
        rating = rate(estimator, sample.features)
        # The mean true Dice of a result does not include classes whose true Dice is unknown.
        bounds = [
            one.low
            for one, dice in zip(rating.classes, sample.dice, strict=True)
            if one is not None and not np.isnan(dice)
        ]
        # A result in which nothing was found counts as doubtful, with the lowest bound.
        lowest.append(min(bounds, default=0.0))
        doubtful.append(bool(rating.doubts) or not bounds)
    return np.array(lowest), np.array(doubtful)

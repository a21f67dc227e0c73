"""Fit of an estimator of the Dice to results of known Dice.

The bound of the Dice is calibrated on the errors of trees that were fitted without any sample of
the same case (split conformal prediction over folds).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.inference.result_features import CLASS_FEATURES, IMAGE_FEATURES
from MaskSAMCore.models.expected_dice import (
    SMALLEST_ERROR,
    DiceEstimator,
    FeatureGroup,
    TreeSum,
    group_distance,
    row_width,
)
from MaskSAMCore.quality.samples import Sample

# Features that depend on how much of the body an ROI shows. They reveal what is odd about an image,
# but not how good its result is, so that the trees do not use them.
_OF_THE_VIEW = (
    *("foreground_share", "log_extent_depth", "log_extent_rows", "log_extent_columns"),
    *("percentile_2", "percentile_25", "percentile_50", "percentile_75", "percentile_98"),
    *("skewness", "flat_share"),
)
# Share of the results left out of a fit in which the bound holds. It is more than the nine in ten
# that the user is promised, because the user's images differ more from those of the fit than the
# latter differ from each other.
COVERAGE = 0.925
# Fewer samples do not show how far the worst results lie below the expected Dice.
FEWEST_SAMPLES = 20
_FOLDS = 5
_TREES, _DEPTH, _RATE, _LEAF = 150, 3, 0.06, 8
# The distance of the bound of a class with fewer samples is that of all classes together.
_FEW = 40
# Mean Dice below which a result failed, and share of the failed results to mark as doubtful.
FAILED_DICE, _DETECTED = 0.6, 0.95
# Range of the threshold of doubtful results; a result that is expected to fail is always doubtful.
_THRESHOLDS = (FAILED_DICE, 0.75)
# Least spread of a feature of a class, as a share of the feature's spread over all classes.
_SMALLEST_SPREAD = 0.2
_LIMIT_PERCENTILE, _LIMIT_MARGIN = 98, 1.15

_GROUPS = {
    "orientation": (
        (
            *("position_depth", "position_rows", "position_columns"),
            *("extent_depth", "extent_rows", "extent_columns"),
        ),
        (),
    ),
    "modality": (
        ("intensity_spread", "contrast_ratio"),
        (
            *("percentile_2", "percentile_25", "percentile_50", "percentile_75", "percentile_98"),
            *("skewness", "flat_share", "noise"),
        ),
    ),
    "field of view": (
        ("border_share",),
        ("log_extent_depth", "log_extent_rows", "log_extent_columns", "foreground_share"),
    ),
}


@dataclass(frozen=True)
class _Rows:
    """Rows of the rated classes of all samples.

    Attributes:
        inputs: (rows, columns), see :meth:`DiceEstimator.rows`.
        dice: (rows,), true Dice.
        sample: (rows,), index of the sample.
        class_index: (rows,), index of the class from 0.
        case: (rows,), name of the case.
    """

    inputs: NDArray[np.float64]
    dice: NDArray[np.float64]
    sample: NDArray[np.intp]
    class_index: NDArray[np.intp]
    case: NDArray[np.str_]


def fit_estimator(
    samples: Sequence[Sample], weights_sha256: str, facts: dict[str, Any]
) -> DiceEstimator:
    """Fit an estimator to samples.

    Args:
        samples: results of known Dice.
        weights_sha256: SHA-256 of the weights that gave the results.
        facts: information for the user.

    Raises:
        MaskSAMError: there are too few samples or cases, or scikit-learn is not installed.
    """
    rated = [sample for sample in samples if sample.rated.any()]
    cases = sorted({sample.case for sample in rated})
    check_possible(len(rated), len(cases))
    estimator = _untrained(rated, weights_sha256, facts)
    rows = _rows(estimator, samples)
    rows.inputs[:, _columns_of_the_view()] = 0  # no tree splits a constant column
    expected = np.clip(_out_of_fold(rows, rows.dice, cases), 0, 1)
    missed = np.abs(expected - rows.dice)
    error = np.maximum(_out_of_fold(rows, missed, cases), SMALLEST_ERROR)
    excess = (expected - rows.dice) / error
    estimator = replace(
        estimator,
        mean=_fit_trees(rows.inputs, rows.dice),
        error=_fit_trees(rows.inputs, missed),
        factor=_factors(rows, excess, len(estimator.usual_dice)),
        doubtful_below=_threshold(samples, rows, expected),
    )
    return replace(estimator, groups=_groups(estimator, samples))


def check_possible(results: int, cases: int) -> None:
    """Check that an estimator can be fitted.

    Callers can check this before they make results, which takes long.

    Args:
        results: number of results in which a class is found.
        cases: number of cases that the results show.

    Raises:
        MaskSAMError: there are too few results or cases, or scikit-learn is not installed.
    """
    if results < FEWEST_SAMPLES or cases < 2:
        raise MaskSAMError(
            f"{results} results of {cases} cases with a class that was found are too few for an"
            f" estimator of the Dice: it needs {FEWEST_SAMPLES} results of two cases"
        )
    if find_spec("sklearn") is None:
        raise MaskSAMError(
            "an estimator of the Dice is fitted with scikit-learn: pip install 'masksam[train]'"
        )


def _untrained(
    samples: Sequence[Sample], weights_sha256: str, facts: dict[str, Any]
) -> DiceEstimator:
    """Return an estimator with the usual features, but without trees.

    Args:
        samples: results in which a class of known Dice was found.
        weights_sha256: SHA-256 of the weights.
        facts: information for the user.
    """
    usual = [sample for sample in samples if sample.corruption == "clean"]
    if len(usual) < FEWEST_SAMPLES // 3:
        # With too few clean images, the better half of the samples counts as usual.
        usual = sorted(samples, key=lambda sample: -sample.mean_dice)[: len(samples) // 2]
    classes = np.stack([sample.features.classes for sample in usual])
    image = np.stack([sample.features.image for sample in usual])
    dice = np.stack([sample.dice for sample in usual])
    over_all = np.nanstd(classes.reshape(-1, classes.shape[-1]), 0)
    centre, spread = _moments(classes)
    lost = np.isnan(centre)
    centre = np.where(lost, np.nanmean(classes, (0, 1)), centre)
    spread = np.where(lost, over_all, spread)
    empty = TreeSum(0.0, np.zeros((1, 1), np.intp), np.zeros((1, 1)), np.zeros((1, 2)))
    mean_dice = float(np.nanmean(dice))
    known = ~np.isnan(dice).all(0)
    usual_dice = np.full(dice.shape[1], mean_dice)
    usual_dice[known] = np.nanmean(dice[:, known], 0)
    return DiceEstimator(
        weights_sha256,
        CLASS_FEATURES,
        IMAGE_FEATURES,
        centre,
        np.maximum(spread, np.maximum(_SMALLEST_SPREAD * over_all, 1e-4)),
        image.mean(0),
        np.maximum(image.std(0), 1e-2),
        usual_dice,
        empty,
        empty,
        np.zeros(dice.shape[1]),
        0.0,
        (),
        facts,
    )


def _moments(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation over the first axis, ignoring NaN unless all are NaN."""
    count = (~np.isnan(values)).sum(0)
    with np.errstate(invalid="ignore"):
        mean = np.nansum(values, 0) / np.where(count, count, np.nan)
        squares = np.nansum((values - mean) ** 2, 0) / np.where(count, count, np.nan)
    return mean, np.sqrt(squares)


def _rows(estimator: DiceEstimator, samples: Sequence[Sample]) -> _Rows:
    inputs, dice, index, class_index, case = [], [], [], [], []
    for number, sample in enumerate(samples):
        rows = estimator.rows(sample.features.classes, sample.features.image)
        known = sample.rated
        inputs.append(rows[known])
        dice.append(sample.dice[known])
        index += [number] * int(known.sum())
        class_index += np.flatnonzero(known).tolist()
        case += [sample.case] * int(known.sum())
    return _Rows(
        np.concatenate(inputs),
        np.concatenate(dice),
        np.array(index),
        np.array(class_index),
        np.array(case),
    )


def _columns_of_the_view() -> list[int]:
    """Return the indices of the columns that hold the features in ``_OF_THE_VIEW``."""
    first = 4 * len(CLASS_FEATURES)
    return [first + IMAGE_FEATURES.index(name) for name in _OF_THE_VIEW]


def _out_of_fold(
    rows: _Rows, target: NDArray[np.float64], cases: Sequence[str]
) -> NDArray[np.float64]:
    """Return estimates of a target for each row, by trees that were fitted without its case."""
    estimates = np.zeros(len(target))
    folds = min(_FOLDS, len(cases))
    for fold in range(folds):
        held_out = np.isin(rows.case, cases[fold::folds])
        if held_out.any() and not held_out.all():
            trees = _fit_trees(rows.inputs[~held_out], target[~held_out])
            estimates[held_out] = trees(rows.inputs[held_out])
    return estimates


def _factors(rows: _Rows, excess: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """Return the distance of each class's bound from the expected Dice, in expected errors.

    Args:
        rows: rows of the rated classes.
        excess: (rows,), expected minus true Dice, divided by the expected error.
        classes: number of classes.
    """
    pooled = _conformal(excess)
    chosen = [excess[rows.class_index == index] for index in range(classes)]
    return np.array([_conformal(one) if len(one) >= _FEW else pooled for one in chosen])


def _conformal(excess: NDArray[np.float64]) -> float:
    """Return the ceil((n + 1) COVERAGE)-th smallest of n values, or the largest if n is too small.

    It is the quantile of split conformal prediction.
    """
    rank = math.ceil((len(excess) + 1) * COVERAGE)
    return float(np.sort(excess)[min(rank, len(excess)) - 1])


def _threshold(samples: Sequence[Sample], rows: _Rows, expected: NDArray[np.float64]) -> float:
    """Return the mean expected Dice below which nearly all failed results lie."""
    means = np.array(
        [
            expected[rows.sample == number].mean() if (rows.sample == number).any() else 0.0
            for number in range(len(samples))
        ]
    )
    failed = np.array([sample.mean_dice < FAILED_DICE for sample in samples])
    if not failed.any():
        return _THRESHOLDS[0]
    return round(float(np.clip(np.quantile(means[failed], _DETECTED), *_THRESHOLDS)), 4)


def _groups(estimator: DiceEstimator, samples: Sequence[Sample]) -> tuple[FeatureGroup, ...]:
    """Return the groups of features, with limits that few usual images exceed."""
    usual = [sample.features for sample in samples if sample.mean_dice >= FAILED_DICE]
    groups = []
    for name, (class_names, image_names) in _GROUPS.items():
        group = FeatureGroup(
            name,
            tuple(CLASS_FEATURES.index(one) for one in class_names),
            tuple(IMAGE_FEATURES.index(one) for one in image_names),
            1.0,
        )
        found = [group_distance(estimator, group, one.classes, one.image) for one in usual]
        limit = float(np.percentile(found, _LIMIT_PERCENTILE)) if found else 1.0
        groups.append(replace(group, limit=round(max(_LIMIT_MARGIN * limit, 0.1), 4)))
    return tuple(groups)


def _fit_trees(inputs: NDArray[np.float64], target: NDArray[np.float64]) -> TreeSum:
    """Return boosted regression trees.

    Args:
        inputs: (rows, columns).
        target: (rows,).
    """
    from sklearn.ensemble import GradientBoostingRegressor

    model = GradientBoostingRegressor(
        n_estimators=_TREES,
        max_depth=_DEPTH,
        learning_rate=_RATE,
        min_samples_leaf=_LEAF,
        subsample=0.7,
        max_features=0.5,
        random_state=0,
    )
    model.fit(inputs, target)
    base = float(np.ravel(model.init_.predict(inputs[:1]))[0])
    trees = [_complete(tree.tree_) for tree in model.estimators_[:, 0]]
    columns, thresholds, values = (np.array(parts) for parts in zip(*trees, strict=True))
    assert inputs.shape[1] == row_width(len(CLASS_FEATURES), len(IMAGE_FEATURES))
    return TreeSum(base, columns, thresholds, _RATE * values)


def _complete(tree: Any) -> tuple[list[int], list[float], list[float]]:
    """Return a scikit-learn tree as a complete tree: columns, thresholds and values of leaves."""
    columns, thresholds = [], []
    level = [0]
    for _ in range(_DEPTH):
        below = []
        for node in level:
            leaf = tree.children_left[node] < 0
            columns.append(0 if leaf else int(tree.feature[node]))
            thresholds.append(0.0 if leaf else float(tree.threshold[node]))
            below += [node, node] if leaf else [tree.children_left[node], tree.children_right[node]]
        level = below
    return columns, thresholds, [float(tree.value[node].item()) for node in level]

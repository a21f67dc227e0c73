"""Dice estimators with known results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from MaskSAMCore.inference.result_features import CLASS_FEATURES, IMAGE_FEATURES
from MaskSAMCore.models.expected_dice import DiceEstimator, FeatureGroup, TreeSum, row_width


def known_estimator(
    dice: Sequence[float],
    below: float = 0.1,
    weights_sha256: str = "",
    doubtful_below: float = 0.0,
    groups: tuple[FeatureGroup, ...] = (),
    usual_dice: Sequence[float] | None = None,
) -> DiceEstimator:
    """Return an estimator whose results do not depend on the features.

    Args:
        dice: expected Dice of each class.
        below: distance of the bound below the expected Dice.
        weights_sha256: SHA-256 of the weights.
        doubtful_below: mean expected Dice below which a result is doubtful.
        groups: groups of features that show in what way an image is unusual.
        usual_dice: Dice of each class on usual images, in the order of the expected Dice; None for
            the expected Dice.
    """
    classes, count = len(dice), len(CLASS_FEATURES)
    usual = np.asarray(dice if usual_dice is None else usual_dice, dtype=float)
    # Each tree compares the usual Dice, the last column of the rows, with one step, and adds the
    # rise of the expected Dice there.
    steps = np.unique(usual)
    width = row_width(count, len(IMAGE_FEATURES))
    columns = np.full((len(steps), 1), width - 1)
    thresholds = (steps - 1e-6)[:, None]
    rise = np.diff(np.unique(dice), prepend=0.0)
    values = np.column_stack([np.zeros(len(steps)), rise])
    trees = TreeSum(0.0, columns, thresholds, values)
    return DiceEstimator(
        weights_sha256,
        CLASS_FEATURES,
        IMAGE_FEATURES,
        np.zeros((classes, count)),
        np.ones((classes, count)),
        np.zeros(len(IMAGE_FEATURES)),
        np.ones(len(IMAGE_FEATURES)),
        usual,
        trees,
        TreeSum(1.0, np.zeros((1, 1), int), np.zeros((1, 1)), np.zeros((1, 2))),
        np.full(classes, below),
        doubtful_below,
        groups,
        {"results": 0},
    )

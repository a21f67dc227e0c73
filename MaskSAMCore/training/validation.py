"""Validation: segment whole cases with the inference engine and score the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.data import Plan
from MaskSAMCore.data.dataset import LabelledCase
from MaskSAMCore.evaluation import dice_scores
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.inference.results import keep_largest_components
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling import Network

# Background weights to try. The first one has no effect and is used to compare trainings.
BACKGROUND_WEIGHTS = (1.0, 1.2, 1.5, 1.8)


@dataclass(frozen=True)
class Scores:
    """Dice scores of a validation, and the post-processing that would raise them.

    Attributes:
        dice: Dice of each class name that occurs, averaged over the cases, without
            post-processing.
        largest_component: labelmap values of the classes whose Dice is higher when only their
            largest component is kept (nnU-Net's rule).
        background_weight: weight of the background, among those tried, with the highest Dice.
    """

    dice: dict[str, float]
    largest_component: tuple[int, ...] = ()
    background_weight: float = 1.0

    @property
    def mean(self) -> float:
        """Mean Dice over the classes."""
        return sum(self.dice.values()) / max(len(self.dice), 1)


class Evaluator:
    """Scorer of networks on the validation cases. It can be sent to spawned processes.

    Args:
        cases: validation cases whose labelmaps hold class indices 0 to K.
        class_names: names of the classes 1 to K.
        values: values of the classes 1 to K in the dataset's labelmaps.
        plan: preprocessing of the network.
    """

    def __init__(
        self,
        cases: Sequence[LabelledCase],
        class_names: Sequence[str],
        values: Sequence[int],
        plan: Plan,
    ) -> None:
        self.cases = cases
        self.class_names = class_names
        self.values = values
        self.plan = plan

    def score(self, model: Network, device: str) -> Scores:
        """Segment all cases with a network and return its scores."""
        labels = [Label(i + 1, name, (1.0, 1.0, 1.0)) for i, name in enumerate(self.class_names)]
        segmenter = MaskSegmenter(model, self.plan, labels, device=device)
        plain, cleaned = _DiceTable(len(labels)), _DiceTable(len(labels))
        reweighted = {weight: _DiceTable(len(labels)) for weight in BACKGROUND_WEIGHTS[1:]}
        for case in self.cases:
            with segmenter.open(case.channels, cache_bytes=0) as session:
                found = session.segment().labelmap
                plain.add(found, case.labelmap)
                largest = found.copy()
                keep_largest_components(largest, range(1, len(labels) + 1))
                cleaned.add(largest, case.labelmap)
                for weight, table in reweighted.items():
                    session.weigh_background(weight)
                    table.add(session.segment().labelmap, case.labelmap)
        means, cleaned_means = plain.means(), cleaned.means()
        tables = {BACKGROUND_WEIGHTS[0]: plain, **reweighted}
        return Scores(
            dice={self.class_names[index]: dice for index, dice in means.items()},
            largest_component=tuple(
                self.values[index] for index in means if cleaned_means[index] > means[index]
            ),
            background_weight=max(tables, key=lambda weight: tables[weight].mean()),
        )


class _DiceTable:
    """Dice scores of the classes 1 to K, case by case."""

    def __init__(self, classes: int) -> None:
        self._scores: list[list[float]] = [[] for _ in range(classes)]

    def add(self, found: NDArray[np.integer], reference: NDArray[np.integer]) -> None:
        """Add a case; a class that neither labelmap contains gets no score."""
        dice = dice_scores(found, reference, range(1, len(self._scores) + 1))
        for scores, score in zip(self._scores, dice, strict=True):
            if not math.isnan(score):
                scores.append(score)

    def means(self) -> dict[int, float]:
        """Return the mean score of each class that has one, by its index from 0."""
        return {i: float(np.mean(scores)) for i, scores in enumerate(self._scores) if scores}

    def mean(self) -> float:
        """Return the mean over the classes."""
        means = self.means()
        return sum(means.values()) / max(len(means), 1)

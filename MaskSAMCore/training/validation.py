"""Whole validation cases through the one inference engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.data import Plan
from MaskSAMCore.data.dataset import LabelledCase
from MaskSAMCore.evaluation import dice_scores
from MaskSAMCore.inference import Segmenter
from MaskSAMCore.inference.postprocessing import keep_largest_components
from MaskSAMCore.inference.runner import SegmentationModel
from MaskSAMCore.labels import Label

if TYPE_CHECKING:
    from MaskSAMCore.training.module import MaskSAMModule


# The first changes nothing, and is the one that trainings are compared by.
BACKGROUND_WEIGHTS = (1.0, 1.2, 1.5, 1.8)


@dataclass(frozen=True)
class Scores:
    """What a validation found.

    Attributes:
        dice: of each class that occurs, averaged over the cases.
        largest_component: values of the classes whose Dice is higher when only their largest
            component is kept (nnU-Net's rule).
        background_weight: of the tried weights of the background the one with the highest Dice.
    """

    dice: dict[str, float]
    largest_component: tuple[int, ...] = ()
    background_weight: float = 1.0

    @property
    def mean(self) -> float:
        """Mean Dice over the classes."""
        return sum(self.dice.values()) / max(len(self.dice), 1)


class Evaluator:
    """Scores a training's present weights. It travels to other processes.

    Args:
        cases: with labels 0 to K.
        classes: names of the classes 1 to K.
        values: their values in the dataset.
        plan: of the network.
    """

    def __init__(
        self,
        cases: Sequence[LabelledCase],
        classes: Sequence[str],
        values: Sequence[int],
        plan: Plan,
    ) -> None:
        self.cases = cases
        self.classes = classes
        self.values = values
        self.plan = plan

    def __call__(self, module: MaskSAMModule) -> Scores:
        """Validates on the module's own device."""
        return self.score(module.model, module.device.type)

    def score(self, model: SegmentationModel, device: str) -> Scores:
        """The Dice of a network on all cases."""
        labels = [Label(i + 1, name, (1.0, 1.0, 1.0)) for i, name in enumerate(self.classes)]
        segmenter = Segmenter(model, self.plan, labels, device=device)
        plain, cleaned = _Table(len(labels)), _Table(len(labels))
        weighted = {weight: _Table(len(labels)) for weight in BACKGROUND_WEIGHTS[1:]}
        for case in self.cases:
            with segmenter.open(case.channels, cache_bytes=0) as session:
                found = session.segment().labelmap
                plain.add(found, case.label)
                largest = found.copy()
                keep_largest_components(largest, range(1, len(labels) + 1))
                cleaned.add(largest, case.label)
                for weight, table in weighted.items():
                    session.weigh_background(weight)
                    table.add(session.segment().labelmap, case.label)
        means = plain.means()
        better = tuple(
            value
            for index, value in enumerate(self.values)
            if index in means and cleaned.means()[index] > means[index]
        )
        weighted = {BACKGROUND_WEIGHTS[0]: plain, **weighted}
        weight = max(weighted, key=lambda one: weighted[one].mean())
        return Scores({self.classes[index]: dice for index, dice in means.items()}, better, weight)


class _Table:
    """Dice scores of the classes 1 to K, case by case."""

    def __init__(self, classes: int) -> None:
        self._scores: list[list[float]] = [[] for _ in range(classes)]

    def add(self, found: NDArray[np.integer], known: NDArray[np.integer]) -> None:
        """A case; a class that is in neither labelmap has no score."""
        dice = dice_scores(found, known, range(1, len(self._scores) + 1))
        for scores, score in zip(self._scores, dice, strict=True):
            if not math.isnan(score):
                scores.append(score)

    def means(self) -> dict[int, float]:
        """Of the classes, counted from 0, that have scores."""
        return {i: float(np.mean(scores)) for i, scores in enumerate(self._scores) if scores}

    def mean(self) -> float:
        """Over the classes."""
        means = self.means()
        return sum(means.values()) / max(len(means), 1)

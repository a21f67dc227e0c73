"""Validation: segment whole cases with the inference engine and score the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from MaskSAMCore.data.case_cache import CaseSource
from MaskSAMCore.data.windows import IndexedCase
from MaskSAMCore.evaluation import dice_scores
from MaskSAMCore.inference.decision import write_labels
from MaskSAMCore.inference.device import choose_device
from MaskSAMCore.inference.embedding_cache import EmbeddingCache
from MaskSAMCore.inference.progress import Progress
from MaskSAMCore.inference.results import keep_largest_components
from MaskSAMCore.inference.runner import Runner
from MaskSAMCore.inference.scoring import Scorer
from MaskSAMCore.inference.settings import UNMIRRORED
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
        cases: validation cases with a reference; their labelmaps hold class indices 0 to K.
        class_names: names of the classes 1 to K.
        values: values of the classes 1 to K in the dataset's labelmaps.
    """

    def __init__(
        self,
        cases: Sequence[CaseSource[IndexedCase]],
        class_names: Sequence[str],
        values: Sequence[int],
    ) -> None:
        self.cases = cases
        self.class_names = class_names
        self.values = values

    def score(self, model: Network, device: str) -> Scores:
        """Segment all cases with a network and return its scores."""
        runner = Runner(model, choose_device(device))
        classes = range(1, len(self.class_names) + 1)
        indices = np.arange(len(self.class_names) + 1, dtype=np.uint8)
        plain, cleaned = _DiceTable(len(classes)), _DiceTable(len(classes))
        reweighted = {weight: _DiceTable(len(classes)) for weight in BACKGROUND_WEIGHTS}
        for source in self.cases:
            case = source.open()
            assert case.reference is not None
            scorer = Scorer(runner, case.image, UNMIRRORED, EmbeddingCache(0))
            scores = scorer.automatic(Progress())
            found = np.zeros(case.reference.shape, np.uint8)
            write_labels(scores, indices, found, Progress())
            plain.add(found, case.reference)
            keep_largest_components(found, classes)
            cleaned.add(found, case.reference)
            # The weights are compared on the plan's grid, where no score is interpolated again.
            largest, winner = scores[1:].max(0)
            for weight, table in reweighted.items():
                chosen = torch.where(largest > weight * scores[0], winner + 1, 0)
                table.add(chosen.numpy(), case.labelmap)
        means, cleaned_means = plain.means(), cleaned.means()
        return Scores(
            dice={self.class_names[index]: dice for index, dice in means.items()},
            largest_component=tuple(
                self.values[index] for index in means if cleaned_means[index] > means[index]
            ),
            background_weight=max(reweighted, key=lambda weight: reweighted[weight].mean()),
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

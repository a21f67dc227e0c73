"""Whole validation cases through the one inference engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from MaskSAMCore.data import Plan
from MaskSAMCore.data.dataset import LabelledCase
from MaskSAMCore.inference import Segmenter
from MaskSAMCore.inference.postprocessing import keep_largest_components
from MaskSAMCore.inference.runner import SegmentationModel
from MaskSAMCore.labels import Label

if TYPE_CHECKING:
    from .module import MaskSAMModule


@dataclass(frozen=True)
class Scores:
    """What a validation found.

    Attributes:
        dice: of each class that occurs, averaged over the cases.
        largest_component: values of the classes whose Dice is higher when only their largest
            component is kept (nnU-Net's rule).
    """

    dice: dict[str, float]
    largest_component: tuple[int, ...] = ()

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
        plain: list[list[float]] = [[] for _ in labels]
        cleaned: list[list[float]] = [[] for _ in labels]
        for case in self.cases:
            found = segmenter.segment(case.channels).labelmap
            largest = found.copy()
            keep_largest_components(largest, range(1, len(labels) + 1))
            for label in labels:
                known = case.label == label.value
                for scores, labelmap in ((plain, found), (cleaned, largest)):
                    dice = _dice(labelmap == label.value, known)
                    if dice is not None:
                        scores[label.value - 1].append(dice)
        better = tuple(
            value
            for value, before, after in zip(self.values, plain, cleaned, strict=True)
            if before and float(np.mean(after)) > float(np.mean(before))
        )
        means = {
            name: float(np.mean(scores))
            for name, scores in zip(self.classes, plain, strict=True)
            if scores
        }
        return Scores(means, better)


def _dice(a: np.ndarray, b: np.ndarray) -> float | None:
    """None where both are empty."""
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / total if total else None

"""Validation: segment whole cases with the inference engine and score the result."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.callbacks import CancelledCallback
from MaskSAMCore.data.case_cache import CaseSource
from MaskSAMCore.data.windows import IndexedCase
from MaskSAMCore.evaluation import dice_scores
from MaskSAMCore.inference.box_prompts import class_prompt
from MaskSAMCore.inference.decision import SLAB_VOXELS, RegionScores, filled
from MaskSAMCore.inference.device import choose_device
from MaskSAMCore.inference.embedding_cache import CACHE_BYTES, EmbeddingCache
from MaskSAMCore.inference.grid_sampler import GridSampler
from MaskSAMCore.inference.progress import Progress
from MaskSAMCore.inference.results import keep_largest_components
from MaskSAMCore.inference.runner import Runner
from MaskSAMCore.inference.scoring import Scorer
from MaskSAMCore.inference.settings import UNMIRRORED
from MaskSAMCore.inference.sliding_window import Shape
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
        known: class indices that are labelled in the reference of each case; None for all classes.
    """

    def __init__(
        self,
        cases: Sequence[CaseSource[IndexedCase]],
        class_names: Sequence[str],
        values: Sequence[int],
        known: Sequence[Collection[int]] | None = None,
    ) -> None:
        self.cases = cases
        self.class_names = class_names
        self.values = values
        everything = range(1, len(class_names) + 1)
        self.known = [everything] * len(cases) if known is None else known

    def score(
        self, model: Network, device: str, cancelled: CancelledCallback | None = None
    ) -> Scores:
        """Segment all cases with a network and return its scores.

        Raises:
            Cancelled: `cancelled`, which is polled before each window, returned True.
        """
        progress = Progress(cancelled=cancelled)
        runner = Runner(model, choose_device(device))
        classes = range(1, len(self.class_names) + 1)
        cleaned = _DiceTable(len(classes))
        tables = {weight: _DiceTable(len(classes)) for weight in BACKGROUND_WEIGHTS}
        for source, known in zip(self.cases, self.known, strict=True):
            case = source.open()
            assert case.reference is not None
            kept = CACHE_BYTES if model.config.needs_boxes else 0
            scorer = Scorer(runner, case.image, UNMIRRORED, EmbeddingCache(kept))
            scores = scorer.automatic(progress)
            changes = {}
            for index in classes if model.config.needs_boxes else ():
                boxes = slice_boxes(case.labelmap, index)
                prompt = class_prompt(index, boxes, len(case.labelmap))
                changes[index] = filled(scorer.edited(prompt, progress), prompt, scores)
            for index, change in changes.items():
                scores[index] = 0
                scores[index][change.region] = change.scores.to(scores.dtype)
            depth, rows, columns = case.reference.shape
            found = weighted_labelmaps(scores, (depth, rows, columns))
            for weight, table in tables.items():
                table.add(found[weight], case.reference, known)
            largest = found[BACKGROUND_WEIGHTS[0]]
            keep_largest_components(largest, classes)
            cleaned.add(largest, case.reference, known)
        plain = tables[BACKGROUND_WEIGHTS[0]]
        means, cleaned_means = plain.means(), cleaned.means()
        return Scores(
            dice={self.class_names[index]: dice for index, dice in means.items()},
            largest_component=tuple(
                self.values[index] for index in means if cleaned_means[index] > means[index]
            ),
            background_weight=max(tables, key=lambda weight: tables[weight].mean()),
        )


def weighted_labelmaps(scores: Tensor, shape: Shape) -> dict[float, NDArray[np.uint8]]:
    """Return the labelmap for each of `BACKGROUND_WEIGHTS`, in one pass over the scores.

    A weight above 1 only moves voxels to the background: those whose class does not have a higher
    score than the weighted background.

    Args:
        scores: (K + 1, depth, rows, columns) on the plan's grid.
        shape: (depth, rows, columns) of the labelmaps.
    """
    labelmaps = {weight: np.zeros(shape, np.uint8) for weight in BACKGROUND_WEIGHTS}
    step = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    for first in range(0, shape[0], step):
        region = slice(first, min(first + step, shape[0])), slice(0, shape[1]), slice(0, shape[2])
        winner, probability = RegionScores(scores, {}, shape, region).decide()
        sample = GridSampler(scores.shape[1:], shape, region)
        depth, rows, columns = sample.source
        inside = scores[:, depth, rows, columns]
        background = sample(inside[0])
        best = probability * sample(inside.sum(0, dtype=torch.float32))
        for weight, labelmap in labelmaps.items():
            lost = best <= weight * background
            chosen = winner if weight == 1 else winner.masked_fill(lost, 0)
            labelmap[region] = chosen.numpy()
    return labelmaps


def slice_boxes(labelmap: NDArray[np.integer], class_index: int) -> Iterator[NDArray[np.float64]]:
    """Yield the tight box of a class on each of its slices: (2, 3), lower and upper edges (depth,
    row, column)."""
    for depth, plane in enumerate(labelmap):
        rows, columns = np.nonzero(plane == class_index)
        if rows.size:
            lower = depth, rows.min(), columns.min()
            upper = depth + 1, rows.max() + 1, columns.max() + 1
            yield np.array([lower, upper], np.float64)


class _DiceTable:
    """Dice scores of the classes 1 to K, case by case."""

    def __init__(self, classes: int) -> None:
        self._scores: list[list[float]] = [[] for _ in range(classes)]

    def add(
        self,
        found: NDArray[np.integer],
        reference: NDArray[np.integer],
        known: Collection[int],
    ) -> None:
        """Add a case; a class that neither labelmap contains gets no score.

        Args:
            found: labelmap of class indices.
            reference: labelmap of the same shape.
            known: class indices that are labelled in the reference.
        """
        dice = dice_scores(found, reference, range(1, len(self._scores) + 1))
        for index, score in enumerate(dice, start=1):
            if index in known and not math.isnan(score):
                self._scores[index - 1].append(score)

    def means(self) -> dict[int, float]:
        """Return the mean score of each class that has scores, by its 0-based index."""
        return {i: float(np.mean(scores)) for i, scores in enumerate(self._scores) if scores}

    def mean(self) -> float:
        """Return the mean over the classes."""
        means = self.means()
        return sum(means.values()) / max(len(means), 1)

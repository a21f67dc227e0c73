"""A few slices of the output: scores interpolated to its voxels, and the choice of a class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from MaskSAMCore.inference.scoring import EditedScores
from MaskSAMCore.inference.sliding_window import Shape

# A voxel that a class with boxes leaves goes to another class only where that one had more than
# this share of the score that was lost.
SECOND_PLACE = 0.5


class Slab:
    """Some slices of the output grid.

    Both grids cover the same box of space: voxel edges 0 and n coincide along each axis.

    Args:
        scores: (K + 1, depth, rows, columns) on the plan's grid.
        edited: new scores by class index, on regions of the same grid.
        shape: of the output grid (the input's voxels in the plan's orientation).
        part: the slices of the output grid.
        background_weight: what the background is multiplied with, after what classes with boxes
            take from it.
    """

    def __init__(
        self,
        scores: Tensor,
        edited: Mapping[int, EditedScores],
        shape: Shape,
        part: slice,
        background_weight: float = 1.0,
    ) -> None:
        self._all = scores
        self._weight = background_weight
        self._edited = edited
        self._shape = shape
        depth = scores.shape[1]
        centres = (torch.arange(part.start, part.stop) + 0.5) * (depth / shape[0]) - 0.5
        centres = centres.clamp(0, depth - 1)
        below = centres.floor().long()
        above = centres.ceil().long()
        self._source = slice(int(below[0]), int(above[-1]) + 1)
        self._below, self._above = below - self._source.start, above - self._source.start
        self._share = (centres - below).float()[:, None, None]
        self._background = self.score(0)
        self._gain: Tensor | None = None
        if edited:
            self._weigh_changes()

    def _weigh_changes(self) -> None:
        """What the background gets from and gives to the classes with boxes."""
        gain = torch.zeros_like(self._background)
        for index in self._edited:
            change = self.new_score(index) - self.score(index)
            torch.maximum(gain, change, out=gain)
            torch.maximum(self._background, -SECOND_PLACE * change, out=self._background)
        self._gain = gain

    def score(self, index: int) -> Tensor:
        """(slices, rows, columns) float32: the automatic score of a class."""
        return self._interpolated(self._all[index, self._source].float())

    def new_score(self, index: int) -> Tensor:
        """The same from the class's boxes."""
        change = self._edited[index]
        source = torch.zeros(self._source.stop - self._source.start, *self._all.shape[2:])
        depth, rows, columns = change.region
        first, last = max(depth.start, self._source.start), min(depth.stop, self._source.stop)
        if first < last:
            place = slice(first - self._source.start, last - self._source.start)
            source[place, rows, columns] = change.scores[first - depth.start : last - depth.start]
        return self._interpolated(source)

    def decide(self) -> tuple[Tensor, Tensor]:
        """Class indices (int32) and their probabilities, both (slices, rows, columns)."""
        best = self._weight * self._background
        total = best.clone()
        label = torch.zeros(best.shape, dtype=torch.int32)
        for index in range(1, len(self._all)):
            if index not in self._edited:
                challenge(best, total, label, index, self.score(index))
        if self._gain is not None:
            left = self._weight * (self._background - self._gain).clamp_(min=0)
            total += left - self._weight * self._background
            best = torch.where(label == 0, left, best)
            for index in sorted(self._edited):
                challenge(best, total, label, index, self.new_score(index))
        return label, best / total.clamp_(min=torch.finfo(total.dtype).tiny)

    def probabilities(self) -> Iterator[Tensor]:
        """For each class, background first, its share of the sum of all."""
        total = sum(self._final_scores(), torch.zeros_like(self._background))
        nothing = total <= 0
        total[nothing] = 1
        for index, score in enumerate(self._final_scores()):
            yield torch.where(nothing, float(index == 0), score / total)

    def _final_scores(self) -> Iterator[Tensor]:
        background = self._background
        left = background if self._gain is None else (background - self._gain).clamp_(min=0)
        yield self._weight * left
        for index in range(1, len(self._all)):
            yield self.new_score(index) if index in self._edited else self.score(index)

    def _interpolated(self, source: Tensor) -> Tensor:
        """Source slices (n, rows, columns) to the slab's voxels, linearly."""
        if self._all.shape[1] != self._shape[0]:
            source = torch.lerp(source[self._below], source[self._above], self._share)
        if source.shape[1:] != self._shape[1:]:
            source = F.interpolate(source[None], self._shape[1:], mode="bilinear")[0]
        return source


def challenge(best: Tensor, total: Tensor, label: Tensor, index: int, score: Tensor) -> None:
    """Let a class take the voxels where its score beats the best so far, in place."""
    total += score
    label[score > best] = index
    torch.maximum(best, score, out=best)

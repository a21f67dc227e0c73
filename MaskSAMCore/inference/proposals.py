"""Where the network itself saw each class: boxes slice by slice, and one in 3D.

Windows overlap, and one that holds a part of a structure proposes a box around that part only. Each
box therefore counts with the blending weight of the window at its middle, times its probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.geometry import Box
from MaskSAMCore.inference.model_grid import ModelGrid
from MaskSAMCore.inference.sliding_window import Window

# A class is on a slice where it is more likely than not.
_PRESENT = 0.5


@dataclass(frozen=True)
class Proposal:
    """What the network proposed for a class.

    Attributes:
        box: around the boxes of its slices, in IJK voxel edges.
        confidence: mean of the confidences of its slices, 0 to 1.
        slices: the boxes of the single slices, each one slice of the plan's grid thick, in IJK
            voxel edges; in order of depth.
        slice_confidences: probability of the class on each of these slices.
    """

    box: Box
    confidence: float
    slices: tuple[Box, ...]
    slice_confidences: tuple[float, ...]


def likely_boxes(class_logits: Tensor, boxes: Tensor) -> Tensor:
    """For each class the box of the query that most likely shows it.

    Args:
        class_logits: (B, N, T, K + 2).
        boxes: (B, N, T, 4), normalised x1 y1 x2 y2.

    Returns:
        (B, K, T, 5): the boxes and their probabilities.
    """
    chance = class_logits.float().softmax(-1)[..., 1:-1]
    best, query = chance.max(1)  # (B, T, K)
    chosen = boxes.float().gather(1, query.transpose(1, 2)[..., None].expand(-1, -1, -1, 4))
    return torch.cat([chosen, best.transpose(1, 2)[..., None]], -1)


class ProposalSum:
    """Gathers boxes over windows and mirrored passes.

    Args:
        classes: K.
        depth: slices of the plan's grid.
    """

    def __init__(self, classes: int, depth: int) -> None:
        self._edges = np.zeros((classes, depth, 4))
        self._chance = np.zeros((classes, depth))
        self._weight = np.zeros((classes, depth))

    def add(self, boxes: Tensor, window: Window, flips: Sequence[int]) -> None:
        """The boxes of one window, (K, T, 5), seen mirrored along some axes of (T, H, W)."""
        slices, height, width = window.size
        values: NDArray[Any] = boxes.double().cpu().numpy().copy()
        if 0 in flips:
            values = values[:, ::-1]
        if 1 in flips:
            values[..., [1, 3]] = 1 - values[..., [3, 1]]
        if 2 in flips:
            values[..., [0, 2]] = 1 - values[..., [2, 0]]
        edges = values[..., :4] * np.array([width, height, width, height])
        depth, rows, columns = (weights.numpy() for weights in window.weights)
        column = np.clip(edges[..., [0, 2]].mean(-1).astype(int), 0, width - 1)
        row = np.clip(edges[..., [1, 3]].mean(-1).astype(int), 0, height - 1)
        weight = depth[:slices] * rows[row] * columns[column]
        inside, covered = window.inside[0], window.image[0]
        start = np.array([window.start[2], window.start[1]] * 2)
        weight, chance = weight[:, inside], values[:, inside, 4]
        self._weight[:, covered] += weight
        self._chance[:, covered] += weight * chance
        self._edges[:, covered] += (weight * chance)[..., None] * (edges[:, inside] + start)

    def proposals(self, names: Sequence[str], grid: ModelGrid) -> tuple[Proposal | None, ...]:
        """One for each class, None where no slice shows it."""
        return tuple(self._proposal(index, name, grid) for index, name in enumerate(names))

    def _proposal(self, index: int, name: str, grid: ModelGrid) -> Proposal | None:
        score = self._chance[index] / np.maximum(self._weight[index], 1e-12)
        shown = np.flatnonzero(score > _PRESENT)
        if shown.size == 0:
            return None
        size = np.array([grid.shape[2], grid.shape[1]] * 2)
        edges = self._edges[index, shown] / self._chance[index, shown, None]
        edges = np.clip(edges, 0, size)
        in_plan = np.empty((shown.size, 2, 3))
        in_plan[:, 0, 0], in_plan[:, 1, 0] = shown, shown + 1
        in_plan[:, 0, 1:], in_plan[:, 1, 1:] = edges[:, [1, 0]], edges[:, [3, 2]]
        slices = tuple(grid.from_plan(one, name) for one in in_plan)
        # A slice that is half as sure as the surest must not stretch the box in space.
        sure = in_plan[score[shown] >= score[shown].max() / 2]
        around = np.stack([sure[:, 0].min(0), sure[:, 1].max(0)])
        scores = tuple(float(value) for value in score[shown])
        mean = float(np.mean(score[shown][score[shown] >= score[shown].max() / 2]))
        return Proposal(grid.from_plan(around, name), mean, slices, scores)

"""Boxes that the network predicts for each class, slice by slice and in 3D.

Windows overlap, and a window that contains a part of a structure has a box around that part only.
The boxes of a slice are therefore averaged with the blending weight of the window at the centre of
the box, times the probability of the class.
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

# A class is on a slice if its probability there is above this.
_PRESENT = 0.5


@dataclass(frozen=True)
class Proposal:
    """Boxes that the network predicted for a class.

    Attributes:
        box: bounding box of the boxes of the slices, in IJK voxel edges.
        confidence: mean of the confidences of its slices, 0 to 1.
        slices: boxes of single slices of the plan's grid in order of depth, each one slice thick,
            in IJK voxel edges.
        slice_confidences: probability of the class on each of these slices.
    """

    box: Box
    confidence: float
    slices: tuple[Box, ...]
    slice_confidences: tuple[float, ...]


def likely_boxes(class_logits: Tensor, boxes: Tensor) -> Tensor:
    """Return for each class the box of the query that most likely shows it.

    Args:
        class_logits: (B, N, T, K + 2): background, the K classes, "no object".
        boxes: (B, N, T, 4), x1 y1 x2 y2 normalised to the window.

    Returns:
        (B, K, T, 5), the boxes and their probabilities.
    """
    probability = class_logits.float().softmax(-1)[..., 1:-1]
    best, query = probability.max(1)  # (B, T, K)
    chosen = boxes.float().gather(1, query.transpose(1, 2)[..., None].expand(-1, -1, -1, 4))
    return torch.cat([chosen, best.transpose(1, 2)[..., None]], -1)


class ProposalSum:
    """Weighted sums of the boxes of all windows and mirrored passes.

    Args:
        classes: K, the number of foreground classes.
        depth: number of slices of the plan's grid.
    """

    def __init__(self, classes: int, depth: int) -> None:
        self._edges = np.zeros((classes, depth, 4))
        self._probability = np.zeros((classes, depth))
        self._weight = np.zeros((classes, depth))

    def add(self, boxes: Tensor, window: Window, flips: Sequence[int]) -> None:
        """Add the boxes of one window.

        Args:
            boxes: (K, T, 5), see :func:`likely_boxes`.
            window: the window.
            flips: axes of (T, H, W) along which the window was mirrored.
        """
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
        weight, probability = weight[:, inside], values[:, inside, 4]
        self._weight[:, covered] += weight
        self._probability[:, covered] += weight * probability
        self._edges[:, covered] += (weight * probability)[..., None] * (edges[:, inside] + start)

    def proposals(self, names: Sequence[str], grid: ModelGrid) -> tuple[Proposal | None, ...]:
        """Return the proposal of each class, None for a class that is on no slice."""
        return tuple(self._proposal(index, name, grid) for index, name in enumerate(names))

    def _proposal(self, index: int, name: str, grid: ModelGrid) -> Proposal | None:
        probability = self._probability[index] / np.maximum(self._weight[index], 1e-12)
        shown = np.flatnonzero(probability > _PRESENT)
        if shown.size == 0:
            return None
        probability = probability[shown]
        size = np.array([grid.shape[2], grid.shape[1]] * 2)
        edges = self._edges[index, shown] / self._probability[index, shown, None]
        edges = np.clip(edges, 0, size)
        in_plan = np.empty((shown.size, 2, 3))
        in_plan[:, 0, 0], in_plan[:, 1, 0] = shown, shown + 1
        in_plan[:, 0, 1:], in_plan[:, 1, 1:] = edges[:, [1, 0]], edges[:, [3, 2]]
        slices = tuple(grid.from_plan(box, name) for box in in_plan)
        # Slices of less than half the largest probability must not enlarge the box in 3D.
        confident = probability >= probability.max() / 2
        lower, upper = in_plan[confident, 0].min(0), in_plan[confident, 1].max(0)
        return Proposal(
            grid.from_plan(np.stack([lower, upper]), name),
            float(np.mean(probability[confident])),
            slices,
            tuple(float(value) for value in probability),
        )

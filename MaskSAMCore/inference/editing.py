"""The labels after a person's boxes, from the automatic ones: only the classes with boxes change.

The rule where nothing may be overwritten:

- Voxels that the automatic result gives to a class without boxes stay with it.
- Everywhere else, classes with boxes and the background are decided anew: what a class gains over
  its automatic score it gains from the background, so that against background it wins above one
  half (with a weight w of the background, as everywhere, above w / (1 + w)); among one another the
  higher score wins.
- A voxel that a class leaves, and no other class with boxes takes, is background.

So the work grows with the boxes, not with the volume or the number of classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.inference.decision import SECOND_PLACE, challenge
from MaskSAMCore.inference.scoring import EditedScores
from MaskSAMCore.inference.sliding_window import Region, Shape, hull


class Sampler:
    """Values of the plan's grid at some voxels of the output's, linearly.

    Both grids cover the same box of space: voxel edges 0 and n coincide along each axis.

    Args:
        source: shape of the plan's grid.
        target: shape of the output's.
        region: the voxels of the output.

    Attributes:
        source: the part of the plan's grid that they depend on.
    """

    def __init__(self, source: Sequence[int], target: Sequence[int], region: Region) -> None:
        self._identical = tuple(source) == tuple(target)
        self._axes = []
        parts = []
        for n, m, part in zip(source, target, region, strict=True):
            centres = (torch.arange(part.start, part.stop) + 0.5) * (n / m) - 0.5
            centres = centres.clamp(0, n - 1)
            below, above = centres.floor().long(), centres.ceil().long()
            first = int(below[0])
            parts.append(slice(first, int(above[-1]) + 1))
            self._axes.append((below - first, above - first, (centres - below).float()))
        self.source: Region = (parts[0], parts[1], parts[2])

    def __call__(self, values: Tensor) -> Tensor:
        """Values (depth, rows, columns) of the part `source`, at the voxels of the region."""
        values = values.float()
        if self._identical:
            return values
        for axis, (below, above, share) in enumerate(self._axes):
            weights = share.view([-1 if a == axis else 1 for a in range(3)])
            values = torch.lerp(
                values.index_select(axis, below), values.index_select(axis, above), weights
            )
        return values


def reached(region: Region, source: Sequence[int], target: Sequence[int]) -> Region:
    """The voxels of the output whose values may depend on a part of the plan's grid."""
    parts = []
    for part, n, m in zip(region, source, target, strict=True):
        first = int(np.floor((part.start - 0.5) * m / n - 0.5))
        last = int(np.ceil((part.stop + 0.5) * m / n - 0.5))
        parts.append(slice(max(first, 0), min(last + 1, m)))
    return parts[0], parts[1], parts[2]


def edit_labels(
    scores: Tensor,
    edited: Mapping[int, EditedScores],
    values: NDArray[Any],
    kept: NDArray[Any],
    labelmap: NDArray[Any],
    background_weight: float = 1.0,
) -> tuple[dict[int, float], Region | None]:
    """Decide the classes with boxes anew and write them; all other labels stay as they are.

    Args:
        scores: (K + 1, depth, rows, columns), the automatic ones on the plan's grid.
        edited: new scores of the classes with boxes, by class index.
        values: (K + 1,), the label value of each class.
        kept: (depth, rows, columns) of the output: the automatic labels before post-processing.
        labelmap: the same after it; written. Voxels of classes with boxes are background in it.
        background_weight: as in ``export``.

    Returns:
        The mean probability of each class with boxes over its voxels, by class index, 0 where it
        has none; and the part of the output that they may have voxels in.
    """
    shape: Shape = labelmap.shape  # type: ignore[assignment]
    regions = [change.region for change in edited.values() if change.scores.numel()]
    if not regions:
        return dict.fromkeys(edited, 0.0), None
    region = reached(hull(regions), scores.shape[1:], shape)
    label, share = _decide(scores, edited, shape, region, background_weight)
    free = np.append(values[sorted(edited)], 0)
    taken = ~np.isin(kept[region], free)
    label[torch.from_numpy(taken)] = 0
    found = label.numpy()
    part = labelmap[region]
    part[found > 0] = values[found[found > 0]]
    means = {}
    for index in edited:
        mine = share[label == index]
        means[index] = float(mine.mean()) if mine.numel() else 0.0
    return means, region


def _decide(
    scores: Tensor,
    edited: Mapping[int, EditedScores],
    shape: Shape,
    region: Region,
    background_weight: float,
) -> tuple[Tensor, Tensor]:
    """Indices of classes with boxes (int32, 0 for none) and their probabilities in a region."""
    sampler = Sampler(scores.shape[1:], shape, region)
    depth, rows, columns = sampler.source
    automatic = scores[:, depth, rows, columns]
    background = sampler(automatic[0])
    others = sampler(automatic.sum(0, dtype=torch.float32)) - background
    gain = torch.zeros_like(background)
    new = {}
    for index, change in sorted(edited.items()):
        old = sampler(automatic[index])
        new[index] = sampler(_placed(change, sampler.source))
        others -= old
        difference = new[index] - old
        torch.maximum(gain, difference, out=gain)
        torch.maximum(background, -SECOND_PLACE * difference, out=background)
    best = background_weight * (background - gain).clamp_(min=0)
    total = best + others
    label = torch.zeros(best.shape, dtype=torch.int32)
    for index, score in new.items():
        challenge(best, total, label, index, score)
    return label, best / total.clamp_(min=torch.finfo(total.dtype).tiny)


def _placed(change: EditedScores, part: Region) -> Tensor:
    """New scores on a part of the plan's grid, zero where they have none."""
    values = torch.zeros([axis.stop - axis.start for axis in part])
    inside = change.cropped(part)
    place = tuple(
        slice(a.start - b.start, a.stop - b.start) for a, b in zip(inside.region, part, strict=True)
    )
    if inside.scores.numel():
        values[place] = inside.scores
    return values

"""Growth of a class towards the sides of the boxes that a user drew for it.

A user draws a box that the class touches on each side (Lempitsky et al., *Image segmentation with a
bounding box prior*, ICCV 2009), but a network may stop short of a side. The logits of the class are
then raised near that side, by what the best voxel on it lacks to be one of the class, and by less
and less further inside. A side on which even the best voxel has hardly any score is left alone: the
box is too large there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from MaskSAMCore.inference.box_prompts import COLUMNS, DEPTH, ROWS, ClassPrompt, crossed_slices
from MaskSAMCore.inference.sliding_window import Region

# The best voxel on a side needs at least this score for the class to grow towards the side, where a
# box in space bounds the class and where the box is that of the class on a slice.
LEAST_SCORE, LEAST_SCORE_ON_SLICE = 0.018, 0.0003
# Logits are raised up to so many voxels from a side, and not beyond the middle of the box.
REACH = 4
# Difference by which a raised score exceeds one half, as a logit.
_MARGIN = 1e-3
_TINY = 1e-6


def fill_boxes(scores: Tensor, region: Region, prompt: ClassPrompt) -> Tensor:
    """Return the scores of a class with boxes, raised near the sides that it does not touch.

    Each single slice is filled by itself; slices next to one another that boxes in space cross are
    filled together.

    Args:
        scores: (depth, rows, columns) of a region that contains the boxes, 0 outside them.
        region: the region of the plan's grid.
        prompt: the boxes.
    """
    filled = scores.clone()
    if not scores.numel():
        return filled
    for part, least in _filled_parts(prompt, region):
        filled[part] = _raised(scores[part], least)
    return filled


def _filled_parts(prompt: ClassPrompt, region: Region) -> Iterator[tuple[Region, float]]:
    """Yield the part of a region that each box covers, and the least score on its sides."""
    edges, present, exact = (
        values[region[DEPTH]] for values in (prompt.edges, prompt.present, prompt.exact)
    )
    start = 0
    while start < len(present):
        stop = start + 1
        if present[start]:
            loose = not exact[start]
            while loose and stop < len(present) and present[stop] and not exact[stop]:
                stop += 1
            low, high = edges[start:stop, :2].min(0), edges[start:stop, 2:].max(0)
            columns, rows = (
                crossed_slices(lower - part.start, upper - part.start, part.stop - part.start)
                for lower, upper, part in zip(
                    low, high, (region[COLUMNS], region[ROWS]), strict=True
                )
            )
            least = LEAST_SCORE if loose else LEAST_SCORE_ON_SLICE
            yield (slice(start, stop), rows, columns), least
        start = stop


def _raised(scores: Tensor, least: float) -> Tensor:
    """Return the scores (depth, rows, columns) of the voxels in a box, raised near its sides.

    Args:
        scores: scores before, 0 for voxels that cannot be of the class.
        least: score that the best voxel on a side must have.
    """
    bias = torch.zeros_like(scores)
    for axis, length in enumerate(scores.shape):
        # The two sides of a single slice are the slice.
        for side in sorted({0, length - 1}) if axis != DEPTH or length > 1 else ():
            best = float(scores.select(axis, side).max())
            if least <= best < 0.5:
                lacking = math.log((1 - best) / best) + _MARGIN
                distance = (torch.arange(length) - side).abs() / min(REACH, length / 2)
                weights = lacking * (1 - distance).clamp_(min=0)
                bias += weights.reshape([-1 if a == axis else 1 for a in range(3)])
    raised = torch.sigmoid(torch.logit(scores.clamp(_TINY, 1 - _TINY)) + bias)
    return torch.where((scores > 0) & (bias > 0), torch.maximum(raised, scores), scores)

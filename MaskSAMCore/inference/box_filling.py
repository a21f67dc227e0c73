"""Growth of a class towards the sides of the boxes that a user drew for it.

A user draws a box that the class touches on each side (Lempitsky et al., *Image segmentation with a
bounding box prior*, ICCV 2009), but a network may stop short of a side. The logits of the class are
then raised near that side: on the side by the amount that its best voxel lacks to belong to the
class, and by less and less further inside.

A side on which even the best voxel has hardly any score was either intended or drawn too far out.
It counts as intended if the class touches most other sides, as after one side was dragged, or if
the box belongs to a single slice. The tip of the class is then stretched to the side, with scores
above those of all other classes, however high these are. A side drawn too far out has no effect.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from MaskSAMCore.inference.box_prompts import COLUMNS, DEPTH, ROWS, ClassPrompt, crossed_slices
from MaskSAMCore.inference.sliding_window import Region

# Lowest score of the best voxel on a side with which the class grows towards the side: of a box in
# space, which only bounds the class, and of the box of the class on a slice.
LEAST_SCORE, LEAST_SCORE_ON_SLICE = 0.018, 0.0003
# Logits are raised up to this many voxels from a side, and not beyond the middle of the box.
REACH = 4
# Logit of the best voxel on a side after raising, so that its score exceeds one half.
_MARGIN = 1e-3
_TINY = 1e-6
# Largest score of a class where another one wins.
_LOST = 0.499
# Voxels between the end of a class and a side above which the class is stretched to the side, and
# above which it does not touch the side.
_CLOSE, _TOUCHING = 0.2, 0.5
# Largest number of untouched sides that count as intended: of a box in space, and of the box of a
# slice (all four sides).
_MOST_MEANT, _MOST_MEANT_ON_SLICE = 2, 4
# Largest length in voxels of the tip of a class, and the largest factor by which it is stretched.
_TIP, _MOST_TIMES = 2.0, 2.5
# Margin of a stretched tip over the best other class: the tip must still exceed it where scores are
# interpolated between the tip and its neighbours, which are not raised.
_MARGIN_OVER_OTHERS = 0.1
# The tip consists of lines of voxels that end at most this many voxels before the class ends.
_BLUNT = 1


class _Part(NamedTuple):
    """Voxels that a box covers.

    Attributes:
        region: part of the scores that the box covers.
        sides: lower and upper side of the box along each axis, in voxel edges of the part.
        least: score that the best voxel on a side needs for the class to grow towards it.
        most_meant: largest number of untouched sides that count as intended.
    """

    region: Region
    sides: tuple[tuple[float, float], ...]
    least: float
    most_meant: int


def fill_boxes(
    scores: Tensor, region: Region, prompt: ClassPrompt, others: Tensor | None = None
) -> Tensor:
    """Return the scores of a class with boxes, raised near the sides that it does not touch.

    Each slice with a box of its own is filled separately; neighbouring slices that boxes in space
    cross are filled together.

    Args:
        scores: (depth, rows, columns) of a region that contains the boxes, 0 outside them.
        region: the region of the plan's grid.
        prompt: boxes of the class.
        others: (depth, rows, columns) of the region, best automatic score of the other classes;
            None counts as 0.

    Returns:
        Scores (depth, rows, columns), above 1 where a stretched tip takes voxels from a class that
        is sure of them.
    """
    filled = scores.clone()
    if not scores.numel():
        return filled
    best_other = torch.zeros_like(scores) if others is None else others
    for part in _filled_parts(prompt, region):
        before = scores[part.region]
        raised = _raised(before, part.least)
        gaps = [gap for *_, gap in _gaps(before, part.sides)]
        meant = sum(gap > _TOUCHING for gap in gaps) <= part.most_meant
        filled[part.region] = (
            _stretched(raised, part.sides, best_other[part.region]) if meant else raised
        )
    return filled


def _filled_parts(prompt: ClassPrompt, region: Region) -> Iterator[_Part]:
    """Yield the part of a region that each box covers."""
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
            slices = slice(start, stop)
            columns, rows = (
                crossed_slices(lower - part.start, upper - part.start, part.stop - part.start)
                for lower, upper, part in zip(
                    low, high, (region[COLUMNS], region[ROWS]), strict=True
                )
            )
            ends = (
                (start, stop),
                (low[1] - region[ROWS].start, high[1] - region[ROWS].start),
                (low[0] - region[COLUMNS].start, high[0] - region[COLUMNS].start),
            )
            covered = slices, rows, columns
            sides = tuple(
                (max(lower - part.start, 0.0), min(upper, part.stop) - part.start)
                for (lower, upper), part in zip(ends, covered, strict=True)
            )
            yield _Part(
                covered,
                sides,
                LEAST_SCORE if loose else LEAST_SCORE_ON_SLICE,
                _MOST_MEANT if loose else _MOST_MEANT_ON_SLICE,
            )
        start = stop


def _raised(scores: Tensor, least: float) -> Tensor:
    """Return the scores (depth, rows, columns) of the voxels in a box, raised near its sides.

    Args:
        scores: scores before, 0 for voxels that cannot be of the class.
        least: score that the best voxel on a side must have.
    """
    bias = torch.zeros_like(scores)
    for axis, length in enumerate(scores.shape):
        # A single slice has no sides along depth.
        for side in sorted({0, length - 1}) if axis != DEPTH or length > 1 else ():
            best = float(scores.select(axis, side).max())
            if least <= best < 0.5:
                lacking = math.log((1 - best) / best) + _MARGIN
                distance = (torch.arange(length) - side).abs() / min(REACH, length / 2)
                weights = lacking * (1 - distance).clamp_(min=0)
                bias += weights.reshape([-1 if a == axis else 1 for a in range(3)])
    raised = torch.sigmoid(torch.logit(scores.clamp(_TINY, 1 - _TINY)) + bias)
    return torch.where((scores > 0) & (bias > 0), torch.maximum(raised, scores), scores)


class _Gap(NamedTuple):
    """Side of a box that a class does not reach.

    Attributes:
        axis: axis that the side is perpendicular to.
        step: 1 for the upper side, -1 for the lower one.
        voxel: last voxel of the class in this direction.
        end: end of the class in this direction, in voxel edges.
        length: voxels of the class along the axis.
        gap: voxels between the end of the class and the side.
    """

    axis: int
    step: int
    voxel: int
    end: float
    length: int
    gap: float


def _gaps(scores: Tensor, sides: Sequence[tuple[float, float]]) -> Iterator[_Gap]:
    """Yield the gaps between a class and the sides of its box.

    Args:
        scores: (depth, rows, columns) of the voxels in the box.
        sides: lower and upper side of the box along each axis, in voxel edges.
    """
    for axis, ends in enumerate(sides):
        profile = scores.amax([other for other in range(3) if other != axis])
        shown = (profile >= 0.5).nonzero()[:, 0]
        # A box has no sides along an axis with one voxel, such as the depth of a single slice.
        if len(profile) < 2 or not len(shown):
            continue
        for step, voxel, side in ((-1, int(shown[0]), ends[0]), (1, int(shown[-1]), ends[1])):
            end = _end(profile, voxel, step)
            yield _Gap(axis, step, voxel, end, len(shown), step * (side - end))


def _stretched(scores: Tensor, sides: Sequence[tuple[float, float]], others: Tensor) -> Tensor:
    """Return the scores (depth, rows, columns) of the voxels in a box, with the tips of the class
    stretched to the sides that it does not touch.

    Args:
        scores: scores before, 0 for voxels that cannot be of the class.
        sides: lower and upper side of the box along each axis, in voxel edges.
        others: best score of the other classes.
    """
    won = torch.where(scores > others, scores, scores.clamp(max=_LOST))
    for axis, step, voxel, end, length, gap in list(_gaps(won, sides)):
        tip = min(length / 2, _TIP)
        times = (tip + gap) / tip
        if gap > _CLOSE and times <= _MOST_TIMES:
            pivot = end - step * tip
            longer = _with_longer_tip(won, axis, step, voxel, pivot, times)
            grown = (longer >= 0.5) & (won < 0.5)
            longer = torch.where(grown, torch.maximum(longer, others + _MARGIN_OVER_OTHERS), longer)
            won = torch.where(longer > won, longer, won)
    return torch.maximum(won, scores)


def _end(profile: Tensor, voxel: int, step: int) -> float:
    """Return the place, in voxel edges, where a profile falls below one half after its last voxel
    above it.

    Beyond the box the profile is 0, and the class ends no later than the edge of its last voxel.
    """
    own, beyond = float(profile[voxel]), voxel + step
    next_one = float(profile[beyond]) if 0 <= beyond < len(profile) else 0.0
    share = (own - 0.5) / (own - next_one)
    return voxel + 0.5 + step * (share if next_one else min(share, 0.5))


def _with_longer_tip(
    scores: Tensor, axis: int, step: int, voxel: int, pivot: float, times: float
) -> Tensor:
    """Stretch the part of a class beyond a place along an axis, and return the scores.

    Args:
        scores: (depth, rows, columns).
        axis: axis along which the class is stretched.
        step: 1 towards the last voxel, -1 towards the first.
        voxel: last voxel of the class in this direction.
        pivot: place where the stretched part begins, in voxel edges.
        times: factor by which the part is stretched.
    """
    along = [-1 if other == axis else 1 for other in range(3)]
    places = torch.arange(scores.shape[axis]) + 0.5
    beyond = step * (places - pivot) > 0
    source = torch.where(beyond, pivot + (places - pivot) / times, places) - 0.5
    low = source.floor().clamp(0, len(places) - 1).long()
    high = (low + 1).clamp(max=len(places) - 1)
    share = (source - low).clamp(0, 1).reshape(along)
    longer = scores.index_select(axis, low) * (1 - share) + scores.index_select(axis, high) * share
    near = step * (torch.arange(len(places)) - voxel) >= -_BLUNT
    lines = ((scores >= 0.5) & near.reshape(along)).any(axis, keepdim=True)
    grows = (scores > 0) & beyond.reshape(along) & lines
    return torch.where(grows, torch.maximum(scores, longer), scores)

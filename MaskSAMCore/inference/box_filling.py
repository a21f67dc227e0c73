"""Growth of a class towards the sides of the boxes that a user drew for it.

A user draws a box that the class touches on each side (Lempitsky et al., *Image segmentation with a
bounding box prior*, ICCV 2009), but a network may stop short of a side. The logits of the class are
then raised near that side, by what the best voxel on it lacks to be one of the class, and by less
and less further inside.

A side on which even the best voxel has hardly any score is either drawn too far out or meant as it
is. It is meant where the class touches most other sides, as after a drag of one side, and on a
single slice: then the tip of the class is stretched to it, and its score there exceeds those of
other classes, however sure they are. Else it is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

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
# Largest score of a class where another one wins.
_LOST = 0.499
# A class that ends more voxels before a side is stretched to it, and does not touch a side that is
# further away.
_CLOSE, _TOUCHING = 0.2, 0.5
# Largest number of sides that the class does not touch and that are meant as they are: of a box in
# space, and all four of the box of a slice.
_MOST_MEANT, _MOST_MEANT_ON_SLICE = 2, 4
# The last voxels of a class along an axis, its tip, are stretched at most so many times as long.
_TIP, _MOST_TIMES = 2.0, 2.5
# A stretched tip exceeds the best other class by so much that it still does between its voxels and
# those beside it, which are not raised.
_MARGIN_OVER_OTHERS = 0.1
# The tip consists of lines of voxels that end at most so many voxels before the class does.
_BLUNT = 1


class _Part(NamedTuple):
    """Voxels that a box covers.

    Attributes:
        region: part of the scores.
        sides: lower and upper side of the box along each axis, in voxel edges of the part.
        least: score that the best voxel on a side needs for the class to grow towards it.
        most_meant: largest number of sides that the class does not touch and that are meant as they
            are.
    """

    region: Region
    sides: tuple[tuple[float, float], ...]
    least: float
    most_meant: int


def fill_boxes(
    scores: Tensor, region: Region, prompt: ClassPrompt, others: Tensor | None = None
) -> Tensor:
    """Return the scores of a class with boxes, larger near the sides that it does not touch.

    Each single slice is filled by itself; slices next to one another that boxes in space cross are
    filled together.

    Args:
        scores: (depth, rows, columns) of a region that contains the boxes, 0 outside them.
        region: the region of the plan's grid.
        prompt: the boxes.
        others: (depth, rows, columns) of the region, best automatic score of the other classes;
            None where there is none.

    Returns:
        (depth, rows, columns); they exceed 1 where a stretched tip takes voxels of a class that is
        sure of them.
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


class _Gap(NamedTuple):
    """Side of a box that a class does not reach.

    Attributes:
        axis: axis that the side is perpendicular to.
        step: 1 for the upper side, -1 for the lower one.
        voxel: last voxel of the class in this direction.
        end: where the class ends, in voxel edges.
        length: voxels of the class along the axis.
        gap: voxels between its end and the side.
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
        # The two sides of a single slice are the slice.
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
    """Return where a profile falls below one half beyond its last voxel above, in voxel edges.

    Beyond the box the profile is 0, but a class ends at the edge of its last voxel there.
    """
    own, beyond = float(profile[voxel]), voxel + step
    next_one = float(profile[beyond]) if 0 <= beyond < len(profile) else 0.0
    share = (own - 0.5) / (own - next_one)
    return voxel + 0.5 + step * (share if next_one else min(share, 0.5))


def _with_longer_tip(
    scores: Tensor, axis: int, step: int, voxel: int, pivot: float, times: float
) -> Tensor:
    """Return scores with the part of the class beyond a place along an axis stretched.

    Args:
        scores: (depth, rows, columns).
        axis: axis along which the class is stretched.
        step: 1 towards the last voxel, -1 towards the first.
        voxel: last voxel of the class in this direction.
        pivot: place that stays, in voxel edges.
        times: length of the stretched part over that before.
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

"""Decision rule: from class scores on the plan's grid to labels on the input's grid.

Scores are interpolated linearly to the voxels of the input, and each voxel gets the class with the
largest score, where the score of the background counts with a weight w. Boxes of the user, a
refiner and intensities change this as follows:

- The gain of a class with boxes over its automatic score is subtracted from the background. As
  without boxes, the class wins against the background above w / (1 + w), one half for w = 1.
- A voxel that a class with boxes loses becomes background, unless another class had more than
  `REASSIGN_RATIO` of the score that was lost, so that noise below the old score has no effect.
- Among classes with boxes, the first keeps a voxel unless another exceeds it by `TIE_TOLERANCE`,
  because the rounding of equal scores differs between processors.
- With `overwrite`, all classes compete. A voxel of a class without boxes may then go to a class
  with boxes, but never to another class without boxes or to the background.
- Where a refiner decides, its shares replace the scores of its classes. The scores of the other
  classes are scaled such that the best of them equals the refiner's share of all other classes.
- Where intensities count, the scores of all classes, with and without boxes, are sharpened at
  doubtful voxels before any of this, see :mod:`.sharpening`. Near the sides of its boxes, up to a
  voxel of its grid away, a class keeps the voxels that it has without intensities, so that it fills
  its boxes.
- Without `overwrite`, classes without boxes keep exactly their automatic voxels. Elsewhere only
  classes with boxes and the background compete, so that nothing outside the neighbourhood of the
  boxes depends on them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.inference.box_filling import fill_boxes
from MaskSAMCore.inference.box_prompts import ClassPrompt, class_prompt, crossed_slices
from MaskSAMCore.inference.grid_sampler import GridSampler
from MaskSAMCore.inference.intensity_model import IntensityModel
from MaskSAMCore.inference.parallel import cpu_threads, results_in_order
from MaskSAMCore.inference.progress import Progress
from MaskSAMCore.inference.scoring import EditedScores, Shares
from MaskSAMCore.inference.sharpening import Sharpening
from MaskSAMCore.inference.sliding_window import Region, Shape, hull
from MaskSAMCore.modeling.layers import continued
from MaskSAMCore.modeling.refined.network import decided_shares, others_factor

# A class without boxes gets a voxel that a class with boxes lost only if its score there is more
# than this share of the score that was lost.
REASSIGN_RATIO = 0.5
# Scores of classes with boxes, between 0 and about 1, that differ by less are equal.
TIE_TOLERANCE = 1e-5
# Number of voxels of the plan's grid that a score is interpolated between.
CORNERS = 8
# Voxels whose best class has more than this share of the scores are not sharpened.
SURE = 0.85
# Memory that sharpening takes, as a number of arrays of the size of a region.
SHARPENING_ARRAYS = 8
# Voxels that are decided together, counted on the larger grid: 32 MiB for each float32 array.
SLAB_VOXELS = 1 << 23


class RegionScores:
    """Scores of all classes at the voxels of a region of the output's grid.

    Args:
        scores: (K + 1, depth, rows, columns), automatic scores on the plan's grid.
        edited: new scores of the classes with boxes, by class index.
        shape: (depth, rows, columns) of the output's grid.
        region: voxels of the output's grid.
        background_weight: factor of the background's scores.
        shares: shares of the classes that a refiner decides, or None.
        intensities: intensities of the classes, which sharpen the scores, or None.
    """

    def __init__(
        self,
        scores: Tensor,
        edited: Mapping[int, EditedScores],
        shape: Shape,
        region: Region,
        background_weight: float = 1.0,
        shares: Shares | None = None,
        intensities: IntensityModel | None = None,
    ) -> None:
        self._all_scores, self._shape, self._region = scores, shape, region
        self._sample = GridSampler(scores.shape[1:], shape, region)
        depth, rows, columns = self._sample.source
        self._scores = scores[:, depth, rows, columns]
        self._weight = background_weight
        # Shares of the refined classes, and the factor of the other classes' scores.
        self._refined: dict[int, Tensor] = {}
        self._decides = self._factor = torch.ones(())
        self._edited: dict[int, Tensor] = {}
        self._sharpened: Sharpening | None = None
        # Best scores and their classes before sharpening; None if boxes or a refiner change them.
        self._plain: tuple[Tensor, Tensor] | None = None
        if intensities is not None:
            self._plain, self._sharpened = self._sharpen(intensities, edited, shares)
        if edited or shares is not None:
            self._plain = None
        if shares is not None:
            self._refine(shares)
        self._edited = {
            index: self._boxed(index, change) for index, change in sorted(edited.items())
        }
        self._background = self._automatic(0)
        self._gain: Tensor | None = None
        if edited:
            self._gain = torch.zeros_like(self._background)
            for index, score in self._edited.items():
                change = score - self._automatic(index)
                torch.maximum(self._gain, change, out=self._gain)
                # Not in place: without resampling, the background is a view of the scores.
                self._background = torch.maximum(self._background, -REASSIGN_RATIO * change)

    def _sharpen(
        self,
        intensities: IntensityModel,
        edited: Mapping[int, EditedScores],
        shares: Shares | None,
    ) -> tuple[tuple[Tensor, Tensor], Sharpening]:
        """Return the best scores and their classes before sharpening, and the sharpened scores of
        doubtful voxels."""
        background = self._weight * self._automatic(0)
        best, winner = self._best_without_boxes(background)
        total = background + self._sum_without_boxes()
        doubtful = best < SURE * total
        if edited:
            doubtful &= ~self._held_by_boxes(edited, shares)
        sharpened = Sharpening(
            intensities, self._scores, self._sample, doubtful, self._region, self._shape
        )
        return (best, winner), sharpened

    def _held_by_boxes(self, edited: Mapping[int, EditedScores], shares: Shares | None) -> Tensor:
        """Return the voxels near the sides of boxes that the class of the boxes wins without
        intensities.

        Args:
            edited: new scores of the classes with boxes.
            shares: shares of the classes that a refiner decides, or None.
        """
        plain = RegionScores(
            self._all_scores, edited, self._shape, self._region, self._weight, shares
        )
        winner, _ = plain.decide()
        held = torch.zeros(winner.shape, dtype=torch.bool)
        for index, change in edited.items():
            if change.boxes is not None:
                held |= (winner == index) & self._near_sides(change)
        return held

    def _near_sides(self, change: EditedScores) -> Tensor:
        """Return the voxels of the region inside the boxes of a class, no further from a side than
        a voxel of the grid of its scores."""
        scale = np.divide(self._shape, change.shape or self._all_scores.shape[1:])
        reach = [math.ceil(factor) for factor in scale]
        wider, own = [], []
        for part, size, distance in zip(self._region, self._shape, reach, strict=True):
            wider.append(slice(max(part.start - distance, 0), min(part.stop + distance, size)))
            own.append(slice(part.start - wider[-1].start, part.stop - wider[-1].start))
        inside = self._inside(change.boxes * scale, (wider[0], wider[1], wider[2]))
        deep = inside[None]
        for axis, distance in enumerate(reach):
            window = [2 * distance + 1 if other == axis else 1 for other in range(3)]
            # A minimum filter, whose padding does not make faces of the volume sides of a box.
            deep = -F.max_pool3d(-deep, window, 1, [n // 2 for n in window])
        return (inside > deep[0])[tuple(own)]

    def _refine(self, shares: Shares) -> None:
        """Take the decisions of a refiner."""
        values = shares.values
        sample = GridSampler(values.shape[1:], self._shape, self._region)
        found = torch.stack([sample(share[sample.source]) for share in values])
        self._decides, (others, *own) = decided_shares(found)
        self._refined = dict(zip(shares.classes, own, strict=True))
        best, _ = self._best_without_boxes(self._automatic(0))
        total = self._sample(self._scores.sum(0, dtype=torch.float32))
        self._factor = others_factor(self._decides, others, best, total)

    def decide(self, overwrite: bool = True) -> tuple[Tensor, Tensor]:
        """Apply the decision rule.

        Args:
            overwrite: False lets only the background and classes with boxes compete.

        Returns:
            int32 class indices and float32 probabilities of these classes, both (depth, rows,
            columns).
        """
        if overwrite:
            best, total, winner = self._decide_without_boxes()
            if self._edited:
                remaining = self._remaining_background()
                total += remaining - self._weight * self._background
                best = torch.where(winner == 0, remaining, best)
        else:
            best = self._remaining_background()
            total = best + self._sum_without_boxes()
            winner = torch.zeros(best.shape, dtype=torch.int32)
        boxed = torch.zeros(best.shape, dtype=torch.bool)
        for index, score in self._edited.items():
            total += score
            boxed |= update_argmax(best, winner, index, score, TIE_TOLERANCE * boxed)
        return winner, best / total.clamp_(min=torch.finfo(total.dtype).tiny)

    def best_other(self, index: int) -> Tensor:
        """Return the best score (depth, rows, columns) of the foreground classes without boxes,
        except the class ``index``."""
        best, _ = self._best_without_boxes(torch.zeros_like(self._background), without=index)
        for other in self._refined.keys() - self._edited.keys() - {index}:
            torch.maximum(best, self._automatic(other), out=best)
        return best

    def exceeds_kept(self, winner: Tensor, kept: Tensor) -> Tensor:
        """Return where a class with boxes has a larger score than the class that keeps the voxel.

        Args:
            winner: index (depth, rows, columns) of the class with boxes, 0 for none.
            kept: index (depth, rows, columns) of the class that keeps the voxel, the best of those
                without boxes; 0 for none.
        """
        exceeds = torch.zeros(winner.shape, dtype=torch.bool)
        voxels = ((winner > 0) & (kept > 0)).nonzero()
        for part in voxels.split(SLAB_VOXELS // CORNERS):
            place = tuple(part.unbind(1))
            best = self._automatic_at(kept[place].long(), part)
            for index, score in self._edited.items():
                exceeds[place] |= (winner[place] == index) & (score[place] > best)
        return exceeds

    def probabilities(self) -> Iterator[Tensor]:
        """Yield the probabilities of each class, background first, as (depth, rows, columns)."""
        total = sum(self._final_scores(), torch.zeros_like(self._background))
        nothing = total <= 0
        total[nothing] = 1
        for index, score in enumerate(self._final_scores()):
            yield torch.where(nothing, float(index == 0), score / total)

    def _boxed(self, index: int, change: EditedScores) -> Tensor:
        """Return the new scores of a class, which end exactly at its boxes.

        The scores are continued from the outermost voxel centres in a box to its sides, because
        zeros beyond them would move the outline of the class inwards.
        """
        grid = change.shape or self._all_scores.shape[1:]
        sample = self._sample
        if change.shape is not None:
            sample = GridSampler(grid, self._shape, self._region)
        if change.boxes is None:
            score = sample(_placed(change, sample.source))
        else:
            score = sample(_placed(_continued(change, grid), sample.source))
            score *= self._inside(change.boxes * np.divide(self._shape, grid), self._region)
        if self._sharpened is None or index in self._refined:
            return score
        return self._sharpened.of_boxes(index, score)

    def _inside(self, boxes: NDArray[np.float64], region: Region) -> Tensor:
        """Return 1 for the voxels of a region in the boxes of a class, united slice by slice, and 0
        for all others.

        Args:
            boxes: (M, 2, 3) on the output's grid.
            region: voxels of the output's grid.
        """
        prompt = class_prompt(0, boxes, self._shape[0])
        depth, rows, columns = region
        inside = torch.zeros(*(part.stop - part.start for part in region))
        for index in np.flatnonzero(prompt.present[depth]):
            x1, y1, x2, y2 = prompt.edges[depth.start + index]
            own_rows = _inner(crossed_slices(y1, y2, self._shape[1]), rows)
            own_columns = _inner(crossed_slices(x1, x2, self._shape[2]), columns)
            inside[index, own_rows, own_columns] = 1
        return inside

    def _automatic(self, index: int) -> Tensor:
        score = self._sample(self._scores[index])
        if self._sharpened is not None:
            score = self._sharpened.of_class(index, score)
        if index in self._refined:
            return torch.where(self._decides, self._refined[index], score)
        return score * self._factor if self._refined else score

    def _automatic_at(self, index: Tensor, voxels: Tensor) -> Tensor:
        """Return the automatic scores (N,) of one class per voxel (N,) at the voxels (N, 3)."""
        scores = self._sample.picked(self._scores, index, voxels)
        if self._sharpened is not None:
            scores = self._sharpened.of_voxels(index, voxels, scores)
        if not self._refined:
            return scores
        place = tuple(voxels.unbind(1))
        decides = self._decides[place]
        scores *= torch.where(decides, self._factor[place], 1.0)
        for refined, share in self._refined.items():
            scores = torch.where((index == refined) & decides, share[place], scores)
        return scores

    def _remaining_background(self) -> Tensor:
        """Return the weighted background less the largest gain of a class with boxes."""
        if self._gain is None:
            return self._weight * self._background
        return self._weight * (self._background - self._gain).clamp_(min=0)

    def _decide_without_boxes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best scores, the sums of the scores and the indices of the best classes, for
        the classes without boxes."""
        best, winner = self._best_without_boxes(self._weight * self._background)
        total = self._weight * self._background + self._sum_without_boxes()
        for index in sorted(self._refined.keys() - self._edited.keys()):
            update_argmax(best, winner, index, self._automatic(index))
        return best, total, winner

    def _best_without_boxes(self, background: Tensor, without: int = 0) -> tuple[Tensor, Tensor]:
        """Return the best scores and the class indices among the background and the classes that
        neither have boxes nor are refined, except the class ``without`` (0 excludes none)."""
        if self._plain is not None and not without:
            best, winner = (values.clone() for values in self._plain)
        else:
            best, winner = self._best_before_sharpening(background, without)
        if self._sharpened is not None:
            skipped = {without, *self._edited, *self._refined}
            self._sharpened.decide(background, best, winner, skipped, self._factor)
        return best, winner

    def _best_before_sharpening(self, background: Tensor, without: int) -> tuple[Tensor, Tensor]:
        best = background.clone()
        winner = torch.zeros(best.shape, dtype=torch.int32)
        for index, region in self._candidates():
            if index == without:
                continue
            inside = tuple(
                slice(part.start - whole.start, part.stop - whole.start)
                for part, whole in zip(region, self._region, strict=True)
            )
            sample = GridSampler(self._all_scores.shape[1:], self._shape, region)
            score = sample(self._all_scores[index][sample.source])
            if self._factor.ndim:
                score = score * self._factor[inside]
            update_argmax(best[inside], winner[inside], index, score)
        return best, winner

    def _candidates(self) -> Iterator[tuple[int, Region]]:
        """Yield the classes without boxes that can be the best somewhere, with the region of the
        output's grid where they can; refined classes are left out.

        A score is interpolated between at most 8 voxels of the plan's grid. The best of the
        interpolated scores is at least 1/8 of the mean of the best scores there, so that a class
        below this share at all 8 voxels is not the best between them.
        """
        own = [index for index in range(len(self._scores)) if index not in self._refined]
        needed = self._scores[own].amax(0).float() / CORNERS
        for index in own[1:]:
            if index in self._edited:
                continue
            possible = (self._scores[index] >= needed) & (self._scores[index] > 0)
            parts = []
            for axis, (source, whole) in enumerate(
                zip(self._sample.source, self._region, strict=True)
            ):
                others = tuple(a for a in range(3) if a != axis)
                found = possible.any(others[1]).any(others[0]).nonzero()
                if not len(found):
                    break
                first, last = source.start + int(found[0]), source.start + int(found[-1])
                reached = output_part(
                    slice(first, last + 1), self._all_scores.shape[1 + axis], self._shape[axis]
                )
                parts.append(slice(max(reached.start, whole.start), min(reached.stop, whole.stop)))
            if len(parts) == 3 and all(part.start < part.stop for part in parts):
                yield index, (parts[0], parts[1], parts[2])

    def _sum_without_boxes(self) -> Tensor:
        """Return the sum of the scores of foreground classes without boxes, with few
        interpolations."""
        total = self._scores[1:].sum(0, dtype=torch.float32)
        for index in self._edited.keys() | self._refined.keys():
            total -= self._scores[index].float()
        result = self._sample(total)
        if self._sharpened is not None:
            self._sharpened.add_to_sum(result, {0, *self._edited, *self._refined})
        if self._refined:
            result *= self._factor
        for index in self._refined.keys() - self._edited.keys():
            result += self._automatic(index)
        return result

    def _final_scores(self) -> Iterator[Tensor]:
        yield self._remaining_background()
        for index in range(1, len(self._scores)):
            yield self._edited[index] if index in self._edited else self._automatic(index)


def update_argmax(
    best: Tensor, winner: Tensor, index: int, score: Tensor, margin: Tensor | None = None
) -> Tensor:
    """Assign to a class the voxels where its score exceeds the best score so far.

    Args:
        best: largest scores so far, updated in place.
        winner: class indices of the largest scores, updated in place.
        index: class index.
        score: scores of the class.
        margin: differences by which the scores must exceed `best`; None for 0.

    Returns:
        bool, True for voxels that are assigned to the class.
    """
    wins = score > (best if margin is None else best + margin)
    winner.masked_fill_(wins, index)
    torch.maximum(best, score, out=best)
    return wins


def filled(
    edited: EditedScores, prompt: ClassPrompt, scores: Tensor, shares: Shares | None = None
) -> EditedScores:
    """Return new scores of a class that fills its boxes, see :mod:`.box_filling`.

    Args:
        edited: scores of the class as they were decoded.
        prompt: boxes of the class.
        scores: (K + 1, depth, rows, columns), automatic scores on the plan's grid.
        shares: shares of the classes that a refiner decides, or None.
    """
    depth, rows, columns = edited.shape or scores.shape[1:]
    others = None
    if edited.scores.numel():
        whole = RegionScores(scores, {}, (depth, rows, columns), edited.region, shares=shares)
        others = whole.best_other(prompt.class_index)
    return replace(edited, scores=fill_boxes(edited.scores, edited.region, prompt, others))


def affected_region(
    edited: Mapping[int, EditedScores], source_shape: Sequence[int], target_shape: Sequence[int]
) -> Region | None:
    """Return the voxels of the output that new scores may give to their classes.

    Args:
        edited: new scores of the classes with boxes.
        source_shape: (depth, rows, columns) of the plan's grid.
        target_shape: (depth, rows, columns) of the output's grid.

    Returns:
        Region of the output's grid, or None if no box contains a voxel.
    """
    regions: list[Region] = []
    for change in edited.values():
        if change.scores.numel():
            shape = change.shape or source_shape
            depth, rows, columns = (
                output_part(part, n, m)
                for part, n, m in zip(change.region, shape, target_shape, strict=True)
            )
            regions.append((depth, rows, columns))
    return hull(regions) if regions else None


def output_part(part: slice, source: int, target: int) -> slice:
    """Return the voxels along an axis of the output that some voxels of the plan's grid reach.

    Args:
        part: voxels of the plan's grid.
        source: number of voxels of the plan's grid.
        target: number of voxels of the output.
    """
    first = int(np.floor((part.start - 0.5) * target / source - 0.5))
    last = int(np.ceil((part.stop + 0.5) * target / source - 0.5))
    return slice(max(first, 0), min(last + 1, target))


def write_labels(
    scores: Tensor,
    values: NDArray[Any],
    labelmap: NDArray[Any],
    progress: Progress,
    *,
    edited: Mapping[int, EditedScores] | None = None,
    shares: Shares | None = None,
    intensities: IntensityModel | None = None,
    background_weight: float = 1.0,
    kept: NDArray[Any] | None = None,
    region: Region | None = None,
    probabilities: Sequence[NDArray[np.float32]] | None = None,
    refused: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Decide all voxels of a region and write their labels.

    Only a few slices are interpolated at a time, and of these only the best score and its class are
    kept, so that the peak memory does not grow with the number of classes.

    Args:
        scores: (K + 1, depth, rows, columns), automatic scores on the plan's grid.
        values: (K + 1,), value of each class in the labelmap, background first.
        labelmap: (depth, rows, columns) of the output's grid, written. With `kept`, voxels of
            classes with boxes must be background in it, and no others are written.
        progress: progress of the run, which is advanced slice by slice.
        edited: new scores of the classes with boxes, by class index.
        shares: shares of the classes that a refiner decides, or None.
        intensities: intensities of the classes, which sharpen the scores, or None.
        background_weight: factor of the background's scores.
        kept: automatic labels before post-processing, whose classes without boxes keep their
            voxels; None for `overwrite`.
        region: voxels to decide; None for all.
        probabilities: K + 1 arrays like `labelmap`, written; None if they are not needed.
        refused: (K + 1,), to which is added the number of voxels that each class with boxes would
            take from classes without boxes if these did not keep them; None to skip counting.

    Returns:
        (K + 1,), mean probability of each class over its voxels, 0 for a class without voxels.
    """
    edited = {} if edited is None else edited
    count, shape = len(scores), (labelmap.shape[0], labelmap.shape[1], labelmap.shape[2])
    depth, rows, columns = region or (slice(0, n) for n in shape)
    contested = values[[0, *sorted(edited)]]
    index_of = np.zeros(int(values.max()) + 1, np.int32)
    index_of[values] = np.arange(len(values))
    arrays = max(len(edited), 0 if intensities is None else SHARPENING_ARRAYS)

    def write(part: slice) -> NDArray[np.float64]:
        """Write the labels of some slices, and return (3, K + 1): for each class the sum of the
        probabilities of its voxels, their number, and the number of voxels refused to it."""
        slab, counts = (part, rows, columns), np.zeros((3, count))
        decided = RegionScores(scores, edited, shape, slab, background_weight, shares, intensities)
        winner, probability = decided.decide(overwrite=kept is None)
        if kept is None:
            labelmap[slab] = values[winner.numpy()]
        else:
            held = torch.from_numpy(~np.isin(kept[slab], contested))
            if refused is not None:
                keeping = torch.from_numpy(index_of[kept[slab]]) * held
                taken = decided.exceeds_kept(winner, keeping)
                counts[2] = torch.bincount(winner[taken], minlength=count).numpy()
            winner[held] = 0
            found = winner.numpy()
            labelmap[slab][found > 0] = values[found[found > 0]]
        flat = winner.flatten()
        counts[0] = torch.bincount(flat, probability.flatten(), minlength=count).numpy()
        counts[1] = torch.bincount(flat, minlength=count).numpy()
        if probabilities is not None:
            for target, share in zip(probabilities, decided.probabilities(), strict=True):
                target[slab] = share.numpy()
        return counts

    threads = cpu_threads()
    parts = list(_slabs(depth, rows, columns, scores.shape[1:], shape, threads * max(1, arrays)))
    total = np.zeros((3, count))
    with results_in_order(write, parts, threads) as results:
        for part, counts in zip(parts, results, strict=True):
            progress.step(part.stop - depth.start, depth.stop - depth.start)
            total += counts
    if refused is not None:
        refused += total[2].astype(refused.dtype)
    return total[0] / np.maximum(total[1], 1)


def _slabs(
    depth: slice,
    rows: slice,
    columns: slice,
    source_shape: Sequence[int],
    target_shape: Shape,
    arrays: int,
) -> Iterator[slice]:
    """Split slices so that all arrays of the slabs that are decided together stay small.

    Args:
        depth: slices to split.
        rows: rows that are decided.
        columns: columns that are decided.
        source_shape: (depth, rows, columns) of the plan's grid.
        target_shape: (depth, rows, columns) of the output's grid.
        arrays: number of arrays of all slabs that are decided at the same time.
    """
    plane = (rows.stop - rows.start) * (columns.stop - columns.start)
    shrinking = source_shape[1] * source_shape[2] / (target_shape[1] * target_shape[2])
    step = max(1, int(SLAB_VOXELS // (plane * max(1.0, shrinking) * arrays)))
    for first in range(depth.start, depth.stop, step):
        yield slice(first, min(first + step, depth.stop))


def _inner(part: slice, whole: slice) -> slice:
    """Return the intersection of two parts of an axis, relative to the start of ``whole``."""
    start, stop = max(part.start, whole.start), min(part.stop, whole.stop)
    return slice(start - whole.start, max(start, stop) - whole.start)


def _continued(change: EditedScores, shape: Sequence[int]) -> EditedScores:
    """Return new scores extended by one voxel: voxels without a score take an adjacent score.

    Args:
        change: new scores, 0 for voxels without a score.
        shape: (depth, rows, columns) of the grid of the scores.
    """
    depth, rows, columns = (
        slice(max(part.start - 1, 0), min(part.stop + 1, size))
        for part, size in zip(change.region, shape, strict=True)
    )
    values = continued(_placed(change, (depth, rows, columns)))
    return replace(change, region=(depth, rows, columns), scores=values)


def _placed(change: EditedScores, region: Region) -> Tensor:
    """Return new scores on a region of their grid, 0 outside their own region."""
    values = torch.zeros([part.stop - part.start for part in region])
    inside = change.cropped(region)
    if inside.scores.numel():
        depth, rows, columns = (
            slice(a.start - b.start, a.stop - b.start)
            for a, b in zip(inside.region, region, strict=True)
        )
        values[depth, rows, columns] = inside.scores
    return values

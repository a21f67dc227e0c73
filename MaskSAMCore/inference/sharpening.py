"""Scores of doubtful voxels, after the intensities of the classes have been taken into account.

The score of a class is multiplied by the density of the voxel's intensity under the class, see
:mod:`.intensity_model`. All products of a voxel are then scaled such that the sum of its scores
does not change, so that they can still be compared with scores of classes with boxes of a user.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import torch
from torch import Tensor

from MaskSAMCore.inference.grid_sampler import GridSampler
from MaskSAMCore.inference.intensity_model import IntensityModel
from MaskSAMCore.inference.sliding_window import Region, Shape

# A class is not considered at a voxel if it has less than this share of the best score at all
# voxels of the plan's grid that the voxel lies between.
_LEAST_SHARE = 0.03


@dataclass(frozen=True)
class _Scores:
    """Scores of a class.

    Attributes:
        at: (M,), indices of the doubtful voxels at which the class has scores.
        plain: (M,), the interpolated scores.
        sharpened: (M,), the scores after intensities were taken into account.
    """

    at: Tensor
    plain: Tensor
    sharpened: Tensor


class Sharpening:
    """Sharpened scores of the doubtful voxels of a region.

    Args:
        intensities: intensities of the classes.
        scores: (K + 1, depth, rows, columns), automatic scores in the region `source` of the
            sampler.
        sample: interpolation to the region.
        doubtful: bool (depth, rows, columns) of the region.
        region: voxels of the output's grid.
        shape: (depth, rows, columns) of the output's grid.
    """

    def __init__(
        self,
        intensities: IntensityModel,
        scores: Tensor,
        sample: GridSampler,
        doubtful: Tensor,
        region: Region,
        shape: Shape,
    ) -> None:
        self._model = intensities
        self._shape = doubtful.shape
        self._voxels = doubtful.nonzero()
        self._place = tuple(self._voxels.unbind(1))
        start = torch.tensor([part.start for part in region])
        self._intensities = intensities.intensities(self._voxels + start)
        field = GridSampler(intensities.shape, shape, region)
        self._field_source = field.source
        # The nearest cell suffices: means and variances hardly change from one cell to the next.
        self._field_cell = field.located(self._voxels).nearest()
        located = sample.located(self._voxels)
        least = _LEAST_SHARE * scores.amax(0).float()
        before, after = torch.zeros(2, len(self._voxels))
        self._classes: dict[int, _Scores] = {}
        for index, score in enumerate(scores):
            possible = (score > least) & (score > 0)
            near = _at_corners(possible).flatten().index_select(0, located.first)
            at = near.nonzero()[:, 0]
            if not len(at):
                continue
            plain = located.interpolated(score, at)
            if index not in intensities.known:
                self._classes[index] = _Scores(at, plain, plain)
                continue
            product = plain * self._density(index, at)
            before.index_add_(0, at, plain)
            after.index_add_(0, at, product)
            self._classes[index] = _Scores(at, plain, product)
        # (N,), factor of the products; 0 where no class has known intensities.
        self._scale = torch.where(after > 0, before / after, 0.0)
        for index in self._classes.keys() & intensities.known:
            scored = self._classes[index]
            scored.sharpened.mul_(self._scale.index_select(0, scored.at))

    def of_class(self, index: int, score: Tensor) -> Tensor:
        """Return the scores of a class in the region, sharpened.

        Args:
            index: class index.
            score: (depth, rows, columns), the interpolated scores.
        """
        scored = self._classes.get(index)
        if scored is None:
            return score
        score = score.clone()
        score[self._at(scored)] = scored.sharpened
        return score

    def of_voxels(self, index: Tensor, voxels: Tensor, scores: Tensor) -> Tensor:
        """Return the scores of some voxels, sharpened.

        Args:
            index: (N,), the class of each voxel.
            voxels: (N, 3), places in the region.
            scores: (N,), the interpolated scores.
        """
        number = torch.full(self._shape, -1)
        number[self._place] = torch.arange(len(self._voxels))
        found = number[tuple(voxels.unbind(1))]
        scores = scores.clone()
        for own, scored in self._classes.items():
            wanted = ((index == own) & (found >= 0)).nonzero()[:, 0]
            if len(wanted):
                row = torch.full([len(self._voxels)], -1)
                row[scored.at] = torch.arange(len(scored.at))
                rows = row[found[wanted]]
                scores[wanted[rows >= 0]] = scored.sharpened[rows[rows >= 0]]
        return scores

    def of_boxes(self, index: int, score: Tensor) -> Tensor:
        """Return the scores of a class from a user's boxes, sharpened like its automatic scores.

        A class that is hardly found without boxes has no known intensities, and its scores do not
        change.

        Args:
            index: class index.
            score: (depth, rows, columns) of the region.
        """
        at = (score[self._place] > 0).nonzero()[:, 0]
        if index not in self._model.known or not len(at):
            return score
        place = tuple(self._voxels[at].unbind(1))
        score = score.clone()
        scale = self._scale[at]
        score[place] *= torch.where(scale > 0, self._density(index, at) * scale, 1.0)
        return score

    def decide(
        self, background: Tensor, best: Tensor, winner: Tensor, skipped: Set[int], factor: Tensor
    ) -> None:
        """Decide the doubtful voxels among the background and the classes.

        Args:
            background: (depth, rows, columns), scores of the background, sharpened already.
            best: best scores, written.
            winner: class indices of the best scores, written.
            skipped: indices of classes that are left out.
            factor: factor of the scores of all classes, (depth, rows, columns) or a number.
        """
        most = background[self._place]
        found = torch.zeros(len(most), dtype=winner.dtype)
        scale = factor[self._place] if factor.ndim else None
        for index, scored in self._classes.items():
            if index == 0 or index in skipped:
                continue
            score = scored.sharpened if scale is None else scored.sharpened * scale[scored.at]
            exceeds = score > most.index_select(0, scored.at)
            most[scored.at[exceeds]] = score[exceeds]
            found[scored.at[exceeds]] = index
        best[self._place] = most
        winner[self._place] = found

    def add_to_sum(self, total: Tensor, left_out: Set[int]) -> None:
        """Add to a sum of scores, in place, the amount that its classes gain by sharpening.

        Args:
            total: (depth, rows, columns), sum of the interpolated scores of some classes.
            left_out: indices of the classes that are not in the sum.
        """
        for index in left_out & self._classes.keys():
            scored = self._classes[index]
            # Sharpening keeps the sum over all classes: those in the sum gain what the others lose.
            total[self._at(scored)] += scored.plain - scored.sharpened

    def _density(self, index: int, at: Tensor) -> Tensor:
        """Return the densities (M,) of the intensities of some doubtful voxels under a class."""
        depth, rows, columns = self._field_source
        fields = self._model.fields(index)[:, :, depth, rows, columns].flatten(2)
        means, variances = fields.index_select(2, self._field_cell.index_select(0, at))
        return self._model.log_density(
            self._intensities.index_select(1, at), means, variances
        ).exp_()

    def _at(self, scored: _Scores) -> tuple[Tensor, ...]:
        return tuple(self._voxels[scored.at].unbind(1))


def _at_corners(cells: Tensor) -> Tensor:
    """Return for each cell of a mask (depth, rows, columns) whether the cell or a next one, along
    one or more axes, is in the mask."""
    for axis in range(3):
        wider, last = cells.clone(), cells.shape[axis] - 1
        wider.narrow(axis, 0, last).logical_or_(cells.narrow(axis, 1, last))
        cells = wider
    return cells

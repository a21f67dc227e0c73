"""Class scores of a volume on the plan's grid, averaged over windows and mirrored passes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.data.planning import WINDOW_OVERLAP
from MaskSAMCore.inference.box_prompts import ClassPrompt, window_prompt
from MaskSAMCore.inference.embedding_cache import EmbeddingCache, copy_window
from MaskSAMCore.inference.memory import array_bytes
from MaskSAMCore.inference.parallel import results_in_order
from MaskSAMCore.inference.progress import Progress
from MaskSAMCore.inference.proposals import ProposalSum
from MaskSAMCore.inference.runner import AutomaticScores, Runner
from MaskSAMCore.inference.settings import Flips
from MaskSAMCore.inference.sliding_window import (
    Region,
    Shape,
    Window,
    accumulate,
    divided_windows,
    extract,
    hull,
    plan_windows,
)
from MaskSAMCore.modeling.refined.network import merged

Scored = TypeVar("Scored")

# Score volumes above this size in bytes are float16. Scores are means of numbers between 0 and
# about 1, so rounding errors of 5e-4 per window only decide between about equally likely classes.
FLOAT32_LIMIT = 512 << 20
# Windows whose weight within a box is below this share of the largest one are not decoded again.
LEAST_WEIGHT = 0.01


@dataclass(frozen=True)
class EditedScores:
    """New scores of a class with boxes; they are 0 outside the region.

    Attributes:
        region: part of the plan's grid.
        scores: (depth, rows, columns) of the region.
        boxes: (M, 2, 3), lower and upper edges (depth, row, column) of the boxes on the same grid,
            which limit the class on finer grids too; None limits it to the region only.
        shape: (depth, rows, columns) of the grid, if it is not the plan's but covers the same box
            of space in the smaller voxels of a refined class; else None.
    """

    region: Region
    scores: Tensor
    boxes: NDArray[np.float64] | None = None
    shape: Shape | None = None

    def cropped(self, extent: Region) -> EditedScores:
        """Return the part within another region of the plan's grid."""
        inside, within = [], []
        for have, want in zip(self.region, extent, strict=True):
            start, stop = max(have.start, want.start), min(have.stop, want.stop)
            inside.append(slice(start, max(start, stop)))
            within.append(slice(start - have.start, max(start, stop) - have.start))
        scores = self.scores[tuple(within)].clone()
        return replace(self, region=(inside[0], inside[1], inside[2]), scores=scores)


@dataclass(frozen=True)
class Shares:
    """Shares of the classes that a refiner decides.

    Attributes:
        values: float32 (R + 1, depth, rows, columns), the share of all other classes first. The
            grid covers the plan's box of space in the refiner's voxels. The sum of a voxel's shares
            is 1 where the refiner decides, else 0.
        classes: class index of each refined class.
    """

    values: Tensor
    classes: tuple[int, ...]

    def merged_with(self, scores: Tensor, step: int = 1) -> Tensor:
        """Return float32 scores of all classes (K + 1, depth, rows, columns) on the plan's grid.

        Args:
            scores: (K + 1, depth, rows, columns) without the decisions of the refiner.
            step: distance along each axis between the voxels that are returned.
        """
        depth, rows, columns = scores.shape[1:]
        found = F.adaptive_avg_pool3d(self.values, (depth, rows, columns))
        scores, found = (values[:, ::step, ::step, ::step] for values in (scores, found))
        return merged(scores[None].float(), found[None], self.classes)[0]


@dataclass(frozen=True)
class _View:
    """A window of the volume, mirrored along some axes.

    Attributes:
        index: number of the window.
        window: the window.
        fine: the window in the voxels of the refined classes.
        flips: axes of (T, H, W) along which it is mirrored.
    """

    index: int
    window: Window
    fine: Window
    flips: Flips

    @property
    def key(self) -> tuple[int, Flips]:
        """Key of the view's embedding."""
        return self.index, self.flips

    def on_grid(self, fine: bool) -> Window:
        """Return the window on the plan's grid, or on that of the refined classes."""
        return self.fine if fine else self.window


class Scorer:
    """Computation of a preprocessed volume's class scores, from all of its windows.

    Args:
        runner: network on its device.
        image: float32 (C, depth, rows, columns) on the plan's grid.
        passes: axes of (T, H, W) along which the windows of each averaged pass are mirrored.
        cache: cache of the embeddings, for later prompts.
        fine: float32 (C, D, R, W), the image in the voxels of the refined classes, if these are
            parts of the plan's voxels; else None.
        overlap: smallest overlap of neighbouring windows, as a share of a window.

    Attributes:
        image: the image.
        shares: shares of the refined classes, once :meth:`automatic` has run; None for a network
            without a refiner.
        proposed: boxes that the network predicted, once :meth:`automatic` has run.
    """

    def __init__(
        self,
        runner: Runner,
        image: NDArray[np.float32],
        passes: tuple[Flips, ...],
        cache: EmbeddingCache,
        fine: NDArray[np.float32] | None = None,
        overlap: float = WINDOW_OVERLAP,
    ) -> None:
        config = runner.model.config
        self.image = image
        self.shares: Shares | None = None
        self._fine = fine
        self._runner = runner
        self._cache = cache
        self._lowest = torch.from_numpy(image.min((1, 2, 3)))
        self._fine_lowest = self._lowest
        if fine is not None:
            self._fine_lowest = torch.from_numpy(fine.min((1, 2, 3)))
        self._small = runner.model.is_small(torch.from_numpy(image if fine is None else fine))
        windows = plan_windows(image.shape[1:], runner.window, config.every_slice, overlap)
        divided = windows
        if fine is not None:
            divided = divided_windows(
                image.shape[1:], runner.window, fine.shape[1:], config.parts, overlap
            )
        self._passes = len(passes)
        self._views = [
            _View(i, *pair, flips)
            for i, pair in enumerate(zip(windows, divided, strict=True))
            for flips in passes
        ]
        self._num_classes = config.num_classes
        self.proposed = ProposalSum(self._num_classes, image.shape[1])
        self._class_logits: dict[tuple[int, Flips], Tensor] = {}

    @property
    def memory_bytes(self) -> int:
        """Bytes of the image and of the classes' logits, without the embeddings."""
        shares = None if self.shares is None else self.shares.values
        return array_bytes((self.image, self._fine, shares, *self._class_logits.values()))

    @property
    def fine_shape(self) -> Shape:
        """Shape of the grid of the refined classes."""
        depth, rows, columns = (self.image if self._fine is None else self._fine).shape[1:]
        return depth, rows, columns

    def automatic(self, progress: Progress) -> Tensor:
        """Return the scores (K + 1, depth, rows, columns) without boxes of the user, and keep the
        shares of the refined classes."""
        shape = (self._num_classes + 1, *self.image.shape[1:])
        dtype = torch.float32 if 4 * np.prod(shape) <= FLOAT32_LIMIT else torch.float16
        total = torch.zeros(shape, dtype=dtype)
        proposed = ProposalSum(self._num_classes, shape[1])
        refined = self._runner.model.config.refined_classes
        decided = torch.zeros(len(refined) + 1, *self.fine_shape) if refined else None

        later = bool(self._cache.limit)  # boxes of the user may follow

        def score(batch: Sequence[_View]) -> tuple[Any, AutomaticScores]:
            embedding = self._encode(batch)
            found = self._runner.automatic(embedding, all_queries=later)
            return embedding if later else None, found

        def add(view: _View, scored: tuple[Any, AutomaticScores], i: int) -> None:
            embedding, found = scored
            # Copies come first, because a view is processed again if memory runs out for them.
            if later:
                self._cache.put(view.key, copy_window(embedding, i))
                if found.class_logits is not None:
                    self._class_logits[view.key] = found.class_logits[i, None].clone()
            self._add(total, found.scores[i], view)
            if decided is not None and found.shares is not None:
                self._add(decided, found.shares[i], view, fine=True)
            if found.boxes is not None:
                proposed.add(found.boxes[i], view.window, view.flips)

        self._process_all(self._views, score, add, progress)
        self.proposed = proposed
        self.shares = None if decided is None else Shares(decided, refined)
        return total

    def edited(self, prompt: ClassPrompt, progress: Progress) -> EditedScores:
        """Return new scores of one class from its boxes.

        Boxes and scores of a refined class are on the grid of the refined classes. Only windows
        with more than a negligible weight in the boxes are decoded; elsewhere the score of the
        class is 0. The class does not yet fill its boxes, see :func:`.decision.filled`.
        """
        fine = prompt.class_index in self._runner.model.config.refined_classes
        prompts = {}
        for view in self._views:
            place = view.on_grid(fine)
            found = window_prompt(prompt, place, self._num_classes, view.flips)
            if found is not None:
                prompts[view.key] = found
        shape = self.fine_shape if fine else self.image.shape[1:]
        extent = prompt.extent(shape)
        if not prompts:
            nowhere = slice(0, 0)
            return EditedScores((nowhere, nowhere, nowhere), torch.zeros(0, 0, 0))
        reached = self._weighty([view for view in self._views if view.key in prompts], extent, fine)
        region = hull([view.on_grid(fine).image for view in reached])
        total = torch.zeros(1, *(part.stop - part.start for part in region))

        def score(batch: Sequence[_View]) -> Tensor:
            (view,) = batch
            return self._runner.class_scores(
                self._embedding(view),
                prompts[view.key],
                prompt.class_index,
                self._class_logits.get(view.key),
            )

        def add(view: _View, scores: Tensor, _: int) -> None:
            self._add(total, scores, view, region, fine)

        # A few queries take so little time that threads would wait for each other.
        self._process_all(reached, score, add, progress, batch_size=1)
        if len(reached) < len(prompts):
            weight = torch.zeros_like(total)
            for view in reached:
                size = view.on_grid(fine).size
                self._add(weight, torch.ones(1, *size), view, region, fine)
            total = torch.where(weight > 0.5, total / weight, total)
        whole = EditedScores(region, total[0], prompt.boxes, self.fine_shape if fine else None)
        return whole.cropped(extent)

    def _weighty(self, views: Sequence[_View], extent: Region, fine: bool) -> list[_View]:
        """Return the views whose windows have more than a negligible weight in a region."""
        windows = [view.on_grid(fine) for view in views]
        weights = [window.largest_weight(extent) for window in windows]
        least = LEAST_WEIGHT * max(weights)
        return [view for view, weight in zip(views, weights, strict=True) if weight >= least]

    def _embedding(self, view: _View) -> Any:
        kept = self._cache.get(view.key, self._runner.device)
        return self._encode([view]) if kept is None else kept

    def _encode(self, views: Sequence[_View]) -> Any:
        images = [self._extract(self.image, view.window, view.flips) for view in views]
        if self._fine is None:
            return self._runner.encode(torch.stack(images), small=self._small)
        fine = [self._extract(self._fine, view.fine, view.flips) for view in views]
        return self._runner.encode(torch.stack(images), torch.stack(fine), self._small)

    def _extract(self, image: NDArray[np.float32], window: Window, flips: Flips) -> Tensor:
        """Return a window (C, T, H, W) of an image, mirrored along the axes ``flips``."""
        lowest = self._lowest if image is self.image else self._fine_lowest
        return extract(image, window, lowest).flip([axis + 1 for axis in flips])

    def _add(
        self,
        total: Tensor,
        scores: Tensor,
        view: _View,
        region: Region | None = None,
        fine: bool = False,
    ) -> None:
        """Add the scores (classes, T, H, W) of a view to those of a region of the volume."""
        if view.flips:
            scores = scores.flip([axis + 1 for axis in view.flips])
        accumulate(total, scores, view.on_grid(fine), region, 1 / self._passes)

    def _process_all(
        self,
        views: Sequence[_View],
        score: Callable[[Sequence[_View]], Scored],
        add: Callable[[_View, Scored, int], None],
        progress: Progress,
        batch_size: int | None = None,
    ) -> None:
        """Process all views in batches, which become smaller when memory runs out.

        Args:
            views: views to process.
            score: function that computes the scores of a batch, on any thread.
            add: function that adds the scores of a view, the i-th of a batch, to those of the
                volume; it is called in the order of the views.
            progress: receives the progress.
            batch_size: views in a batch; None for the number that memory allows.
        """
        memory = self._runner.memory
        waiting = deque(views)

        def process_waiting() -> None:
            together = batch_size or memory.batch_size
            batches, threads = self._runner.batches(list(waiting), together)
            with results_in_order(score, batches, threads) as results:
                for batch, scored in zip(batches, results, strict=True):
                    for i, view in enumerate(batch):
                        add(view, scored, i)
                        waiting.popleft()
                    progress.step(len(views) - len(waiting), len(views))

        progress.step(0, len(views))
        memory.run(process_waiting, progress.message)

"""Class scores of a whole volume on the plan's grid, summed over windows and mirrored passes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.inference.box_prompts import ClassPrompt, window_prompt
from MaskSAMCore.inference.embedding_cache import EmbeddingCache, copy_window
from MaskSAMCore.inference.memory import array_bytes
from MaskSAMCore.inference.progress import Progress
from MaskSAMCore.inference.proposals import ProposalSum
from MaskSAMCore.inference.runner import Runner
from MaskSAMCore.inference.settings import Flips
from MaskSAMCore.inference.sliding_window import Window, accumulate, extract, hull, plan_windows

# Score volumes beyond this size are kept in float16. The scores are means of numbers between 0 and
# about 1, so that a rounding of 5e-4 decides only between classes that are equally likely.
FLOAT32_LIMIT = 512 << 20


@dataclass(frozen=True)
class EditedScores:
    """The new scores of a class that has boxes; outside the region they are zero.

    Attributes:
        region: part of the plan's grid.
        scores: (depth, rows, columns) of the region.
    """

    region: tuple[slice, slice, slice]
    scores: Tensor

    def cropped(self, extent: tuple[slice, slice, slice]) -> EditedScores:
        """The part within an extent of the plan's grid."""
        inside, within = [], []
        for have, want in zip(self.region, extent, strict=True):
            start, stop = max(have.start, want.start), min(have.stop, want.stop)
            inside.append(slice(start, max(start, stop)))
            within.append(slice(start - have.start, max(start, stop) - have.start))
        scores = self.scores[tuple(within)].clone()
        return EditedScores((inside[0], inside[1], inside[2]), scores)


@dataclass(frozen=True)
class _Pass:
    """One window, seen once: as it is or mirrored along some axes of (T, H, W)."""

    index: int
    window: Window
    flips: Flips


class Scorer:
    """Runs a network over the windows of one preprocessed volume.

    Args:
        runner: the network.
        image: float32 (C, depth, rows, columns) on the plan's grid.
        flips: the passes to average, each the axes of (T, H, W) along which it is mirrored.
        cache: where embeddings are kept for later prompts.

    Attributes:
        proposed: the network's own boxes, once :meth:`automatic` has run.
    """

    def __init__(
        self,
        runner: Runner,
        image: NDArray[np.float32],
        flips: tuple[Flips, ...],
        cache: EmbeddingCache,
    ) -> None:
        self.runner = runner
        self.image = image
        self.cache = cache
        self._fill = torch.from_numpy(image.min((1, 2, 3)))
        every_slice = runner.model.config.every_slice
        windows = plan_windows(image.shape[1:], runner.window, every_slice)
        self.flips = flips
        self.passes = [_Pass(i, w, f) for i, w in enumerate(windows) for f in self.flips]
        self.num_classes: int = runner.model.config.num_classes
        self.proposed = ProposalSum(self.num_classes, image.shape[1])
        self._class_logits: dict[tuple[int, Flips], Tensor] = {}

    @property
    def memory_bytes(self) -> int:
        """Bytes of the image and of the classes' logits, without the embeddings."""
        return array_bytes((self.image, *self._class_logits.values()))

    def automatic(self, progress: Progress) -> Tensor:
        """Scores (K + 1, depth, rows, columns) from the network's own proposals."""
        shape = (self.num_classes + 1, *self.image.shape[1:])
        dtype = torch.float32 if 4 * np.prod(shape) <= FLOAT32_LIMIT else torch.float16
        total = torch.zeros(shape, dtype=dtype)
        proposed = ProposalSum(self.num_classes, shape[1])

        def process(batch: Sequence[_Pass]) -> None:
            images = torch.stack([self._view(one) for one in batch])
            embedding = self.runner.encode(images)
            found = self.runner.automatic(embedding)
            for i, one in enumerate(batch):
                self._add(total, found.scores[i], one)
                if found.boxes is not None:
                    proposed.add(found.boxes[i], one.window, one.flips)
                if found.class_logits is not None:
                    self._class_logits[one.index, one.flips] = found.class_logits[i, None].clone()
                if self.cache.limit:
                    self.cache.put((one.index, one.flips), copy_window(embedding, i))

        self._work(self.passes, process, progress)
        self.proposed = proposed
        return total

    def edited(self, prompt: ClassPrompt, progress: Progress) -> EditedScores:
        """New scores of one class from its boxes. Only windows that a box reaches are decoded:
        elsewhere the class is forbidden, so its score is zero."""
        prompts = {}
        for one in self.passes:
            found = window_prompt(prompt, one.window, self.num_classes, one.flips)
            if found is not None:
                prompts[one.index, one.flips] = found
        touched = [one for one in self.passes if (one.index, one.flips) in prompts]
        if not touched:
            return EditedScores((slice(0), slice(0), slice(0)), torch.zeros(0, 0, 0))
        region = hull([one.window.image for one in touched])
        total = torch.zeros(1, *(part.stop - part.start for part in region))

        def process(batch: Sequence[_Pass]) -> None:
            for one in batch:
                key = one.index, one.flips
                known = self._class_logits.get(key)
                scores = self.runner.class_scores(
                    self._embedding(one), prompts[key], prompt.class_index, known
                )
                self._add(total, scores, one, region)

        self._work(touched, process, progress, at_once=1)
        return EditedScores(region, total[0]).cropped(prompt.extent(self.image.shape[1:]))

    def _embedding(self, one: _Pass) -> Any:
        kept = self.cache.get((one.index, one.flips), self.runner.device)
        return self.runner.encode(self._view(one)[None]) if kept is None else kept

    def _view(self, one: _Pass) -> Tensor:
        """(C, T, H, W) as the network sees it."""
        return extract(self.image, one.window, self._fill).flip([axis + 1 for axis in one.flips])

    def _add(
        self,
        total: Tensor,
        scores: Tensor,
        one: _Pass,
        region: tuple[slice, slice, slice] | None = None,
    ) -> None:
        upright = scores.flip([axis + 1 for axis in one.flips]) / len(self.flips)
        accumulate(total, upright, one.window, region)

    def _work(
        self,
        passes: Sequence[_Pass],
        process: Callable[[Sequence[_Pass]], None],
        progress: Progress,
        at_once: int | None = None,
    ) -> None:
        """Process all passes, in batches that become smaller when memory runs out."""
        memory = self.runner.memory
        waiting = deque(passes)

        def next_batch() -> int:
            progress.step(len(passes) - len(waiting), len(passes))
            count = min(at_once or memory.batch_size, len(waiting))
            process([waiting[i] for i in range(count)])
            return count

        while waiting:
            for _ in range(memory.run(next_batch, progress.say)):
                waiting.popleft()

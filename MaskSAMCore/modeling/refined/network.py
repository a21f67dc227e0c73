"""A network with a refiner: a second, small network decides about some classes where they may lie.

The base decides about everything else as if the refiner did not exist: a voxel that the refiner
gives to none of its classes has the base's best class among the others, and nothing changes beyond
the reach of the base's own anchor classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from MaskSAMCore.modeling.base import Network, WindowPrediction
from MaskSAMCore.modeling.box_prompts import BoxPrompts
from MaskSAMCore.modeling.refined.config import RefinedConfig
from MaskSAMCore.modeling.registry import build_model

# Scores below this share of a voxel's sum are not scaled up any further.
_LEAST_SHARE = 1e-4
# Logit of classes that the base's queries never show.
_NEVER = -1e4
# Overlapping windows of the refiner are blended as those of a volume are.
_DEVIATIONS = 8


@dataclass
class RefinedEmbedding:
    """Encoded windows.

    Attributes:
        images: (B, C, T, H, W), which the refiner encodes where it is needed.
        base: embedding of the base.
    """

    images: Tensor
    base: Any


@dataclass
class RefinedPrediction(WindowPrediction):
    """Prediction of a network with a refiner for a batch of windows.

    Attributes:
        scores: (B, K + 1, T, H, W) scores of the classes, background first.
        class_logits: (B, N, T, K + 2) of the base's queries, or None.
        boxes: (B, N, T, 4) boxes of the base's queries, or None.
    """

    scores: Tensor
    class_logits: Tensor | None
    boxes: Tensor | None

    def semantic(self) -> Tensor:
        """Return the scores (B, K + 1, T, H, W) of the classes, background first."""
        return self.scores


class Tile(NamedTuple):
    """Place of a refiner's window in a window of the base.

    Attributes:
        window: index of the window in its batch.
        row: first row.
        column: first column.
    """

    window: int
    row: int
    column: int


class RefinedNetwork(Network):
    """A base network with a refiner; the names of both parts are keys of saved weights."""

    config: RefinedConfig

    def __init__(self, config: RefinedConfig) -> None:
        super().__init__(config)
        self.base = build_model(config.base)
        self.refiner = build_model(config.refiner)

    def encode(self, images: Tensor) -> RefinedEmbedding:
        """Return the embedding of windows (B, C, T, H, W)."""
        self.check_window(images)
        return RefinedEmbedding(images, self.base.encode(images))

    def decode(
        self, embedding: RefinedEmbedding, prompts: BoxPrompts | None = None
    ) -> RefinedPrediction:
        """Predict classes without boxes or from boxes of the user."""
        prediction = self._prediction(embedding, self.base.decode(embedding.base))
        if prompts is None:
            return prediction
        for index in prompts.given.any(0).nonzero()[:, 0].tolist():
            edited = self.decode_class(embedding, prediction.class_logits, prompts, index)
            given = prompts.given[:, index, None, None, None]
            scores = prediction.scores
            scores[:, index] = torch.where(given, edited.to(scores.dtype), scores[:, index])
        return prediction

    def decode_likely(self, embedding: RefinedEmbedding) -> RefinedPrediction:
        """Predict without queries of the base that hardly show anything."""
        return self._prediction(embedding, self.base.decode_likely(embedding.base))

    def decode_class(
        self,
        embedding: RefinedEmbedding,
        class_logits: Tensor | None,
        prompts: BoxPrompts,
        class_index: int,
    ) -> Tensor:
        """Return the scores (B, T, H, W) of one class from its boxes, which the refiner decodes if
        the class is one of its own."""
        config = self.config
        if class_index in config.refined:
            return self._decode_refined(embedding.images, prompts, class_index)
        known = config.base.num_classes
        if class_logits is not None:
            class_logits = torch.cat([class_logits[..., : known + 1], class_logits[..., -1:]], -1)
        boxes, given, present, exact = prompts
        own = BoxPrompts(
            boxes[:, : known + 1],
            given[:, : known + 1],
            present[:, : known + 1],
            None if exact is None else exact[:, : known + 1],
        )
        return self.base.decode_class(embedding.base, class_logits, own, class_index)

    def _prediction(
        self, embedding: RefinedEmbedding, prediction: WindowPrediction
    ) -> RefinedPrediction:
        """Return a prediction of the base with the refiner's decisions."""
        scores = prediction.semantic()
        near = self.decided(embedding.images, scores)
        found = self._refiner_scores(embedding.images, near)
        logits = prediction.class_logits
        if logits is not None:
            new = self.config.num_classes - self.config.base.num_classes
            never = logits.new_full((*logits.shape[:-1], new), _NEVER)
            logits = torch.cat([logits[..., :-1], never, logits[..., -1:]], -1)
        total = scores.sum(1)
        for index, image in enumerate(embedding.images):
            if self._small_part(image) is not None:
                # The base is unsure of such images: its sums would move outlines between voxels.
                total[index] = 1
        return RefinedPrediction(self.merged(scores, found, total), logits, prediction.boxes)

    def decided(self, images: Tensor, scores: Tensor) -> Tensor:
        """Return the voxels that the refiner decides about: bool (B, T, H, W).

        These are the voxels near the base's anchor classes that the base gives to these, to refined
        classes or to those that may lose voxels. An image that is no larger than the
        refiner's window, and much smaller than the base's, shows no more than the surroundings of
        the refined classes, so that the refiner decides about all of it.

        Args:
            images: (B, C, T, H, W).
            scores: (B, K + 1, T, H, W) of the base.
        """
        config, best = self.config, scores.argmax(1)
        near = dilated(_is_one_of(best, config.anchors), config.reach)
        near &= _is_one_of(best, {*config.anchors, *config.refined, *config.givers})
        for index, image in enumerate(images):
            part = self._small_part(image)
            if part is not None:
                near[index] = False
                near[index][part] = True
        return near

    def merged(self, scores: Tensor, found: Tensor, total: Tensor) -> Tensor:
        """Return the scores (B, K + 1, T, H, W) of all classes.

        The best of the other classes gets the refiner's whole share of all others. So a voxel gets
        the class that the refiner gives it, however unsure the base is among the other classes.

        Args:
            scores: (B, base classes + 1, T, H, W) of the base.
            found: (B, refined classes + 1, T, H, W) shares of the refiner's classes, the first
                that of all others; zeros where the refiner does not decide.
            total: (B, T, H, W) sum that the refiner's shares get, which fits the scores beside.
        """
        config = self.config
        decides = found.sum(1) > 0
        others = [index for index in range(scores.shape[1]) if index not in config.refined]
        least = (_LEAST_SHARE * scores.sum(1)).clamp(min=1e-12)
        share = found[:, 0] * total / torch.maximum(scores[:, others].amax(1), least)
        merged = scores * torch.where(decides, share, 1.0)[:, None]
        new = scores.new_zeros(
            len(scores), config.num_classes + 1 - scores.shape[1], *scores.shape[2:]
        )
        merged = torch.cat([merged, new], 1)
        for own, index in enumerate(config.refined, start=1):
            merged[:, index] = torch.where(decides, found[:, own] * total, merged[:, index])
        return merged

    def _small_part(self, image: Tensor) -> tuple[slice, slice, slice] | None:
        """Return the part of an image (C, T, H, W) that shows something, if that fits the refiner's
        window and is much smaller than the base's; else None."""
        shown = (image > image.amin((1, 2, 3), keepdim=True)).any(0).any(0)
        rows, columns = (_extent(shown.any(axis)) for axis in (1, 0))
        own, whole = self.config.refiner.window[1:], self.config.window[1:]
        height, width = rows.stop - rows.start, columns.stop - columns.start
        small = 2 * height * width <= whole[0] * whole[1]
        if not (small and height <= own[0] and width <= own[1]):
            return None
        return slice(None), rows, columns

    def _refiner_scores(self, images: Tensor, near: Tensor) -> Tensor:
        """Return the refiner's shares (B, classes + 1, T, H, W); zeros where it does not decide."""
        tiles = [tile for index, mask in enumerate(near) for tile in self._tiles(index, mask)]
        count = self.config.refiner.num_classes + 1
        total = images.new_zeros(len(images), count, *images.shape[2:], dtype=torch.float32)
        weight = torch.zeros_like(total[:, :1])
        for tile in tiles:
            scores = self.refiner(self._cut(images, tile)).semantic()[0].float()
            self._add(total, weight, tile, scores / scores.sum(0).clamp(min=1e-12))
        return total / weight.clamp(min=1e-12) * near[:, None]

    def _decode_refined(self, images: Tensor, prompts: BoxPrompts, class_index: int) -> Tensor:
        """Return the scores (B, T, H, W) of a class of the refiner from its boxes."""
        own = self.config.refined.index(class_index) + 1
        rows, columns = self.config.window[1:]
        size = images.new_tensor([columns, rows, columns, rows])
        total = images.new_zeros(len(images), 1, *images.shape[2:], dtype=torch.float32)
        weight = torch.zeros_like(total)
        for window in range(len(images)):
            present = prompts.present[window, class_index]
            edges = prompts.boxes[window, class_index] * size
            for tile in self._tiles(window, self._box_mask(edges, present)):
                inside = self._prompts(edges, present, prompts.exact, tile, class_index, own)
                embedding = self.refiner.encode(self._cut(images, tile))
                logits = self.refiner.decode(embedding).class_logits
                scores = self.refiner.decode_class(embedding, logits, inside, own)
                self._add(total, weight, tile, scores.float())
        return (total / weight.clamp(min=1e-12))[:, 0]

    def _box_mask(self, edges: Tensor, present: Tensor) -> Tensor:
        """Return the voxels (1, H, W) of the hull of boxes (T, 4) in voxel edges."""
        mask = torch.zeros(1, *self.config.window[1:], dtype=torch.bool, device=edges.device)
        if present.any():
            low, high = edges[present, :2].amin(0), edges[present, 2:].amax(0)
            x1, y1 = (int(v) for v in low.floor().clamp(min=0))
            x2, y2 = (int(v) for v in high.ceil())
            mask[:, y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)] = True
        return mask

    def _prompts(
        self,
        edges: Tensor,
        present: Tensor,
        exact: Tensor | None,
        tile: Tile,
        class_index: int,
        own: int,
    ) -> BoxPrompts:
        """Return the boxes (T, 4) of a class in voxel edges as prompts of the refiner in a tile."""
        config = self.config.refiner
        slices, rows, columns = config.window
        shift = edges.new_tensor([tile.column, tile.row] * 2)
        size = edges.new_tensor([columns, rows] * 2)
        inside = ((edges - shift) / size).clamp(0, 1)
        seen = present & (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
        count = config.num_classes + 1
        boxes = edges.new_zeros(1, count, slices, 4)
        given = torch.zeros(1, count, dtype=torch.bool, device=edges.device)
        shown = torch.zeros(1, count, slices, dtype=torch.bool, device=edges.device)
        boxes[0, own], given[0, own], shown[0, own] = inside, seen.any(), seen
        tight = None
        if exact is not None:
            tight = torch.zeros_like(shown)
            tight[0, own] = exact[tile.window, class_index]
        return BoxPrompts(boxes, given, shown, tight)

    def _tiles(self, window: int, mask: Tensor) -> Iterator[Tile]:
        """Yield the refiner's windows that cover a mask (T, H, W), half-overlapping."""
        plane = mask.any(0)
        if not plane.any():
            return
        own = self.config.refiner.window[1:]
        starts = [_starts(plane.any(1 - axis), own[axis], plane.shape[axis]) for axis in range(2)]
        for row, column in product(*starts):
            if plane[row : row + own[0], column : column + own[1]].any():
                yield Tile(window, row, column)

    def _cut(self, images: Tensor, tile: Tile) -> Tensor:
        _, rows, columns = self.config.refiner.window
        part = images[tile.window, None]
        return part[..., tile.row : tile.row + rows, tile.column : tile.column + columns]

    def _add(self, total: Tensor, weight: Tensor, tile: Tile, scores: Tensor) -> None:
        """Add the weighted scores (classes, T, h, w) of a tile to those of its window, in place."""
        _, rows, columns = self.config.refiner.window
        share = _bell(rows, scores)[:, None] * _bell(columns, scores)
        place = (
            tile.window,
            slice(None),
            slice(None),
            slice(tile.row, tile.row + rows),
            slice(tile.column, tile.column + columns),
        )
        total[place] += scores * share
        weight[place] += share


def dilated(mask: Tensor, reach: Sequence[int]) -> Tensor:
    """Return a mask bool (B, T, H, W) that is wider by some voxels along each axis."""
    wider = mask[:, None].float()
    for axis, size in enumerate(reach):
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = 2 * size + 1, size
        wider = F.max_pool3d(wider, kernel, stride=1, padding=padding)
    return wider[:, 0] > 0


def _is_one_of(labels: Tensor, values: Iterable[int]) -> Tensor:
    return torch.isin(
        labels, torch.tensor(sorted(values), dtype=labels.dtype, device=labels.device)
    )


def _starts(shown: Tensor, size: int, length: int) -> list[int]:
    """Return the first voxels of half-overlapping windows along an axis that cover what is shown.

    Args:
        shown: bool (length,).
        size: size of a window.
        length: voxels along the axis, at least ``size``.
    """
    found = shown.nonzero()[:, 0]
    first, last = int(found[0]), int(found[-1]) + 1
    if last - first <= size:
        return [min(max((first + last - size) // 2, 0), length - size)]
    steps = -(-2 * (last - first - size) // size)
    return [first + round(i * (last - first - size) / steps) for i in range(steps + 1)]


def _extent(shown: Tensor) -> slice:
    found = shown.nonzero()[:, 0]
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)


def _bell(size: int, like: Tensor) -> Tensor:
    offset = torch.arange(size, device=like.device, dtype=torch.float32) - (size - 1) / 2
    return torch.exp(-0.5 * (offset * _DEVIATIONS / size) ** 2)

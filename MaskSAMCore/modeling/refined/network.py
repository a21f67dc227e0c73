"""A network with a refiner: a second, small network that decides some classes where they may lie.

The base decides everything else as if the refiner did not exist: a voxel that the refiner gives to
none of its classes gets the base's best class among the others, and voxels beyond the reach of the
base's anchor classes do not change. The refiner's voxels may be smaller than the base's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from MaskSAMCore.modeling.base import Network, WindowPrediction
from MaskSAMCore.modeling.box_prompts import BoxPrompts
from MaskSAMCore.modeling.refined.config import RefinedConfig
from MaskSAMCore.modeling.registry import build_model

# The best score counts as at least this share of a voxel's sum, which limits its scaling.
_LEAST_SHARE = 1e-4
# Logit of classes that the base's queries never show.
_NEVER = -1e4
# Window size in standard deviations of the Gaussian blending weights, as in sliding-window
# inference.
_DEVIATIONS = 8


@dataclass
class RefinedEmbedding:
    """Encoded windows.

    Attributes:
        fine: (B, C, T, H, W) images in the refiner's voxels; the refiner encodes them on demand.
        base: embedding of the base.
        small: True if the windows are parts of a small image, see :meth:`RefinedNetwork.is_small`;
            None if each window is a separate image.
    """

    fine: Tensor
    base: Any
    small: bool | None = None


@dataclass
class RefinedPrediction(WindowPrediction):
    """Prediction of a network with a refiner for a batch of windows.

    Attributes:
        config: configuration of the network.
        scores: (B, K + 1, T, H, W) scores of the base, background first, 0 for new classes.
        found: (B, R + 1, T, H, W) shares in the refiner's voxels, first that of all other classes
            together, then those of the R refined classes; zeros where the refiner does not decide.
        class_logits: (B, N, T, K + 2) of the base's queries, or None.
        boxes: (B, N, T, 4) boxes of the base's queries, or None.
    """

    config: RefinedConfig
    scores: Tensor
    found: Tensor
    class_logits: Tensor | None
    boxes: Tensor | None

    def semantic(self) -> Tensor:
        """Return the scores (B, K + 1, T, H, W) of the classes, background first."""
        found = F.avg_pool3d(self.found, self.config.subdivision)
        return merged(self.scores, found, self.config.refined)

    def unrefined(self) -> Tensor:
        """Return the scores (B, K + 1, T, H, W) without the decisions of the refiner."""
        return self.scores

    def shares(self) -> Tensor:
        """Return the shares (B, R + 1, T, H, W) of the refined classes in the refiner's voxels."""
        return self.found


class Tile(NamedTuple):
    """Place of a refiner's window in a window of the base.

    Attributes:
        window: index of the base's window in the batch.
        start: first slice, row and column in the refiner's voxels.
    """

    window: int
    start: tuple[int, int, int]


class RefinedNetwork(Network):
    """A base network with a refiner; the names of both parts are keys of saved weights."""

    config: RefinedConfig

    def __init__(self, config: RefinedConfig) -> None:
        super().__init__(config)
        self.base = build_model(config.base)
        self.refiner = build_model(config.refiner)

    def is_small(self, image: Tensor) -> bool:
        """Return whether an image shows only the surroundings of the refined classes: its visible
        part fits the refiner's window and is much smaller than the base's window."""
        return self._small_part(image) is not None

    def encode(
        self, images: Tensor, fine: Tensor | None = None, small: bool | None = None
    ) -> RefinedEmbedding:
        """Return the embedding of windows.

        Args:
            images: (B, C, T, H, W).
            fine: the same windows in the refiner's voxels; None divides the voxels of ``images``.
            small: True if the windows are parts of a small image, see :meth:`is_small`; None if
                each window is a separate image.
        """
        self.check_window(images)
        if fine is None:
            fine = images
            for axis, parts in enumerate(self.config.subdivision, start=2):
                fine = fine.repeat_interleave(parts, axis) if parts > 1 else fine
        return RefinedEmbedding(fine, self.base.encode(images), small)

    def decode(
        self, embedding: RefinedEmbedding, prompts: BoxPrompts | None = None
    ) -> RefinedPrediction:
        """Predict classes without boxes.

        Raises:
            ValueError: boxes are given, which only :meth:`decode_class` accepts.
        """
        if prompts is not None:
            raise ValueError("a network with a refiner decodes boxes class by class")
        return self._prediction(embedding, self.base.decode(embedding.base))

    def decode_likely(self, embedding: RefinedEmbedding) -> RefinedPrediction:
        """Predict without boxes, skipping queries of the base that show almost nothing."""
        return self._prediction(embedding, self.base.decode_likely(embedding.base))

    def decode_class(
        self,
        embedding: RefinedEmbedding,
        class_logits: Tensor | None,
        prompts: BoxPrompts,
        class_index: int,
    ) -> Tensor:
        """Return the scores (B, T, H, W) of one class from its boxes.

        A refined class is decoded by the refiner; its boxes and scores are on the grid of the
        refiner's voxels.
        """
        config = self.config
        if class_index in config.refined:
            return self._decode_refined(embedding.fine, prompts, class_index)
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
        """Combine a prediction of the base with the refiner's decisions."""
        scores = prediction.semantic()
        near = self.decided(embedding.fine, scores, embedding.small)
        found = self._refiner_shares(embedding.fine, near)
        count = self.config.num_classes - self.config.base.num_classes
        new = scores.new_zeros(len(scores), count, *scores.shape[2:])
        logits = prediction.class_logits
        if logits is not None:
            never = logits.new_full((*logits.shape[:-1], count), _NEVER)
            logits = torch.cat([logits[..., :-1], never, logits[..., -1:]], -1)
        scores = torch.cat([scores, new], 1)
        for index, part in enumerate(self._small_parts(embedding.fine, embedding.small)):
            if part is not None:
                # In an image that shows so little of the surroundings, the base finds only noise.
                scores[index] = 0
                scores[index, 0] = 1
        return RefinedPrediction(self.config, scores, found, logits, prediction.boxes)

    def decided(self, fine: Tensor, scores: Tensor, small: bool | None = None) -> Tensor:
        """Return the voxels that the refiner decides, bool (B, T, H, W) in the refiner's voxels.

        These are the voxels near the base's anchor classes that the base gives to anchor classes,
        refined classes or givers; in a small image, all voxels of the visible part.

        Args:
            fine: (B, C, T, H, W) in the refiner's voxels.
            scores: (B, K + 1, t, h, w) of the base.
            small: see :meth:`encode`.
        """
        config, best = self.config, scores.argmax(1)
        near = dilated(_is_one_of(best, config.anchors), config.reach)
        near &= _is_one_of(best, {*config.anchors, *config.refined, *config.givers})
        for axis, parts in enumerate(config.subdivision, start=1):
            near = near.repeat_interleave(parts, axis) if parts > 1 else near
        for index, part in enumerate(self._small_parts(fine, small)):
            if part is not None:
                near[index] = False
                near[index][part] = True
        return near

    def _small_parts(
        self, fine: Tensor, small: bool | None
    ) -> list[tuple[slice, slice, slice] | None]:
        """Return the visible part of each window of a small image, None for other windows."""
        if small is False:
            # A single window of a large image may show little.
            return [None] * len(fine)
        return [self._small_part(image) for image in fine]

    def _small_part(self, image: Tensor) -> tuple[slice, slice, slice] | None:
        """Return the visible part of an image (C, T, H, W), or None if the part does not fit the
        refiner's window in-plane or is not much smaller than the base's window."""
        shown = (image > image.amin((1, 2, 3), keepdim=True)).any(0)
        slices, rows, columns = (
            _extent(shown.any(last).any(first)) for first, last in ((1, 2), (0, 2), (0, 1))
        )
        own, whole = self.config.refiner.window[1:], self.config.fine_window[1:]
        height, width = rows.stop - rows.start, columns.stop - columns.start
        small = 2 * height * width <= whole[0] * whole[1]
        if not (small and height <= own[0] and width <= own[1]):
            return None
        return slices, rows, columns

    def _refiner_shares(self, images: Tensor, near: Tensor) -> Tensor:
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
        rows, columns = self.config.fine_window[1:]
        size = images.new_tensor([columns, rows, columns, rows])
        total = images.new_zeros(len(images), 1, *images.shape[2:], dtype=torch.float32)
        weight = torch.zeros_like(total)
        for window in range(len(images)):
            present = prompts.present[window, class_index]
            exact = None if prompts.exact is None else prompts.exact[window, class_index]
            edges = prompts.boxes[window, class_index] * size
            for tile in self._tiles(window, self._box_mask(edges, present)):
                inside = self._prompts(edges, present, exact, tile, own)
                embedding = self.refiner.encode(self._cut(images, tile))
                logits = self.refiner.decode(embedding).class_logits
                scores = self.refiner.decode_class(embedding, logits, inside, own)
                self._add(total, weight, tile, scores.float())
        return (total / weight.clamp(min=1e-12))[:, 0]

    def _box_mask(self, edges: Tensor, present: Tensor) -> Tensor:
        """Return a mask (T, H, W) that fills the hull of boxes (T, 4), given in voxel edges, on
        each slice that has a box."""
        mask = torch.zeros(self.config.fine_window, dtype=torch.bool, device=edges.device)
        if present.any():
            low, high = edges[present, :2].amin(0), edges[present, 2:].amax(0)
            x1, y1 = (int(v) for v in low.floor().clamp(min=0))
            x2, y2 = (int(v) for v in high.ceil())
            mask[present, y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)] = True
        return mask

    def _prompts(
        self, edges: Tensor, present: Tensor, exact: Tensor | None, tile: Tile, own: int
    ) -> BoxPrompts:
        """Return the boxes of a class as prompts of the refiner in a tile.

        Args:
            edges: (T, 4) boxes in voxel edges on the slices of the window.
            present: bool (T,), True on slices that have a box.
            exact: bool (T,), True on slices with a tight box; None if all boxes are tight.
            tile: place of the refiner's window.
            own: index of the class in the refiner.
        """
        config = self.config.refiner
        slices, rows, columns = config.window
        first, row, column = tile.start
        part = slice(first, first + slices)
        shift = edges.new_tensor([column, row] * 2)
        size = edges.new_tensor([columns, rows] * 2)
        inside = ((edges[part] - shift) / size).clamp(0, 1)
        seen = present[part] & (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
        count = config.num_classes + 1
        boxes = edges.new_zeros(1, count, slices, 4)
        given = torch.zeros(1, count, dtype=torch.bool, device=edges.device)
        shown = torch.zeros(1, count, slices, dtype=torch.bool, device=edges.device)
        boxes[0, own], given[0, own], shown[0, own] = inside, seen.any(), seen
        tight = None
        if exact is not None:
            tight = torch.zeros_like(shown)
            tight[0, own] = exact[part]
        return BoxPrompts(boxes, given, shown, tight)

    def _tiles(self, window: int, mask: Tensor) -> Iterator[Tile]:
        """Yield half-overlapping windows of the refiner that cover a mask (T, H, W)."""
        if not mask.any():
            return
        own = self.config.refiner.window
        shown = (mask.any(last).any(first) for first, last in ((1, 2), (0, 2), (0, 1)))
        starts = [
            _starts(line, size, length)
            for line, size, length in zip(shown, own, mask.shape, strict=True)
        ]
        for depth, row, column in product(*starts):
            start = depth, row, column
            if mask[_place(start, own)].any():
                yield Tile(window, start)

    def _cut(self, images: Tensor, tile: Tile) -> Tensor:
        depth, rows, columns = _place(tile.start, self.config.refiner.window)
        return images[tile.window, None, :, depth, rows, columns]

    def _add(self, total: Tensor, weight: Tensor, tile: Tile, scores: Tensor) -> None:
        """Add the weighted scores (classes, T, h, w) of a tile to those of its window, in place."""
        slices, rows, columns = (_bell(size, scores) for size in self.config.refiner.window)
        share = slices[:, None, None] * rows[:, None] * columns
        place = (tile.window, slice(None), *_place(tile.start, share.shape))
        total[place] += scores * share
        weight[place] += share


def merged(scores: Tensor, found: Tensor, refined: Sequence[int]) -> Tensor:
    """Return the scores (B, K + 1, T, H, W) of all classes, from the base and the refiner.

    The best class that is not refined gets the refiner's whole share of all other classes. A voxel
    thus gets the class that the refiner chooses, however unsure the base is among the others.

    Args:
        scores: (B, K + 1, T, H, W) of the base, 0 for new classes.
        found: (B, R + 1, T, H, W) shares, first that of all other classes together, then those of
            the R refined classes; zeros where the refiner does not decide.
        refined: class index of each class of the refiner.
    """
    decides, (others, *own) = decided_shares(found.movedim(1, 0))
    rest = [index for index in range(scores.shape[1]) if index not in refined]
    total = scores.sum(1)
    best = reduce(torch.maximum, (scores[:, index] for index in rest))
    factor = others_factor(decides, others * total, best, total)
    result = scores * factor[:, None]
    for index, share in zip(refined, own, strict=True):
        result[:, index] = torch.where(decides, share * total, result[:, index])
    return result


def decided_shares(found: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the voxels that a refiner decides, and their shares, which sum to 1.

    Where shares were interpolated between decided and undecided voxels, a sum of at least 0.5
    counts as decided.

    Args:
        found: (R + 1, ...) shares, first that of all other classes together, then those of the R
            refined classes; zeros where the refiner does not decide.

    Returns:
        Mask of the decided voxels, bool (...), and the R + 1 shares, each (...).
    """
    sums = found.sum(0)
    whole = sums.clamp(min=0.5)
    return sums >= 0.5, [share / whole for share in found]


def others_factor(decides: Tensor, share: Tensor, best: Tensor, total: Tensor) -> Tensor:
    """Return the factor that scales the other classes' scores so that the best one equals a share;
    1 where the refiner does not decide.

    Args:
        decides: bool, True for the voxels that the refiner decides.
        share: share of all other classes together.
        best: best score among the other classes.
        total: sum of the scores of all classes.
    """
    factor = share / torch.maximum(best, (_LEAST_SHARE * total).clamp(min=1e-12))
    return torch.where(decides, factor, 1.0)


def dilated(mask: Tensor, reach: Sequence[int]) -> Tensor:
    """Dilate a mask, bool (B, T, H, W), by ``reach`` voxels along each axis."""
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


def _place(start: Sequence[int], size: Sequence[int]) -> tuple[slice, slice, slice]:
    depth, rows, columns = (
        slice(first, first + length) for first, length in zip(start, size, strict=True)
    )
    return depth, rows, columns


def _starts(shown: Tensor, size: int, length: int) -> list[int]:
    """Return the first voxels of half-overlapping windows that cover all true voxels of an axis.

    Args:
        shown: bool (length,), with at least one true voxel.
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

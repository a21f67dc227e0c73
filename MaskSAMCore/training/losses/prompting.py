"""Ground-truth boxes in place of proposals, so that the decoder learns to follow boxes.

A share of the windows is decoded from boxes like those of a user: tight boxes with a jitter, or
loose boxes that enclose the class over all slices of the window. The mask prompt is then cut to the
box, or left out for a share of the boxes, so that the decoder has to use the box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from MaskSAMCore.modeling.boxes import inside_boxes
from MaskSAMCore.modeling.configuration import Configuration
from MaskSAMCore.training.matcher import Targets

# Largest shift of each edge of a box that holds a part of its class, as a share of the box's size.
_PARTIAL_SHIFT = 0.3


@dataclass(frozen=True)
class PromptSettings(Configuration):
    """Shares and forms of ground-truth boxes.

    Attributes:
        share: share of (window, class) pairs with a ground-truth box.
        loose: share of ground-truth boxes that enclose the class over the whole window.
        drop_mask: share of ground-truth boxes without a mask prompt.
        jitter: largest shift of each edge of a box, as a share of the box's size.
        growth: largest outward shift of each edge of loose boxes, as a share of the box's size. The
            box of a user also encloses the class outside of the window.
        partial: share of ground-truth boxes that hold only a part of their class. This part is then
            the ground truth, as a user who draws such a box expects.
        exchange: share of windows whose queries get each other's class tokens, so that the decoder
            has to see from the box which class a mask shows.
        repeats: number of times that each encoded window is decoded, each time with other boxes.
    """

    share: float = 0.4
    loose: float = 0.4
    drop_mask: float = 0.4
    jitter: float = 0.1
    growth: float = 0.0
    partial: float = 0.0
    exchange: float = 0.0
    repeats: int = 1

    def __post_init__(self) -> None:
        for name in ("share", "loose", "drop_mask", "partial", "exchange"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"prompts.{name} must be between 0 and 1")
        if self.jitter < 0 or self.growth < 0:
            raise ValueError("prompts.jitter and prompts.growth must not be negative")
        if self.repeats < 1:
            raise ValueError("prompts.repeats must be at least 1")


@dataclass(frozen=True)
class PromptSample:
    """Forms of the ground-truth boxes of B windows, each bool (B, K + 1).

    Attributes:
        prompted: the class has a box.
        loose: the box encloses the class over the whole window.
        dropped: the mask prompt is left out.
        partial: the box holds only a part of the class.
    """

    prompted: Tensor
    loose: Tensor
    dropped: Tensor
    partial: Tensor

    def by_slice(self, slices: int, device: torch.device) -> PromptSample:
        """Return the forms for each of the B T slices."""
        forms = (self.prompted, self.loose, self.dropped, self.partial)
        return PromptSample(*(form.to(device).repeat_interleave(slices, 0) for form in forms))


def sample_prompts(
    batch: int, classes: int, settings: PromptSettings, rng: torch.Generator | None
) -> PromptSample:
    """Sample the classes that get a ground-truth box; the background never does.

    Args:
        batch: B.
        classes: K + 1.
        settings: shares of the boxes.
        rng: random generator on the CPU, or None for PyTorch's own.
    """

    def sample(share: float) -> Tensor:
        return torch.rand(batch, classes, generator=rng) < share

    prompted = sample(settings.share)
    prompted[:, 0] = False
    loose, dropped = sample(settings.loose), sample(settings.drop_mask)
    if not settings.partial:
        return PromptSample(prompted, loose, dropped, torch.zeros_like(prompted))
    partial = sample(settings.partial)
    return PromptSample(prompted, loose & ~partial, dropped, partial)


def exchanged_tokens(tokens: Tensor, share: float, rng: torch.Generator | None) -> Tensor:
    """Return class tokens (B, N, T, C) of which those of a share of the windows are permuted among
    the N queries, by the same permutation on all slices."""
    batch, queries = tokens.shape[:2]
    order = torch.rand(batch, queries, generator=rng).argsort(1)
    exchanged = torch.rand(batch, 1, generator=rng) < share
    order = torch.where(exchanged, order, torch.arange(queries))
    return tokens[torch.arange(batch)[:, None], order]


def ground_truth_boxes(
    targets: Targets, sample: PromptSample, settings: PromptSettings, rng: torch.Generator | None
) -> Tensor:
    """Return jittered boxes of the ground truth.

    Args:
        targets: ground truth of S = B T slices.
        sample: forms of the boxes.
        settings: sizes of the jitter and the growth.
        rng: random generator on the CPU, or None for PyTorch's own.

    Returns:
        (S, K + 1, 4).
    """
    batch = len(sample.loose)
    boxes = targets.boxes.unflatten(0, (batch, -1))
    present = targets.present.unflatten(0, (batch, -1))[..., None]
    lower = boxes[..., :2].masked_fill(~present, 2.0).amin(1, keepdim=True)
    upper = boxes[..., 2:].masked_fill(~present, -1.0).amax(1, keepdim=True)
    whole = torch.cat([lower, upper], -1)
    if settings.growth:
        whole = enlarge_boxes(whole, settings.growth, rng)
    boxes = torch.where(sample.loose[:, None, :, None].to(boxes.device), whole, boxes)
    boxes = jitter_boxes(boxes, settings.jitter, rng)
    if sample.partial.any():
        partial = sample.partial[:, None, :, None].to(boxes.device)
        boxes = torch.where(partial, jitter_boxes(boxes, _PARTIAL_SHIFT, rng), boxes)
    return boxes.flatten(0, 1)


def cut_targets(
    targets: Targets, slices: Tensor, classes: Tensor, boxes: Tensor, size: Sequence[int]
) -> Targets:
    """Return the ground truth with classes cut to boxes that hold only a part of them.

    The voxels that are cut off belong to no class, so that the losses ignore them.

    Args:
        targets: ground truth of S slices.
        slices: long (M,), slice of each box.
        classes: long (M,), class of each box.
        boxes: (M, 4).
        size: H and W.
    """
    masks = targets.masks.clone()
    inside = inside_boxes(boxes, *size).flatten(1)
    masks[slices, classes] *= inside.to(masks.dtype)
    return replace(targets, masks=masks)


def enlarge_boxes(boxes: Tensor, growth: float, rng: torch.Generator | None) -> Tensor:
    """Return boxes (..., 4) with each edge moved outward by at most ``growth`` times the box's
    size; small moves are more frequent."""
    outward = torch.rand(boxes.shape, generator=rng).to(boxes.device).square() * growth
    size = boxes[..., 2:] - boxes[..., :2]
    lower = boxes[..., :2] - outward[..., :2] * size
    return torch.cat([lower, boxes[..., 2:] + outward[..., 2:] * size], -1).clamp(0, 1)


def jitter_boxes(boxes: Tensor, jitter: float, rng: torch.Generator | None) -> Tensor:
    """Return boxes (..., 4) with each edge shifted by at most ``jitter`` times the box's size."""
    noise = torch.rand(boxes.shape, generator=rng).to(boxes.device) * 2 - 1
    size = (boxes[..., 2:] - boxes[..., :2]).repeat(*[1] * (boxes.ndim - 1), 2)
    return (boxes + noise * jitter * size).clamp(0, 1)

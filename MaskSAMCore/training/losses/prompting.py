"""Ground-truth boxes in place of proposals, so that the decoder learns to follow boxes.

A share of the windows is decoded from boxes like those of a user: tight boxes with a jitter, or
loose boxes that enclose the class over all slices of the window. The mask prompt is then cut to the
box, or left out for a share, so that the decoder has to use the box.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from MaskSAMCore.modeling.configuration import Configuration
from MaskSAMCore.training.matcher import Targets


@dataclass(frozen=True)
class PromptSettings(Configuration):
    """Shares and forms of ground-truth boxes.

    Attributes:
        share: share of (window, class) pairs with a ground-truth box.
        loose: share of these boxes that enclose the class over the whole window.
        drop_mask: share of these boxes without a mask prompt.
        jitter: largest shift of each edge, as a share of the box's size.
    """

    share: float = 0.4
    loose: float = 0.4
    drop_mask: float = 0.4
    jitter: float = 0.1


def sample_prompts(
    batch: int, classes: int, settings: PromptSettings, rng: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample the classes that get a ground-truth box; the background never does.

    Args:
        batch: B.
        classes: K + 1.
        settings: shares of the boxes.
        rng: random generator on the CPU, or None for PyTorch's own.

    Returns:
        Three bool (B, K + 1): the class has a box, the box is loose, the mask prompt is left out.
    """

    def sample(share: float) -> Tensor:
        return torch.rand(batch, classes, generator=rng) < share

    prompted = sample(settings.share)
    prompted[:, 0] = False
    return prompted, sample(settings.loose), sample(settings.drop_mask)


def ground_truth_boxes(
    targets: Targets, batch: int, loose: Tensor, jitter: float, rng: torch.Generator | None
) -> Tensor:
    """Return jittered boxes of the ground truth.

    Args:
        targets: ground truth of S = B T slices.
        batch: B.
        loose: bool (B, K + 1), true for boxes that enclose the class over the whole window.
        jitter: largest shift of each edge, as a share of the box's size.
        rng: random generator on the CPU, or None for PyTorch's own.

    Returns:
        (S, K + 1, 4).
    """
    boxes = targets.boxes.unflatten(0, (batch, -1))
    present = targets.present.unflatten(0, (batch, -1))[..., None]
    lower = boxes[..., :2].masked_fill(~present, 2.0).amin(1, keepdim=True)
    upper = boxes[..., 2:].masked_fill(~present, -1.0).amax(1, keepdim=True)
    whole = torch.cat([lower, upper], -1).expand_as(boxes)
    boxes = torch.where(loose[:, None, :, None].to(boxes.device), whole, boxes)
    return jitter_boxes(boxes, jitter, rng).flatten(0, 1)


def jitter_boxes(boxes: Tensor, jitter: float, rng: torch.Generator | None) -> Tensor:
    """Return boxes (..., 4) with each edge shifted by at most ``jitter`` times the box's size."""
    noise = torch.rand(boxes.shape, generator=rng).to(boxes.device) * 2 - 1
    size = (boxes[..., 2:] - boxes[..., :2]).repeat(*[1] * (boxes.ndim - 1), 2)
    return (boxes + noise * jitter * size).clamp(0, 1)

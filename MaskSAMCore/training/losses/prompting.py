"""Ground-truth boxes in place of proposals during training, so that the decoder listens to boxes.

A share of the windows is decoded from boxes as a person would give them: tight ones with a jitter,
or loose ones (the class's box over all slices of the window). The mask prompt is then cut to the
box, or left out altogether for a share, so that the box has to do the work.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from MaskSAMCore.modeling.box_prompts import inside_boxes
from MaskSAMCore.training.matcher import Targets


@dataclass(frozen=True)
class PromptSettings:
    """How often and how a proposal is replaced.

    Attributes:
        share: share of (window, class) pairs with a ground-truth box.
        loose: share of these whose box is that of the class over the whole window.
        drop_mask: share of these without mask prompt.
        jitter: largest shift of each edge, as a share of the box's own size.
    """

    share: float = 0.4
    loose: float = 0.4
    drop_mask: float = 0.4
    jitter: float = 0.1


def prompted_classes(
    batch: int, classes: int, settings: PromptSettings, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws three bool (B, K + 1): class has a box, the box is loose, its mask is left out. The
    background never has a box."""

    def draw(share: float) -> Tensor:
        return torch.rand(batch, classes, generator=generator) < share

    prompted = draw(settings.share)
    prompted[:, 0] = False
    return prompted, draw(settings.loose), draw(settings.drop_mask)


def jittered_boxes(
    targets: Targets,
    batch: int,
    loose: Tensor,
    jitter: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Boxes as a person would draw them: (S, K + 1, 4), with S = B T slices."""
    boxes = targets.boxes.unflatten(0, (batch, -1))
    present = targets.present.unflatten(0, (batch, -1))[..., None]
    lower = boxes[..., :2].masked_fill(~present, 2.0).amin(1, keepdim=True)
    upper = boxes[..., 2:].masked_fill(~present, -1.0).amax(1, keepdim=True)
    whole = torch.cat([lower, upper], -1).expand_as(boxes)
    boxes = torch.where(loose[:, None, :, None].to(boxes.device), whole, boxes)
    return shaken(boxes, jitter, generator).flatten(0, 1)


def shaken(boxes: Tensor, jitter: float, generator: torch.Generator | None) -> Tensor:
    """Boxes (..., 4), each edge shifted by at most a share of the box's own size."""
    noise = torch.rand(boxes.shape, generator=generator).to(boxes.device) * 2 - 1
    size = (boxes[..., 2:] - boxes[..., :2]).repeat(*[1] * (boxes.ndim - 1), 2)
    return (boxes + noise * jitter * size).clamp(0, 1)


def cut_masks(masks: Tensor, boxes: Tensor) -> Tensor:
    """Mask logits (M, h, w) with everything outside their boxes (M, 4) denied."""
    return masks.masked_fill(~inside_boxes(boxes, *masks.shape[-2:]), -30.0)

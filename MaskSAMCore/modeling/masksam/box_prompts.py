"""Box prompts of the user in place of proposals (GT-prompt mode of the supplement, section 6)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from MaskSAMCore.modeling.box_prompts import BoxPrompts
from MaskSAMCore.modeling.boxes import clip_boxes, inside_boxes
from MaskSAMCore.modeling.masksam.prompt_generator import Proposals

# Logit of excluded classes and voxels, whose probability is negligible.
EXCLUDED_LOGIT = -30.0
# Logit inside a filled box that serves as a mask prompt.
FILLED_LOGIT = 4.0
# A query shows a class where the probability of the class is above this.
SHOWN = 0.5


class PromptedQueries(NamedTuple):
    """Prompts of the queries after the user's boxes replaced some of the proposals.

    Attributes:
        boxes: (B, N, T, 4) box prompts.
        masks: (B, N, T, 4h, 4w) logits of the mask prompts.
        class_index: (B, N, T), class of the user's box that the query has; -1 without a box.
        bounds: (B, N, T, 4), the user's box that bounds the query's mask; zeros without a box.
    """

    boxes: Tensor
    masks: Tensor
    class_index: Tensor
    bounds: Tensor


def apply_box_prompts(
    class_logits: Tensor, proposals: Proposals, prompts: BoxPrompts, clip: bool = True
) -> PromptedQueries:
    """Give each box to the query that most likely shows its class, slice by slice.

    An exact box replaces the query's box. A box that only bounds the class clips the query's box if
    the query shows the class on the slice, and replaces it otherwise. The mask prompt is cut to the
    box, so that the proposal's shape survives inside it.

    Args:
        class_logits: (B, N, T, K + 2) of the proposals.
        proposals: prompts of the generator.
        prompts: boxes of the user.
        clip: True to clip as described; False lets every box replace the query's box.
    """
    boxes, masks = proposals.boxes.clone(), proposals.masks.clone()
    bounds = torch.zeros_like(boxes)
    probability = class_logits.float().softmax(-1)
    classes = torch.full(probability.shape[:-1], -1, device=probability.device)
    for class_index in range(prompts.given.shape[1]):
        active = prompts.given[:, class_index, None] & prompts.present[:, class_index]
        if not active.any():
            continue
        free = probability[..., class_index].masked_fill(classes >= 0, -1)
        query = free.argmax(1, keepdim=True)
        batch, slices = active.nonzero(as_tuple=True)
        chosen = query[:, 0][active]
        box = prompts.boxes[:, class_index][active].to(boxes.dtype)
        if clip and prompts.exact is not None:
            own = boxes[batch, chosen, slices]
            shown = probability[..., class_index].gather(1, query)[:, 0][active] > SHOWN
            clipped = shown & ~prompts.exact[:, class_index][active]
            boxes[batch, chosen, slices] = torch.where(clipped[:, None], clip_boxes(own, box), box)
        else:
            boxes[batch, chosen, slices] = box
        bounds[batch, chosen, slices] = box
        masks[batch, chosen, slices] = cut_masks(masks[batch, chosen, slices], box)
        classes[batch, chosen, slices] = class_index
    return PromptedQueries(boxes, masks, classes, bounds)


def restrict_prediction(
    class_logits: Tensor, mask_logits: Tensor, queries: PromptedQueries, prompts: BoxPrompts
) -> tuple[Tensor, Tensor]:
    """Restrict a prediction to the user's boxes.

    A query with a box has the class of the box and stays inside it. No other query has that class,
    and none has it on slices that the box does not cross.

    Args:
        class_logits: (B, N, T, K + 2) of the decoder.
        mask_logits: (B, N, T, H, W) of the decoder.
        queries: prompts that were decoded.
        prompts: boxes of the user.

    Returns:
        The restricted class logits and mask logits.
    """
    class_logits, mask_logits = class_logits.clone(), mask_logits.clone()
    for class_index in range(prompts.given.shape[1]):
        own = queries.class_index == class_index
        others = prompts.given[:, None, None, class_index] & ~own
        logits = class_logits[..., class_index].masked_fill(others, EXCLUDED_LOGIT)
        class_logits[own] = torch.full_like(class_logits[own], EXCLUDED_LOGIT)
        class_logits[..., class_index] = logits.masked_fill(own, -EXCLUDED_LOGIT)
        mask_logits[own] = cut_masks(mask_logits[own], queries.bounds[own])
    return class_logits, mask_logits


def filled_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return mask logits (B, N, T, height, width) that fill boxes (B, N, T, 4)."""
    inside = inside_boxes(boxes.flatten(0, 2), height, width).unflatten(0, boxes.shape[:3])
    return torch.where(inside, FILLED_LOGIT, -FILLED_LOGIT)


def cut_masks(masks: Tensor, boxes: Tensor) -> Tensor:
    """Return mask logits (M, h, w) that are negative outside of their boxes (M, 4)."""
    return masks.masked_fill(~inside_boxes(boxes, *masks.shape[-2:]), EXCLUDED_LOGIT)

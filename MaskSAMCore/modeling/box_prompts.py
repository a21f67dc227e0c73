"""Boxes from a person in place of proposals (the GT-prompt mode of the supplement, section 6)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from MaskSAMCore.modeling.masksam.prompt_generator import Proposals

_NEVER = -30.0
# A query shows a class where that is more likely than not.
SHOWN = 0.5


class BoxPrompts(NamedTuple):
    """Boxes of classes in a window.

    Attributes:
        boxes: (B, K + 1, T, 4), x1 y1 x2 y2 in voxel edges normalised by the window's W and H.
        given: bool (B, K + 1), the class has a box; others keep the generator's proposals.
        present: bool (B, K + 1, T), the class's box crosses the slice.
        exact: bool (B, K + 1, T), the box is the class's own on the slice. Where it is not, it only
            bounds the class: it comes from a box in space, which is loose on most of its slices.
            None: all are exact.
    """

    boxes: Tensor
    given: Tensor
    present: Tensor
    exact: Tensor | None = None


class ChangedPrompts(NamedTuple):
    """Proposals after a person's boxes: boxes (B, N, T, 4), mask logits (B, N, T, 4h, 4w), the
    class that a box forces on a query (B, N, T), -1 where there is none, and there the box that the
    query is held to (B, N, T, 4)."""

    boxes: Tensor
    masks: Tensor
    forced: Tensor
    bounds: Tensor


def apply_box_prompts(
    class_logits: Tensor, proposals: Proposals, prompts: BoxPrompts
) -> ChangedPrompts:
    """Gives each box to the query that most likely shows its class, slice by slice.

    An exact box replaces the query's. One that bounds the class clips the query's, where the query
    shows the class there, and replaces it where it does not. The mask prompt is cut to the box: the
    proposal's shape survives inside it.
    """
    boxes, masks = proposals.boxes.clone(), proposals.masks.clone()
    bounds = torch.zeros_like(boxes)
    likely = class_logits.float().softmax(-1)
    forced = torch.full(likely.shape[:-1], -1, device=likely.device)
    for label in range(prompts.given.shape[1]):
        active = prompts.given[:, label, None] & prompts.present[:, label]
        if not active.any():
            continue
        free = likely[..., label].masked_fill(forced >= 0, -1)
        query = free.argmax(1, keepdim=True)
        batch, _, slices = (x[active] for x in _indices(query[:, 0]))
        chosen = query[:, 0][active]
        box = prompts.boxes[:, label][active].to(boxes.dtype)
        if prompts.exact is not None:
            own = boxes[batch, chosen, slices]
            shown = likely[..., label].gather(1, query)[:, 0][active] > SHOWN
            clipped = shown & ~prompts.exact[:, label][active]
            boxes[batch, chosen, slices] = torch.where(
                clipped[:, None], clipped_boxes(own, box), box
            )
        else:
            boxes[batch, chosen, slices] = box
        bounds[batch, chosen, slices] = box
        inside = inside_boxes(box, masks.shape[-2], masks.shape[-1])
        masks[batch, chosen, slices] = masks[batch, chosen, slices].masked_fill(~inside, _NEVER)
        forced[batch, chosen, slices] = label
    return ChangedPrompts(boxes, masks, forced, bounds)


def restrict_prediction(
    class_logits: Tensor, mask_logits: Tensor, changed: ChangedPrompts, prompts: BoxPrompts
) -> tuple[Tensor, Tensor]:
    """Holds a decoded prediction to the boxes: a query with a box has the box's class and stays in
    it, and no other query, and no slice without the box, has that class."""
    class_logits, mask_logits = class_logits.clone(), mask_logits.clone()
    for label in range(prompts.given.shape[1]):
        mine = changed.forced == label
        others = prompts.given[:, None, None, label] & ~mine
        class_logits[..., label] = class_logits[..., label].masked_fill(others, _NEVER)
        class_logits[mine] = torch.full_like(class_logits[mine], _NEVER)
        class_logits[..., label] = class_logits[..., label].masked_fill(mine, -_NEVER)
        inside = inside_boxes(changed.bounds[mine], *mask_logits.shape[-2:])
        mask_logits[mine] = mask_logits[mine].masked_fill(~inside, _NEVER)
    return class_logits, mask_logits


def clipped_boxes(boxes: Tensor, bounds: Tensor) -> Tensor:
    """The parts of boxes (M, 4) inside their bounds (M, 4); the bounds where nothing is inside."""
    lower = torch.maximum(boxes[:, :2], bounds[:, :2])
    upper = torch.minimum(boxes[:, 2:], bounds[:, 2:])
    empty = (upper <= lower).any(-1, keepdim=True)
    return torch.where(empty, bounds, torch.cat([lower, upper], -1))


def inside_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes (M, 4) to bool (M, height, width): voxels whose centre lies inside."""
    y = (torch.arange(height, device=boxes.device) + 0.5) / height
    x = (torch.arange(width, device=boxes.device) + 0.5) / width
    x1, y1, x2, y2 = (edge[:, None] for edge in boxes.float().unbind(-1))
    rows = (y >= y1) & (y <= y2)
    columns = (x >= x1) & (x <= x2)
    return rows[:, :, None] & columns[:, None, :]


def _indices(query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Batch, query and slice indices of a (B, T) map."""
    batch = torch.arange(query.shape[0], device=query.device)[:, None].expand_as(query)
    slices = torch.arange(query.shape[1], device=query.device)[None].expand_as(query)
    return batch, query, slices

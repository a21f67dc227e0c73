"""Boxes of masks and masks of boxes; a box is x1 y1 x2 y2 in voxel edges, normalised to 0..1."""

from __future__ import annotations

import torch
from torch import Tensor


def mask_boxes(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tight boxes of binary masks.

    Args:
        masks: bool (..., H, W).

    Returns:
        Boxes (..., 4), zeros where a mask is empty, and bool (...), true where a mask has a voxel.
    """
    height, width = masks.shape[-2:]

    def extent(line: Tensor, length: int) -> tuple[Tensor, Tensor]:
        first = line.argmax(-1)
        last = length - line.flip(-1).argmax(-1)
        return first / length, last / length

    # The maximum of bytes is faster than ``any`` of booleans.
    counts = masks.view(torch.uint8)
    columns, rows = counts.amax(-2), counts.amax(-1)
    x1, x2 = extent(columns, width)
    y1, y2 = extent(rows, height)
    present = columns.amax(-1) > 0
    return torch.stack([x1, y1, x2, y2], -1) * present[..., None], present


def inside_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return for each box a mask of the voxels whose centre lies inside it.

    Args:
        boxes: (M, 4).
        height: rows of the slice.
        width: columns of the slice.

    Returns:
        bool (M, height, width).
    """
    y = (torch.arange(height, device=boxes.device) + 0.5) / height
    x = (torch.arange(width, device=boxes.device) + 0.5) / width
    x1, y1, x2, y2 = (edge[:, None] for edge in boxes.float().unbind(-1))
    rows = (y >= y1) & (y <= y2)
    columns = (x >= x1) & (x <= x2)
    return rows[:, :, None] & columns[:, None, :]


def clip_boxes(boxes: Tensor, bounds: Tensor) -> Tensor:
    """Clip boxes (M, 4) to their bounds (M, 4); a box outside its bounds is replaced by the
    bounds."""
    lower = torch.maximum(boxes[:, :2], bounds[:, :2])
    upper = torch.minimum(boxes[:, 2:], bounds[:, 2:])
    empty = (upper <= lower).any(-1, keepdim=True)
    return torch.where(empty, bounds, torch.cat([lower, upper], -1))

"""Which query shows which class of a slice: costs of all pairs, and the Hungarian assignment.

Costs equal losses (paper, Equation 1): classification, final masks, auxiliary masks and boxes, all
at once for every slice; one ground-truth mask a class present in the slice, background included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """Ground truth of S slices, one row a class 0..K (0 is the background).

    Attributes:
        masks: float (S, K + 1, H W), binary.
        boxes: (S, K + 1, 4), tight, normalised x1 y1 x2 y2.
        present: bool (S, K + 1).
    """

    masks: Tensor
    boxes: Tensor
    present: Tensor


@dataclass(frozen=True)
class Assignment:
    """Matched pairs over S slices: query ``queries[i]`` of slice ``slices[i]`` shows class
    ``classes[i]``."""

    slices: Tensor
    queries: Tensor
    classes: Tensor


def pairwise_mask_costs(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and Dice loss of all pairs, as matrix products.

    Args:
        logits: (S, N, P) mask logits. Logits, not probabilities: the sigmoid is taken here, once.
        masks: (S, K + 1, P) binary.

    Returns:
        Two (S, N, K + 1).
    """
    # Where automatic mixed precision would round sums over thousands of voxels.
    with torch.autocast(logits.device.type, enabled=False):
        logits, masks = logits.float(), masks.float()
        targets = masks.transpose(1, 2)
        bce = (F.softplus(logits).sum(-1, keepdim=True) - logits @ targets) / logits.shape[-1]
        probability = logits.sigmoid()
        sizes = probability.sum(-1, keepdim=True) + masks.sum(-1)[:, None]
        dice = 1 - (2 * (probability @ targets) + 1) / (sizes + 1)
    return bce, dice


def pairwise_box_costs(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """L1 distance and 1 - generalised IoU of all pairs: (S, N, 4) and (S, K + 1, 4) to two
    (S, N, K + 1)."""
    a, b = boxes.float()[:, :, None], targets.float()[:, None]
    distance = (a - b).abs().sum(-1)
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(
        min=0
    )
    intersection = overlap.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - intersection
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    union, hull = union.clamp(min=1e-6), hull.clamp(min=1e-6)
    return distance, 1 - intersection / union + (hull - union) / hull


def match(cost: Tensor, present: Tensor) -> Assignment:
    """Optimal one-to-one assignment of the present classes of each slice to its queries.

    Args:
        cost: (S, N, K + 1); only differences matter.
        present: bool (S, K + 1).

    Raises:
        ValueError: fewer queries than classes present in a slice.
        FloatingPointError: a cost is not finite.
    """
    most = int(present.sum(1).max()) if len(present) else 0
    if most > cost.shape[1]:
        raise ValueError(
            f"a slice shows {most} classes (background included) but the model has only"
            f" {cost.shape[1]} queries: raise 'queries' to at least {most}"
        )
    costs, shown = cost.detach().float().cpu().numpy(), present.cpu().numpy()
    if not np.isfinite(costs).all():
        raise FloatingPointError("the costs of the matching are not finite")
    slices, queries, classes = [], [], []
    for index in range(len(costs)):
        labels = np.flatnonzero(shown[index])
        rows, columns = linear_sum_assignment(costs[index][:, labels])
        slices.append(np.full(len(rows), index))
        queries.append(rows)
        classes.append(labels[columns])
    parts = (slices, queries, classes)
    pieces = [np.concatenate(part) if part else np.empty(0, np.int64) for part in parts]
    return Assignment(*(torch.as_tensor(p, dtype=torch.long, device=cost.device) for p in pieces))

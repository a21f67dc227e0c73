"""Hungarian matching of queries to the classes of each slice.

The costs are the losses (paper, Equation 1): classification, final masks, auxiliary masks and
boxes, computed for all slices at once. Every class present in a slice, background included, has one
ground-truth mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from MaskSAMCore.modeling.layers import full_precision, repeated


@dataclass(frozen=True)
class Targets:
    """Ground truth of S slices: one mask and one box for each class 0..K (0 is the background).

    Attributes:
        masks: binary masks, float (S, K + 1, H * W).
        boxes: tight bounding boxes, float (S, K + 1, 4), normalised x1 y1 x2 y2.
        present: classes that occur in each slice, bool (S, K + 1).
    """

    masks: Tensor
    boxes: Tensor
    present: Tensor

    def of_windows(self, windows: slice, batch: int) -> Targets:
        """Return the ground truth of some of the ``batch`` windows that the slices belong to."""
        parts = (self.masks, self.boxes, self.present)
        return Targets(*(x.unflatten(0, (batch, -1))[windows].flatten(0, 1) for x in parts))

    def repeated(self, times: int) -> Targets:
        """Return the ground truth of all slices several times, one after the other."""
        return Targets(*(repeated(x, times) for x in (self.masks, self.boxes, self.present)))


@dataclass(frozen=True)
class Assignment:
    """Matched pairs of all slices: query ``queries[i]`` of slice ``slices[i]`` is matched to class
    ``classes[i]``.

    Attributes:
        slices: slice index of each pair, long (M,).
        queries: query index of each pair, long (M,).
        classes: class index of each pair, long (M,).
    """

    slices: Tensor
    queries: Tensor
    classes: Tensor


# Function of the costs (S, N, K + 1) and of the classes present in each slice, bool (S, K + 1).
Matching = Callable[[Tensor, Tensor], Assignment]


def pairwise_mask_costs(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the binary cross-entropy and the Dice loss of every query with every class.

    Args:
        logits: mask logits (S, N, P), not probabilities: the sigmoid is applied here.
        masks: binary masks (S, K + 1, P).

    Returns:
        Two tensors (S, N, K + 1): cross-entropy and Dice loss.
    """
    # Mixed precision would round these sums over thousands of voxels.
    with full_precision(logits):
        logits, masks = logits.float(), masks.float()
        targets = masks.transpose(1, 2)
        bce = (F.softplus(logits).sum(-1, keepdim=True) - logits @ targets) / logits.shape[-1]
        probability = logits.sigmoid()
        sizes = probability.sum(-1, keepdim=True) + masks.sum(-1)[:, None]
        dice = 1 - (2 * (probability @ targets) + 1) / (sizes + 1)
    return bce, dice


def pairwise_box_costs(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the L1 distance and 1 - generalised IoU of every predicted box with every target box.

    Args:
        boxes: predicted boxes (S, N, 4), x1 y1 x2 y2.
        targets: ground-truth boxes (S, K + 1, 4), x1 y1 x2 y2.

    Returns:
        Two tensors (S, N, K + 1): L1 distance and 1 - generalised IoU.
    """
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
    """Assign the classes present in each slice to its queries, one to one, at the lowest cost.

    Args:
        cost: cost of each pair (S, N, K + 1); only differences between pairs matter.
        present: classes that occur in each slice, bool (S, K + 1).

    Raises:
        ValueError: fewer queries than classes present in a slice.
        FloatingPointError: a cost is not finite.
    """
    most = int(present.sum(1).max()) if len(present) else 0
    if most > cost.shape[1]:
        raise ValueError(
            f"a slice contains {most} classes (background included) but the model has only"
            f" {cost.shape[1]} queries: raise 'queries' to at least {most}"
        )
    costs, occurs = cost.detach().float().cpu().numpy(), present.cpu().numpy()
    if not np.isfinite(costs).all():
        raise FloatingPointError("the matching costs are not finite")
    slices, queries, classes = [], [], []
    for index in range(len(costs)):
        candidates = np.flatnonzero(occurs[index])
        rows, columns = linear_sum_assignment(costs[index][:, candidates])
        slices.append(np.full(len(rows), index))
        queries.append(rows)
        classes.append(candidates[columns])
    parts = (slices, queries, classes)
    pieces = [np.concatenate(part) if part else np.empty(0, np.int64) for part in parts]
    return Assignment(*(torch.as_tensor(p, dtype=torch.long, device=cost.device) for p in pieces))

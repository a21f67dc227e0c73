"""Networks that predict class logits, without queries and prompts, and their loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from MaskSAMCore.modeling.base import ClassScores, Network
from MaskSAMCore.modeling.box_prompts import BoxPrompts
from MaskSAMCore.modeling.boxes import inside_boxes
from MaskSAMCore.training.losses.common import cross_entropy_and_dice


class ClassLogitsNetwork(Network):
    """Base class of networks that predict class logits."""

    training_methods: ClassVar[tuple[str, ...]] = ("encode", "supervised_logits")

    def supervised_logits(self, images: Tensor) -> list[Tensor]:
        """Return class logits (B, K + 1, T, H, W) of images (B, C, T, H, W), fine to coarse.

        Stages after the first one have a coarser grid, and serve deep supervision only.
        """
        raise NotImplementedError

    def decode(self, embedding: Tensor, prompts: BoxPrompts | None = None) -> ClassScores:
        """Return the class probabilities of class logits (B, K + 1, T, H, W).

        The network has no prompts: a box only removes voxels of its class that lie outside.
        """
        scores = embedding.float().softmax(1)
        if prompts is None:
            return ClassScores(scores)
        boxes = prompts.boxes.float()
        inside = inside_boxes(boxes.flatten(0, 2), *scores.shape[-2:]).unflatten(0, boxes.shape[:3])
        inside = inside & prompts.present[..., None, None]
        return ClassScores(scores * (inside | ~prompts.given[..., None, None, None]))


def supervised_loss(
    stages: Sequence[Tensor],
    labels: Tensor,
    shares: Sequence[float],
    weights: tuple[float, float],
    background: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of class logits at several resolutions, and its parts for the log.

    Args:
        stages: (B, K + 1, T, H, W) logits, fine to coarse.
        labels: long (B, T, H, W), 0..K; negative ones are padding.
        shares: relative weight of each stage.
        weights: weights of the cross-entropy and of the Dice loss.
        background: whether class 0 counts in the Dice loss.
    """
    loss = stages[0].new_zeros((), dtype=stages[0].float().dtype)
    parts = {name: loss.clone() for name in ("cross_entropy", "dice")}
    for share, logits in zip(shares, stages, strict=True):
        target = labels
        if logits.shape[2:] != labels.shape[1:]:
            coarse = F.interpolate(labels[:, None].float(), logits.shape[2:], mode="nearest")
            target = coarse[:, 0].long()
        entropy, dice = cross_entropy_and_dice(logits.float(), target, background)
        part = weights[0] * entropy + weights[1] * dice
        loss = loss + share / sum(shares) * part
        parts["cross_entropy"] += share / sum(shares) * entropy.detach()
        parts["dice"] += share / sum(shares) * dice.detach()
    return loss, parts

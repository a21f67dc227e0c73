"""Loss of the SAM-based networks that the paper compares with: cross-entropy and Dice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from MaskSAMCore.modeling.configuration import Configuration
from MaskSAMCore.research.class_logits import supervised_loss
from MaskSAMCore.research.sam_baselines.network import SamBaseline


@dataclass(frozen=True)
class LossSettings(Configuration):
    """Settings of the loss.

    Attributes:
        cross_entropy: weight of the cross-entropy.
        dice: weight of the Dice loss.
        background: whether class 0 counts in the Dice loss.
    """

    cross_entropy: float = 0.2
    dice: float = 0.8
    background: bool = True


def training_loss(
    model: SamBaseline,
    images: Tensor,
    labels: Tensor,
    settings: LossSettings,
    rng: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a training step, and its parts for the log.

    Each stage counts half as much as the next finer one.

    Args:
        model: network in training mode.
        images: (B, C, T, H, W).
        labels: long (B, T, H, W), 0..K; negative ones are padding.
        settings: weights of the parts.
        rng: unused, because nothing is random.
    """
    stages = model.supervised_logits(images)
    shares = [0.5**index for index in range(len(stages))]
    weights = settings.cross_entropy, settings.dice
    return supervised_loss(stages, labels, shares, weights, settings.background)

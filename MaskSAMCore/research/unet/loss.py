"""Loss of the U-Net: cross-entropy and Dice with nnU-Net's deep supervision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from MaskSAMCore.modeling.configuration import Configuration
from MaskSAMCore.research.class_logits import supervised_loss
from MaskSAMCore.research.unet.network import UNet
from MaskSAMCore.training.losses.common import split_shared_settings


@dataclass(frozen=True)
class LossSettings(Configuration):
    """Settings of the U-Net's loss.

    Attributes:
        cross_entropy: weight of the cross-entropy.
        dice: weight of the Dice loss of the foreground.
    """

    cross_entropy: float = 1.0
    dice: float = 1.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LossSettings:
        """Build settings from the plain types of :meth:`to_dict`, or of former shared settings."""
        if "weights" in values:
            weights, _ = split_shared_settings(values)
            values = {key: weights[key] for key in ("cross_entropy", "dice")}
        return super().from_dict(values)


def training_loss(
    model: UNet,
    images: Tensor,
    labels: Tensor,
    settings: LossSettings,
    rng: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a training step, and its parts for the log.

    Each stage counts half as much as the next finer one, and the coarsest not at all.

    Args:
        model: network in training mode.
        images: (B, C, T, H, W).
        labels: long (B, T, H, W), 0..K; negative ones are padding.
        settings: weights of the parts.
        rng: unused, because nothing is random.
    """
    stages = model.supervised_logits(images)
    shares = [0.5**index for index in range(len(stages))]
    if len(stages) > 1:
        shares[-1] = 0.0
    weights = settings.cross_entropy, settings.dice
    return supervised_loss(stages, labels, shares, weights, background=False)

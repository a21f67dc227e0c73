"""Cross-entropy with a weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from MaskSAMCore.modeling.configuration import Configuration
from MaskSAMCore.research.toy.network import Network


@dataclass(frozen=True)
class LossSettings(Configuration):
    weight: float = 1.0


def training_loss(
    model: Network,
    images: Tensor,
    labels: Tensor,
    settings: LossSettings,
    rng: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, float]]:
    loss = settings.weight * F.cross_entropy(model.encode(images), labels, ignore_index=-1)
    return loss, {"cross_entropy": float(loss.detach())}

"""Loss of MaskSAM without the prompt generator: each box of the ground truth has its own mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from MaskSAMCore.modeling.configuration import Configuration
from MaskSAMCore.modeling.prompted.network import PromptedMaskSAM
from MaskSAMCore.training.losses.masksam import by_slice, slice_targets
from MaskSAMCore.training.matcher import pairwise_mask_costs


@dataclass(frozen=True)
class LossSettings(Configuration):
    """Settings of the loss.

    Attributes:
        classification: weight of the classes' cross-entropy.
        mask_bce: weight of the masks' binary cross-entropy.
        mask_dice: weight of the masks' Dice loss.
    """

    classification: float = 0.2
    mask_bce: float = 1.5
    mask_dice: float = 1.5


def training_loss(
    model: PromptedMaskSAM,
    images: Tensor,
    labels: Tensor,
    settings: LossSettings,
    rng: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a training step, averaged over its windows, and its parts for the log.

    The boxes are the tight boxes of the ground truth in each slice; the background's box is the
    whole slice. The class of each box is known, so that no matching is needed.

    Args:
        model: network in training mode.
        images: (B, C, T, H, W).
        labels: long (B, T, H, W), 0..K; negative ones are padding.
        settings: weights of the parts.
        rng: unused, because nothing is random.
    """
    targets = slice_targets(labels, model.config.num_classes)
    batch = len(images)
    boxes, present = (
        x.unflatten(0, (batch, -1)).transpose(1, 2) for x in (targets.boxes, targets.present)
    )
    boxes = boxes.clone()
    boxes[:, 0] = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    class_logits, masks = model.run_decoder(model.encode(images), boxes, present)
    bce, dice = (
        costs.diagonal(dim1=1, dim2=2)
        for costs in pairwise_mask_costs(by_slice(masks).flatten(2), targets.masks)
    )
    logits = by_slice(class_logits).float()
    wanted = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[:2])
    entropy = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
    shown = targets.present.float()
    count = shown.unflatten(0, (batch, -1)).sum((1, 2)).clamp(min=1)

    def window_mean(values: Tensor) -> Tensor:
        return ((values * shown).unflatten(0, (batch, -1)).sum((1, 2)) / count).mean()

    mask_loss = window_mean(settings.mask_bce * bce + settings.mask_dice * dice)
    class_loss = window_mean(entropy.view_as(shown))
    loss = mask_loss + settings.classification * class_loss
    return loss, {"masks": mask_loss.detach(), "classes": class_loss.detach()}

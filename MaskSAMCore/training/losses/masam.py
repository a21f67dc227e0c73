"""Loss of MA-SAM: cross-entropy and Dice, with the box of one class in a share of the windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from MaskSAMCore.modeling import MASam
from MaskSAMCore.modeling.boxes import mask_boxes
from MaskSAMCore.modeling.configuration import Configuration
from MaskSAMCore.modeling.masam.network import MASamEmbedding
from MaskSAMCore.training.losses.common import cross_entropy_and_dice, split_shared_settings
from MaskSAMCore.training.losses.prompting import jitter_boxes


@dataclass(frozen=True)
class LossSettings(Configuration):
    """Settings of MA-SAM's loss.

    Attributes:
        cross_entropy: weight of the cross-entropy.
        dice: weight of the Dice loss.
        box_share: share of windows with the box of one class.
        box_jitter: largest shift of each edge of a box, as a share of the box's size.
        each_window: average the losses of the windows of a batch, so that a step does not depend on
            how its windows are divided among devices and accumulated parts.
    """

    cross_entropy: float = 0.2
    dice: float = 0.8
    box_share: float = 0.4
    box_jitter: float = 0.1
    each_window: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LossSettings:
        """Build settings from the plain types of :meth:`to_dict`, or of former shared settings."""
        if "weights" in values:
            weights, prompts = split_shared_settings(values)
            values = {
                "cross_entropy": weights["cross_entropy"],
                "dice": weights["dice"],
                "box_share": prompts["share"],
                "box_jitter": prompts["jitter"],
            }
        return super().from_dict(values)


def training_loss(
    model: MASam,
    images: Tensor,
    labels: Tensor,
    settings: LossSettings,
    rng: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a training step, and its parts for the log.

    Args:
        model: network in training mode.
        images: (B, C, T, H, W).
        labels: long (B, T, H, W), 0..K; negative ones are padding.
        settings: weights of the parts and share of the boxes.
        rng: random generator of the boxes on the CPU, or None for PyTorch's own.
    """
    embedding = model.encode(images)
    if settings.box_share > 0:
        logits, order = prompted_logits(model, embedding, labels, settings, rng)
        labels = labels[order]
    else:
        logits = model.run_decoder(embedding)
    size = 1 if settings.each_window else len(labels)
    pairs = [
        cross_entropy_and_dice(some, wanted)
        for some, wanted in zip(logits.split(size), labels.split(size), strict=True)
    ]
    entropy, dice = (torch.stack(parts).mean() for parts in zip(*pairs, strict=True))
    loss = settings.cross_entropy * entropy + settings.dice * dice
    return loss, {"cross_entropy": entropy.detach(), "dice": dice.detach()}


def prompted_logits(
    model: MASam,
    embedding: MASamEmbedding,
    labels: Tensor,
    settings: LossSettings,
    rng: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Decode windows, a share of them with the box of one class.

    Returns:
        Class logits (B, K + 1, T, H, W) of the windows in a new order, and the index (B,) of each
        in the batch.
    """
    boxes, classes = sample_boxes(labels, model.config.num_classes, settings, rng)
    parts = []
    for some in ((classes == 0).nonzero()[:, 0], (classes > 0).nonzero()[:, 0]):
        if some.numel():
            prompted = bool(classes[some[0]] > 0)
            logits = model.run_decoder(
                MASamEmbedding(embedding.neck[some]),
                boxes[some] if prompted else None,
                classes[some] if prompted else None,
            )
            parts.append((some, logits))
    order = torch.cat([some for some, _ in parts])
    return torch.cat([logits for _, logits in parts]), order


def sample_boxes(
    labels: Tensor, num_classes: int, settings: LossSettings, rng: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Sample at most one box for each window.

    Args:
        labels: long (B, T, H, W).
        num_classes: K.
        settings: share of windows with a box, and its jitter.
        rng: random generator on the CPU, or None for PyTorch's own.

    Returns:
        Boxes (B, 4) around a class in all slices, normalised x1 y1 x2 y2, and the class index (B,),
        0 where there is no box.
    """
    index = torch.arange(1, num_classes + 1, device=labels.device)[:, None, None, None]
    extent = (labels[:, None] == index).any(2)
    boxes, present = mask_boxes(extent)
    priority = torch.rand(present.shape, generator=rng).to(labels.device) * present
    chosen = priority.argmax(1)
    prompted = torch.rand(len(labels), generator=rng) < settings.box_share
    classes = torch.where(prompted.to(labels.device) & present.any(1), chosen + 1, 0)
    box = boxes[torch.arange(len(labels), device=labels.device), chosen]
    return jitter_boxes(box, settings.box_jitter, rng), classes

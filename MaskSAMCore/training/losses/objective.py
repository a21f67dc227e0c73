"""The loss of each kind of network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from MaskSAMCore.modeling import MASam, Network, UNet
from MaskSAMCore.modeling.masam.network import MASamEmbedding
from MaskSAMCore.modeling.masksam.prompt_generator import mask_boxes
from MaskSAMCore.training.losses.masksam import LossSettings, masksam_loss
from MaskSAMCore.training.losses.prompting import shaken

# Class probabilities need no more than this many voxels to count in a Dice.
_SMOOTH = 1.0


def training_loss(
    model: Network,
    images: Tensor,
    labels: Tensor,
    settings: LossSettings,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """One training step's loss.

    Args:
        model: in training.
        images: (B, C, T, H, W).
        labels: long (B, T, H, W), 0..K; negative ones are padding.
        settings: weights of its parts and the share of prompts.
        generator: the source of the prompts' random numbers (CPU).

    Returns:
        The loss, and its parts for the log.
    """
    if isinstance(model, MASam):
        return masam_loss(model, images, labels, settings, generator)
    if isinstance(model, UNet):
        return unet_loss(model, images, labels, settings)
    return masksam_loss(model, images, labels, settings, generator)


def masam_loss(
    model: MASam,
    images: Tensor,
    labels: Tensor,
    settings: LossSettings,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy and Dice; a share of the windows is decoded with the box of one of its classes,
    as a person would draw it for the whole stack. See :func:`training_loss`."""
    embedding = model.encode(images)
    boxes, drawn = stack_prompts(labels, model.config.num_classes, settings, generator)
    parts = []
    for some in ((drawn == 0).nonzero()[:, 0], (drawn > 0).nonzero()[:, 0]):
        if some.numel():
            prompted = bool(drawn[some[0]] > 0)
            chosen = MASamEmbedding(embedding.neck[some])
            logits = model.run_decoder(
                chosen, boxes[some] if prompted else None, drawn[some] if prompted else None
            )
            parts.append((some, logits))
    order = torch.cat([some for some, _ in parts])
    logits = torch.cat([logits for _, logits in parts])
    entropy, dice = entropy_and_dice(logits, labels[order])
    weights = settings.weights
    loss = weights.cross_entropy * entropy + weights.dice * dice
    return loss, {"cross_entropy": float(entropy.detach()), "dice": float(dice.detach())}


def stack_prompts(
    labels: Tensor,
    num_classes: int,
    settings: LossSettings,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Draws one box a window, or none.

    Args:
        labels: long (B, T, H, W).
        num_classes: K.
        settings: the share of windows with a box, and its jitter.
        generator: on the CPU.

    Returns:
        Boxes (B, 4), each around all slices' voxels of a class, normalised x1 y1 x2 y2, and that
        class (B,), 0 where there is no box.
    """
    classes = torch.arange(1, num_classes + 1, device=labels.device)[:, None, None, None]
    extent = (labels[:, None] == classes).any(2)
    boxes, present = mask_boxes(extent)
    chance = torch.rand(present.shape, generator=generator).to(labels.device) * present
    chosen = chance.argmax(1)
    wanted = torch.rand(len(labels), generator=generator) < settings.prompts.share
    drawn = torch.where(wanted.to(labels.device) & present.any(1), chosen + 1, 0)
    box = boxes[torch.arange(len(labels), device=labels.device), chosen]
    return shaken(box, settings.prompts.jitter, generator), drawn


def unet_loss(
    model: UNet, images: Tensor, labels: Tensor, settings: LossSettings
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy and Dice of the foreground with nnU-Net's deep supervision: each stage counts
    half as much as the next finer one, and the coarsest not at all. See :func:`training_loss`."""
    stages = model.supervised_logits(images)
    shares = [0.5**index for index in range(len(stages))]
    if len(stages) > 1:
        shares[-1] = 0.0
    weights = settings.weights
    loss = stages[0].new_zeros(())
    parts = {"cross_entropy": 0.0, "dice": 0.0}
    for share, logits in zip(shares, stages, strict=True):
        wanted = labels
        if logits.shape[2:] != labels.shape[1:]:
            coarse = F.interpolate(labels[:, None].float(), logits.shape[2:], mode="nearest")
            wanted = coarse[:, 0].long()
        entropy, dice = entropy_and_dice(logits.float(), wanted, background=False)
        part = weights.cross_entropy * entropy + weights.dice * dice
        loss = loss + share / sum(shares) * part
        parts["cross_entropy"] += share / sum(shares) * float(entropy.detach())
        parts["dice"] += share / sum(shares) * float(dice.detach())
    return loss, parts


def entropy_and_dice(
    logits: Tensor, labels: Tensor, background: bool = True
) -> tuple[Tensor, Tensor]:
    """Cross-entropy, and one less the Dice averaged over the classes, both over the whole batch.

    Args:
        logits: (B, K + 1, T, H, W) float32.
        labels: long (B, T, H, W), 0..K; negative ones count in neither.
        background: whether class 0 counts in the Dice.
    """
    known = labels >= 0
    with torch.autocast(logits.device.type, enabled=False):
        entropy = F.cross_entropy(logits, labels.masked_fill(~known, -1), ignore_index=-1)
        chance = logits.softmax(1) * known[:, None]
        wanted = F.one_hot(labels.clamp(min=0), logits.shape[1]).movedim(-1, 1) * known[:, None]
        overlap = (chance * wanted).sum((0, 2, 3, 4))
        sizes = chance.sum((0, 2, 3, 4)) + wanted.sum((0, 2, 3, 4))
        dice = (2 * overlap + _SMOOTH) / (sizes + _SMOOTH)
    return entropy, 1 - dice[0 if background else 1 :].mean()

"""The losses of MaskSAM (paper, Equation 1), with the semantic map supervised beside them.

The semantic map (class probabilities times masks) is what a person sees in the end; supervising it
as well lets the class head learn in minutes instead of hours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from MaskSAMCore.modeling.masksam.network import Embedding, MaskSAM, Prediction
from MaskSAMCore.modeling.masksam.prompt_generator import mask_boxes
from MaskSAMCore.training.losses.prompting import (
    PromptSettings,
    cut_masks,
    jittered_boxes,
    prompted_classes,
)
from MaskSAMCore.training.matcher import (
    Assignment,
    Targets,
    match,
    pairwise_box_costs,
    pairwise_mask_costs,
)

# Voxels of a window; still rarer classes weigh no more.
_RARE = 50.0


@dataclass(frozen=True)
class LossWeights:
    """Weights of the parts; costs of the matching equal losses. The paper's are the defaults of
    masks, boxes and "no object"; its 0.2 for the classification is in its presets, and the semantic
    losses are ours. ``cross_entropy`` and ``dice`` are MA-SAM's."""

    classification: float = 2.0
    mask_bce: float = 1.5
    mask_dice: float = 1.5
    auxiliary_bce: float = 0.5
    auxiliary_dice: float = 0.5
    box_l1: float = 0.5
    box_giou: float = 0.2
    no_object: float = 0.1
    semantic: float = 1.0
    # Of networks without queries.
    cross_entropy: float = 0.2
    dice: float = 0.8


@dataclass(frozen=True)
class LossSettings:
    """All that :func:`masksam_loss` can be told.

    Attributes:
        weights: of the parts.
        prompts: the share of prompts from ground truth.
        affinity: how much less it costs that query k shows class k. With many classes the matching
            would change from step to step for long; so each class has a query from the start.
        rarity: in the cross-entropy of the generator alone, weights of classes are their numbers of
            voxels to the power of minus this: what is rare begins to be learned, and comes out too
            large where the network is unsure.
    """

    weights: LossWeights = field(default_factory=LossWeights)
    prompts: PromptSettings = field(default_factory=PromptSettings)
    affinity: float = 0.0
    rarity: float = 0.5


def slice_masks(labels: Tensor, num_classes: int) -> Tensor:
    """Labels (B, T, H, W), 0..K, to the masks of B T slices: bool (B T, K + 1, H, W).

    Negative labels (padding) belong to no class at all.
    """
    classes = torch.arange(num_classes + 1, device=labels.device)[:, None, None]
    return (labels[:, :, None] == classes).flatten(0, 1)


def slice_targets(labels: Tensor, num_classes: int) -> Targets:
    """Masks, boxes and presence of B T slices; see :func:`slice_masks`."""
    masks = slice_masks(labels, num_classes)
    boxes, present = mask_boxes(masks)
    return Targets(masks.flatten(2).float(), boxes, present)


def coarser_masks(masks: Tensor, size: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Masks (S, K + 1, H W) of ``size`` as shares of the pixels of a coarser ``grid``, flat again:
    auxiliary masks are compared at their own resolution."""
    rows, columns = grid
    return F.adaptive_avg_pool2d(masks.unflatten(2, tuple(size)), (rows, columns)).flatten(2)


def own_classes(costs: Tensor, affinity: float) -> Tensor:
    """(N, K + 1): the affinity of query k for class k."""
    return affinity * torch.eye(*costs.shape[1:], device=costs.device)


def by_slice(x: Tensor) -> Tensor:
    """(B, N, T, ...) to (B T, N, ...)."""
    return x.transpose(1, 2).flatten(0, 1)


def masksam_loss(
    model: MaskSAM,
    images: Tensor,
    labels: Tensor,
    settings: LossSettings,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """One training step's loss.

    Args:
        model: the network, in training.
        images: (B, C, T, H, W).
        labels: long (B, T, H, W), 0..K.
        generator: the source of the prompts' random numbers (CPU).

    Returns:
        The loss, and its parts for the log.
    """
    weights = settings.weights
    targets = slice_targets(labels, model.config.num_classes)
    embedding = model.encode(images)
    prediction, aux_costs = prompted_prediction(model, embedding, targets, settings, generator)
    final_bce, final_dice = pairwise_mask_costs(
        by_slice(prediction.mask_logits).flatten(2), targets.masks
    )
    final = weights.mask_bce * final_bce + weights.mask_dice * final_dice
    class_logits = by_slice(prediction.class_logits)
    chance = class_logits.softmax(-1)[..., :-1]
    costs = final + aux_costs - weights.classification * chance
    assignment = match(costs - own_classes(costs, settings.affinity), targets.present)
    pairs = assignment.slices, assignment.queries, assignment.classes
    final_loss, auxiliary_loss = final[pairs].mean(), aux_costs[pairs].mean()
    class_loss = classification_loss(class_logits, assignment, weights.no_object)
    semantic = semantic_loss(prediction.class_logits, prediction.mask_logits, targets)
    loss = (
        final_loss
        + auxiliary_loss
        + weights.classification * class_loss
        + weights.semantic * semantic
    )
    parts = {
        "masks": final_loss,
        "auxiliary": auxiliary_loss,
        "classes": class_loss,
        "semantic": semantic,
    }
    return loss, {name: float(part.detach()) for name, part in parts.items()}


def generator_loss(
    model: MaskSAM, images: Tensor, labels: Tensor, settings: LossSettings
) -> tuple[Tensor, dict[str, float]]:
    """The loss of encoder and prompt generator alone, whose query k shows class k.

    Cross-entropy, in which rare classes weigh more, and Dice of the masks, normalised to sum to one
    at each voxel; and binary cross-entropy and box losses of each, so that masks and boxes are
    prompts. See :func:`masksam_loss`.
    """
    weights, classes = settings.weights, model.config.num_classes + 1
    proposals = model.encode(images).proposals
    with torch.autocast(labels.device.type, enabled=False):
        logits = by_slice(model.auxiliary_masks(proposals)).flatten(2)
        wanted = by_slice(labels[:, None]).flatten(1)
        known = wanted >= 0
        index = wanted.clamp(min=0)
        size = torch.bincount(index[known], minlength=classes)
        shares = logits.sigmoid()
        total = shares.sum(1).clamp(min=1e-6)
        own = (shares.gather(1, index[:, None])[:, 0] / total).clamp(min=1e-6)
        weight = size.clamp(min=_RARE).pow(-settings.rarity)[index] * known
        entropy = -(own.log() * weight).sum() / weight.sum().clamp(min=1e-6)
        overlap = own.new_zeros(classes).index_add(0, index[known], own[known])
        sizes = (shares[:, :classes] @ (known / total)[..., None]).sum((0, 2)) + size
        dice = 1 - ((2 * overlap + 1) / (sizes + 1))[1:].mean()
        above = (F.softplus(logits) * known[:, None]).sum()
        own_logits = (logits.gather(1, index[:, None])[:, 0] * known).sum()
        bce = (above - own_logits) / known.sum().clamp(min=1)
        tight, present = mask_boxes(slice_masks(labels, classes - 1))
        distance, giou = pairwise_box_costs(by_slice(proposals.boxes)[:, :classes], tight)
        costs = weights.box_l1 * distance + weights.box_giou * giou
        boxes = costs.diagonal(dim1=1, dim2=2)[present].mean()
    loss = entropy + dice + weights.auxiliary_bce * bce + boxes
    parts = {"semantic": entropy + dice, "auxiliary": bce, "boxes": boxes}
    return loss, {name: float(part.detach()) for name, part in parts.items()}


def prompted_prediction(
    model: MaskSAM,
    embedding: Embedding,
    targets: Targets,
    settings: LossSettings,
    generator: torch.Generator | None,
) -> tuple[Prediction, Tensor]:
    """Decodes a window, a share of its proposals replaced by ground-truth boxes.

    Which proposal a box replaces is settled by matching the auxiliary proposals alone.

    Returns:
        The prediction, and the auxiliary costs (S, N, K + 1) of masks and boxes.
    """
    weights, how = settings.weights, settings.prompts
    proposals = embedding.proposals
    batch, _, slices = proposals.boxes.shape[:3]
    size, grid = model.config.window[1:], proposals.masks.shape[-2:]
    if grid[0] < size[0]:
        proposed, known = proposals.masks, coarser_masks(targets.masks, size, grid)
    else:
        proposed, known = model.to_window(proposals.masks), targets.masks
    bce, dice = pairwise_mask_costs(by_slice(proposed).flatten(2), known)
    distance, giou = pairwise_box_costs(by_slice(proposals.boxes), targets.boxes)
    costs = (
        weights.auxiliary_bce * bce
        + weights.auxiliary_dice * dice
        + weights.box_l1 * distance
        + weights.box_giou * giou
    )
    boxes, masks = proposals.boxes, proposals.masks.detach()
    without = torch.zeros(boxes.shape[:3], dtype=torch.bool, device=boxes.device)
    classes = targets.present.shape[1]
    prompted, loose, dropped = prompted_classes(batch, classes, how, generator)
    if how.share > 0 and prompted.any():
        pairs = match(
            costs - own_classes(costs, settings.affinity),
            targets.present & prompted.to(boxes.device).repeat_interleave(slices, 0),
        )
        drawn = jittered_boxes(targets, batch, loose, how.jitter, generator)
        drawn = drawn[pairs.slices, pairs.classes]
        place = pairs.slices // slices, pairs.queries, pairs.slices % slices
        boxes, masks = boxes.clone(), masks.clone()
        boxes[place] = drawn.to(boxes.dtype)
        masks[place] = cut_masks(masks[place], drawn)
        without[place] = dropped.to(boxes.device)[place[0], pairs.classes]
    prediction = model.run_decoder(embedding, boxes, masks, without)
    return prediction, costs


def classification_loss(class_logits: Tensor, assignment: Assignment, no_object: float) -> Tensor:
    """Cross-entropy of the queries' classes (S, N, K + 2); unmatched queries are "no object", whose
    weight is lowered because most queries are."""
    nothing = class_logits.shape[-1] - 1
    wanted = torch.full(class_logits.shape[:2], nothing, device=class_logits.device)
    wanted[assignment.slices, assignment.queries] = assignment.classes
    weight = torch.ones(nothing + 1, device=class_logits.device)
    weight[nothing] = no_object
    return F.cross_entropy(class_logits.flatten(0, 1).float(), wanted.flatten(), weight=weight)


def semantic_loss(class_logits: Tensor, mask_logits: Tensor, targets: Targets) -> Tensor:
    """Cross-entropy and Dice of the semantic map, normalised by the class sum."""
    with torch.autocast(class_logits.device.type, enabled=False):
        chance = by_slice(class_logits).float().softmax(-1)[..., :-1]
        masks = by_slice(mask_logits).float().sigmoid().flatten(2)
        scores = chance.transpose(1, 2) @ masks
        scores = scores / scores.sum(1, keepdim=True).clamp(min=1e-6)
        known = targets.masks.sum(1).clamp(max=1)
        shown = scores * targets.masks
        entropy = -(shown.sum(1).clamp(min=1e-6).log() * known).sum() / known.sum().clamp(min=1)
        # Dice over the whole batch, a class; without padding, whose scores answer to nothing.
        overlap = shown.sum((0, 2))[1:]
        sizes = (scores @ known[..., None]).sum((0, 2))[1:] + targets.masks.sum((0, 2))[1:]
        dice = 1 - ((2 * overlap + 1) / (sizes + 1)).mean()
    return entropy + dice

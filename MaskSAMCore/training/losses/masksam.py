"""Losses of MaskSAM (paper, Equation 1), and an additional loss of the semantic map.

The semantic map (class probabilities times masks) is the segmentation that the user gets. With this
additional loss the class head learns in minutes instead of hours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from MaskSAMCore.modeling import MaskPrediction, MaskSAM, MaskSAMEmbedding
from MaskSAMCore.modeling.boxes import mask_boxes
from MaskSAMCore.modeling.configuration import Configuration
from MaskSAMCore.modeling.layers import full_precision
from MaskSAMCore.modeling.masksam.box_prompts import cut_masks
from MaskSAMCore.modeling.masksam.prompt_generator import Proposals
from MaskSAMCore.training.losses.common import split_shared_settings
from MaskSAMCore.training.losses.prompting import (
    PromptSettings,
    cut_targets,
    exchanged_tokens,
    ground_truth_boxes,
    sample_prompts,
)
from MaskSAMCore.training.matcher import (
    Assignment,
    Matching,
    Targets,
    match,
    pairwise_box_costs,
    pairwise_mask_costs,
)

# Class weights stop growing below this many voxels in a window.
_RARE = 50.0


@dataclass(frozen=True)
class LossSettings(Configuration):
    """Settings of MaskSAM's loss; the costs of the matching equal the losses.

    The default weights of masks, boxes and "no object" are the paper's. The paper's weight of 0.2
    for the classification is set in its presets. The semantic loss is not part of the paper.

    Attributes:
        classification: weight of the classes' cross-entropy.
        mask_bce: weight of the masks' binary cross-entropy.
        mask_dice: weight of the masks' Dice loss.
        auxiliary_bce: weight of the auxiliary masks' binary cross-entropy.
        auxiliary_dice: weight of the auxiliary masks' Dice loss.
        box_l1: weight of the boxes' L1 distance.
        box_giou: weight of the boxes' generalised IoU loss.
        no_object: weight of the class "no object" in the classification.
        semantic: weight of the semantic loss.
        affinity: reduction of the cost of matching query k with class k. It ties each class to a
            fixed query from the first step; with many classes the matching would otherwise keep
            changing for a long time.
        rarity: exponent r of the class weights (number of voxels)^-r in the cross-entropy of
            :func:`generator_loss`. With a positive exponent rare classes are learned earlier, but
            are segmented too large where the network is uncertain.
        each_window: average the losses of the windows of a batch, so that a step does not depend on
            how its windows are divided among devices and accumulated parts. Otherwise all matched
            pairs and classes of a batch count equally.
        prompts: shares and forms of ground-truth boxes.
    """

    classification: float = 2.0
    mask_bce: float = 1.5
    mask_dice: float = 1.5
    auxiliary_bce: float = 0.5
    auxiliary_dice: float = 0.5
    box_l1: float = 0.5
    box_giou: float = 0.2
    no_object: float = 0.1
    semantic: float = 1.0
    affinity: float = 0.0
    rarity: float = 0.5
    each_window: bool = False
    prompts: PromptSettings = field(default_factory=PromptSettings)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LossSettings:
        """Build settings from the plain types of :meth:`to_dict`, or of former shared settings."""
        if "weights" in values:
            weights, prompts = split_shared_settings(values)
            # Former settings had weights for the losses of all networks.
            own = {k: v for k, v in weights.items() if k not in ("cross_entropy", "dice")}
            values = {**own, "prompts": prompts}
        return super().from_dict({**values, "prompts": PromptSettings.from_dict(values["prompts"])})


def slice_masks(labels: Tensor, num_classes: int) -> Tensor:
    """Return the masks bool (B T, K + 1, H, W) of labels (B, T, H, W), 0..K.

    Negative labels are padding and belong to no class.
    """
    classes = torch.arange(num_classes + 1, device=labels.device)[:, None, None]
    return (labels[:, :, None] == classes).flatten(0, 1)


def slice_targets(labels: Tensor, num_classes: int) -> Targets:
    """Return the ground truth of B T slices for labels (B, T, H, W); see :func:`slice_masks`."""
    masks = slice_masks(labels, num_classes)
    boxes, present = mask_boxes(masks)
    return Targets(masks.flatten(2).float(), boxes, present)


def coarser_masks(masks: Tensor, size: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Return masks on a coarser grid, as the share of each pixel that a mask covers.

    Args:
        masks: (S, K + 1, H W).
        size: H and W.
        grid: rows and columns of the coarser grid.

    Returns:
        (S, K + 1, rows columns).
    """
    rows, columns = grid
    return F.adaptive_avg_pool2d(masks.unflatten(2, tuple(size)), (rows, columns)).flatten(2)


def class_affinity(costs: Tensor, affinity: float) -> Tensor:
    """Return the matrix (N, K + 1) by which the affinity reduces the matching costs.

    Args:
        costs: matching costs (S, N, K + 1).
        affinity: value on the diagonal, for query k with class k.
    """
    return affinity * torch.eye(*costs.shape[1:], device=costs.device)


def by_slice(x: Tensor) -> Tensor:
    """Return (B T, N, ...) for x (B, N, T, ...)."""
    return x.transpose(1, 2).flatten(0, 1)


def training_loss(
    model: MaskSAM,
    images: Tensor,
    labels: Tensor,
    settings: LossSettings,
    rng: torch.Generator | None = None,
    matching: Matching = match,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a training step, and its parts for the log.

    Args:
        model: network in training mode.
        images: (B, C, T, H, W).
        labels: long (B, T, H, W), 0..K; negative ones are padding.
        settings: weights of the parts and shares of ground-truth boxes.
        rng: random generator of the boxes on the CPU, or None for PyTorch's own.
        matching: function that assigns the classes of each slice to queries.
    """
    targets = slice_targets(labels, model.config.num_classes)
    embedding = model.encode(images)
    repeats = settings.prompts.repeats
    if repeats > 1:
        embedding, targets = embedding.repeated(repeats), targets.repeated(repeats)
    prediction, aux_costs, targets = prompted_prediction(
        model, embedding, targets, settings, rng, matching
    )
    batch = len(images) * repeats
    groups = [slice(i, i + 1) for i in range(batch)] if settings.each_window else [slice(0, batch)]
    losses = [
        matched_losses(
            prediction.class_logits[group],
            prediction.mask_logits[group],
            aux_costs.unflatten(0, (batch, -1))[group].flatten(0, 1),
            targets.of_windows(group, batch),
            settings,
            matching,
        )
        for group in groups
    ]
    weights = {
        "masks": 1.0,
        "auxiliary": 1.0,
        "classes": settings.classification,
        "semantic": settings.semantic,
    }
    parts = {name: torch.stack([loss[name] for loss in losses]).mean() for name in weights}
    loss = sum((weight * parts[name] for name, weight in weights.items()), labels.new_zeros(()))
    return loss, {name: part.detach() for name, part in parts.items()}


def matched_losses(
    class_logits: Tensor,
    mask_logits: Tensor,
    aux_costs: Tensor,
    targets: Targets,
    settings: LossSettings,
    matching: Matching,
) -> dict[str, Tensor]:
    """Return the parts of the loss of some windows, by name.

    Args:
        class_logits: (B, N, T, K + 2).
        mask_logits: (B, N, T, H, W).
        aux_costs: costs (B T, N, K + 1) of auxiliary masks and boxes.
        targets: ground truth of the B T slices.
        settings: weights of the parts.
        matching: function that assigns the classes of each slice to queries.
    """
    bce, dice = pairwise_mask_costs(by_slice(mask_logits).flatten(2), targets.masks)
    final = settings.mask_bce * bce + settings.mask_dice * dice
    logits = by_slice(class_logits)
    probability = logits.softmax(-1)[..., :-1]
    costs = final + aux_costs - settings.classification * probability
    assignment = matching(costs - class_affinity(costs, settings.affinity), targets.present)
    pairs = assignment.slices, assignment.queries, assignment.classes
    return {
        "masks": final[pairs].mean(),
        "auxiliary": aux_costs[pairs].mean(),
        "classes": classification_loss(logits, assignment, settings.no_object),
        "semantic": semantic_loss(class_logits, mask_logits, targets),
    }


def generator_loss(
    model: MaskSAM, images: Tensor, labels: Tensor, settings: LossSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of encoder and prompt generator alone, and its parts for the log.

    Query k is trained for class k. The masks, normalised to sum to one at each voxel, are trained
    with a cross-entropy, weighted towards rare classes, and a Dice loss. So that masks and boxes
    can serve as prompts, a binary cross-entropy of each mask and the losses of each box are added.
    See :func:`training_loss` for the arguments.
    """
    classes = model.config.num_classes + 1
    proposals = model.encode(images).proposals
    with full_precision(labels):
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
        costs = settings.box_l1 * distance + settings.box_giou * giou
        boxes = costs.diagonal(dim1=1, dim2=2)[present].mean()
    loss = entropy + dice + settings.auxiliary_bce * bce + boxes
    parts = {"semantic": entropy + dice, "auxiliary": bce, "boxes": boxes}
    return loss, {name: part.detach() for name, part in parts.items()}


def prompted_prediction(
    model: MaskSAM,
    embedding: MaskSAMEmbedding,
    targets: Targets,
    settings: LossSettings,
    rng: torch.Generator | None,
    matching: Matching = match,
) -> tuple[MaskPrediction, Tensor, Targets]:
    """Decode windows with ground-truth boxes in place of a share of the proposals.

    A box replaces the proposal that is matched to its class by the costs of the proposals alone.

    Args:
        model: network in training mode.
        embedding: encoded windows.
        targets: ground truth of the windows' slices.
        settings: weights of the costs and shares of the boxes.
        rng: random generator on the CPU, or None for PyTorch's own.
        matching: function that assigns the classes of each slice to queries.

    Returns:
        The prediction, the costs (S, N, K + 1) of auxiliary masks and boxes, and the ground truth,
        cut to the boxes that hold only a part of their class.
    """
    prompts = settings.prompts
    proposals = embedding.proposals
    batch, _, slices = proposals.boxes.shape[:3]
    distance, giou = pairwise_box_costs(by_slice(proposals.boxes), targets.boxes)
    costs = (
        auxiliary_mask_costs(model, proposals, targets, settings)
        + settings.box_l1 * distance
        + settings.box_giou * giou
    )
    boxes, masks = proposals.boxes, proposals.masks.detach()
    without = torch.zeros(boxes.shape[:3], dtype=torch.bool, device=boxes.device)
    classes = targets.present.shape[1]
    loose = torch.zeros_like(without)
    sample = sample_prompts(batch, classes, prompts, rng)
    if prompts.share > 0 and sample.prompted.any():
        forms = sample.by_slice(slices, boxes.device)
        pairs = matching(
            costs - class_affinity(costs, settings.affinity),
            targets.present & forms.prompted,
        )
        pair = pairs.slices, pairs.classes
        given = ground_truth_boxes(targets, sample, prompts, rng)[pair]
        index = pairs.slices // slices, pairs.queries, pairs.slices % slices
        boxes, masks = boxes.clone(), masks.clone()
        boxes[index] = given.to(boxes.dtype)
        masks[index] = cut_masks(masks[index], given)
        without[index] = forms.dropped[pair]
        loose[index] = forms.loose[pair]
        part = forms.partial[pair]
        size = model.config.window[1:]
        targets = cut_targets(targets, pairs.slices[part], pairs.classes[part], given[part], size)
    if prompts.exchange > 0:
        tokens = exchanged_tokens(proposals.class_tokens, prompts.exchange, rng)
        embedding = replace(embedding, proposals=replace(proposals, class_tokens=tokens))
    prediction = model.run_decoder(embedding, boxes, masks, without, loose=loose)
    return prediction, costs, targets


def auxiliary_mask_costs(
    model: MaskSAM, proposals: Proposals, targets: Targets, settings: LossSettings
) -> Tensor:
    """Return the costs (S, N, K + 1) of the auxiliary masks.

    With deep supervision they are the mean over three levels, each with half the weight of the next
    finer one (Equation 3 of the paper's first draft).
    """
    size = model.config.window[1:]
    # Only here do the mask embeddings get a gradient if the decoder does not add them to its masks.
    separate = model.config.separate_masks
    finest = model.auxiliary_masks(proposals) if separate else proposals.masks
    levels = (finest, *proposals.coarser_masks)
    shares = [0.5**index for index in range(len(levels))]
    total = targets.masks.new_zeros(())
    for share, masks in zip(shares, levels, strict=True):
        grid = masks.shape[-2:]
        if grid[0] < size[0]:
            proposed, known = masks, coarser_masks(targets.masks, size, grid)
        else:
            proposed, known = model.to_window(masks), targets.masks
        bce, dice = pairwise_mask_costs(by_slice(proposed).flatten(2), known)
        cost = settings.auxiliary_bce * bce + settings.auxiliary_dice * dice
        total = total + share / sum(shares) * cost
    return total


def classification_loss(class_logits: Tensor, assignment: Assignment, no_object: float) -> Tensor:
    """Return the cross-entropy of the queries' classes.

    Args:
        class_logits: (S, N, K + 2).
        assignment: classes of the matched queries; the others are "no object".
        no_object: weight of "no object", below 1 because it is the class of most queries.
    """
    nothing = class_logits.shape[-1] - 1
    wanted = torch.full(class_logits.shape[:2], nothing, device=class_logits.device)
    wanted[assignment.slices, assignment.queries] = assignment.classes
    weight = torch.ones(nothing + 1, device=class_logits.device)
    weight[nothing] = no_object
    return F.cross_entropy(class_logits.flatten(0, 1).float(), wanted.flatten(), weight=weight)


def semantic_loss(class_logits: Tensor, mask_logits: Tensor, targets: Targets) -> Tensor:
    """Return the sum of cross-entropy and Dice loss of the semantic map, normalised over classes.

    Args:
        class_logits: (B, N, T, K + 2).
        mask_logits: (B, N, T, H, W).
        targets: ground truth of the B T slices.
    """
    with full_precision(class_logits):
        probability = by_slice(class_logits).float().softmax(-1)[..., :-1]
        masks = by_slice(mask_logits).float().sigmoid().flatten(2)
        scores = probability.transpose(1, 2) @ masks
        scores = scores / scores.sum(1, keepdim=True).clamp(min=1e-6)
        known = targets.masks.sum(1).clamp(max=1)
        shown = scores * targets.masks
        entropy = -(shown.sum(1).clamp(min=1e-6).log() * known).sum() / known.sum().clamp(min=1)
        # Dice of each class over the whole batch; padding has no ground truth.
        overlap = shown.sum((0, 2))[1:]
        sizes = (scores @ known[..., None]).sum((0, 2))[1:] + targets.masks.sum((0, 2))[1:]
        dice = 1 - ((2 * overlap + 1) / (sizes + 1)).mean()
    return entropy + dice

"""Loss of a SAM that is trained to segment anything, with prompts in several rounds.

All objects of a slice are prompted together, so that an encoded slice serves many prompts. In the
first round, each object is prompted with its box or with one point. Each further round adds a point
where the predicted mask is wrong, and the previous mask as a prompt, as in SAM's own training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from MaskSAMCore.modeling.boxes import mask_boxes
from MaskSAMCore.modeling.configuration import Configuration
from MaskSAMCore.modeling.sam.predictor import filled_box_logits
from MaskSAMCore.research.promptable_sam.network import PromptableSam, Prompts

# Share of the cross-entropy's weight that lies within the object's box.
_BOX_WEIGHT = 0.5


@dataclass(frozen=True)
class LossSettings(Configuration):
    """Settings of the loss.

    Attributes:
        bce: weight of the masks' binary cross-entropy, half of it within the object's box.
        dice: weight of the masks' Dice loss.
        iou: weight of the squared error of the predicted IoU.
        box_share: share of slices whose objects are prompted with boxes, not with points.
        jitter: largest shift of each edge of a box, as a share of the box's size.
        rounds: largest number of rounds of prompts.
        further: probability of another round after each round.
    """

    bce: float = 1.0
    dice: float = 1.0
    iou: float = 0.5
    box_share: float = 0.8
    jitter: float = 0.1
    rounds: int = 4
    further: float = 0.35

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError("a training needs at least one round of prompts")


def training_loss(
    model: PromptableSam,
    images: Tensor,
    masks: Tensor,
    settings: LossSettings,
    rng: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a training step, the mean over its slices, and its parts for the log.

    Args:
        model: SAM in training mode.
        images: (B, 3, H, W), SAM's inputs.
        masks: uint8 (B, N, H, W), N objects of each slice.
        settings: weights and shares.
        rng: random generator on the CPU, or None for PyTorch's own.
    """
    found = [
        _slice_loss(model, embedding[None], truth, settings, rng)
        for embedding, truth in zip(model.encode(images), masks, strict=True)
    ]
    masks_loss, iou_loss, first = (torch.stack(part).mean() for part in zip(*found, strict=True))
    parts = {"masks": masks_loss, "iou": iou_loss, "first_round": first}
    loss = masks_loss + settings.iou * iou_loss
    return loss, {name: value.detach() for name, value in parts.items()}


def _slice_loss(
    model: PromptableSam,
    embedding: Tensor,
    truth: Tensor,
    settings: LossSettings,
    rng: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return three losses, each the mean over the objects (N, H, W) of a slice.

    Returns:
        Loss of the masks and loss of the predicted IoU, each the mean over all rounds, and loss of
        the masks in the first round.
    """
    size = truth.shape[-1]
    boxes = mask_boxes(truth.bool())[0] * size
    cells = model.prompt_encoder.mask_input_size[0]
    target = F.adaptive_avg_pool2d(truth.float(), cells)
    weights = _cell_weights(boxes * (cells / size), cells)
    boxed = bool(torch.rand((), generator=rng) < settings.box_share)
    if boxed:
        shown = _jittered(boxes, settings.jitter, size, rng)
        prompts = Prompts(boxes=shown, masks=filled_box_logits(shown, size, cells))
    else:
        prompts = _with_point(Prompts(), target, target > 0.5, size, rng)
    mask_losses, iou_losses = [], []
    rounds = 1
    while rounds < settings.rounds and torch.rand((), generator=rng) < settings.further:
        rounds += 1
    for number in range(rounds):
        logits, iou = model.predict(embedding, prompts)
        # A single point is ambiguous: SAM predicts three masks; the mask loss takes the best one.
        chosen = slice(0, 1) if boxed or number else slice(1, 4)
        logits, iou = logits[:, chosen], iou[:, chosen]
        losses = _mask_losses(logits, target, weights, settings)
        best = losses.argmin(1, keepdim=True)
        mask_losses.append(losses.gather(1, best).mean())
        iou_losses.append(F.mse_loss(iou, mask_iou(logits, target)))
        if number + 1 < rounds:
            before = logits.detach().take_along_dim(best[..., None, None], 1)
            wrong = (before[:, 0] > 0) != (target > 0.5)
            prompts = _with_point(replace(prompts, masks=before), target, wrong, size, rng)
    return torch.stack(mask_losses).mean(), torch.stack(iou_losses).mean(), mask_losses[0]


def _mask_losses(logits: Tensor, target: Tensor, weights: Tensor, settings: LossSettings) -> Tensor:
    """Return the loss (N, M) of M masks (N, M, h, w) of each object (N, h, w)."""
    wanted = target[:, None].expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    bce = (entropy * weights[:, None]).sum((2, 3))
    probability = logits.sigmoid()
    both = (probability * wanted).sum((2, 3))
    sizes = probability.sum((2, 3)) + wanted.sum((2, 3))
    return settings.bce * bce + settings.dice * (1 - (2 * both + 1) / (sizes + 1))


def mask_iou(logits: Tensor, target: Tensor) -> Tensor:
    """Return the IoU (N, M) of M masks (N, M, h, w) with the object (N, h, w) that they show."""
    found, true = logits > 0, (target > 0.5)[:, None]
    both, either = (found & true).sum((2, 3)), (found | true).sum((2, 3))
    return both / either.clamp(min=1)


def _cell_weights(boxes: Tensor, cells: int) -> Tensor:
    """Return weights (N, cells, cells) of sum 1, half over the box and half over all cells."""
    inside = filled_box_logits(boxes, cells, cells)[:, 0] > 0
    area = inside.sum((1, 2), keepdim=True).clamp(min=1)
    return _BOX_WEIGHT * inside / area + (1 - _BOX_WEIGHT) / cells**2


def _jittered(boxes: Tensor, jitter: float, size: int, rng: torch.Generator | None) -> Tensor:
    """Return boxes (N, 4) in pixels with shifted edges; small shifts are more frequent."""
    noise = torch.rand(boxes.shape, generator=rng).to(boxes.device) * 2 - 1
    strength = torch.rand(len(boxes), 1, generator=rng).to(boxes.device).square() * jitter
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return (boxes + noise * strength * sides).clamp(0, size)


def _with_point(
    prompts: Prompts, target: Tensor, wanted: Tensor, size: int, rng: torch.Generator | None
) -> Prompts:
    """Return prompts with one more point for each object, in a random cell of a region.

    Args:
        prompts: prompts so far.
        target: (N, h, w), share of each cell that the object covers.
        wanted: bool (N, h, w), region of the point; where it is empty, the point lies in the
            object.
        size: edge of SAM's input in pixels.
        rng: random generator on the CPU, or None for PyTorch's own.
    """
    cells = target.shape[-1]
    likely = wanted.flatten(1).float()
    covered = target.flatten(1)
    likely = torch.where(likely.any(1, keepdim=True), likely, covered)
    index = torch.multinomial(likely.cpu(), 1, generator=rng).to(target.device)
    inside = (covered.gather(1, index) > 0.5).float()
    place = torch.cat([index % cells, index // cells], 1)[:, None]
    # SAM expects pixel indices and adds half a pixel to them.
    points = (place + 0.5) * (size / cells) - 0.5
    if prompts.points is not None and prompts.inside is not None:
        points = torch.cat([prompts.points, points], 1)
        inside = torch.cat([prompts.inside, inside], 1)
    return replace(prompts, points=points, inside=inside)

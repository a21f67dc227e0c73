"""MA-SAM: SAM for volumes without queries (Chen et al., "MA-SAM: Modality-agnostic SAM Adaptation
for 3D Medical Image Segmentation")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MaskSAMCore.modeling.box_prompts import BoxPrompts, inside_boxes
from MaskSAMCore.modeling.layers import channels_last
from MaskSAMCore.modeling.masam.config import MASamConfig
from MaskSAMCore.modeling.masam.image_encoder import MASamEncoder
from MaskSAMCore.modeling.masam.mask_decoder import MASamDecoder
from MaskSAMCore.modeling.sam.build import build_sam


class ClassScores(NamedTuple):
    """A prediction that is its class probabilities (B, K + 1, T, H, W)."""

    scores: Tensor

    def semantic(self) -> Tensor:
        """(B, K + 1, T, H, W), background first."""
        return self.scores


@dataclass
class MASamEmbedding:
    """An encoded window: (B, T, h, w, C)."""

    neck: Tensor


class MASam(nn.Module):
    """The network. ``sam`` holds SAM with its official parameter names; of a frozen one only the
    image encoder is frozen, and its prompt encoder and mask decoder are trained."""

    def __init__(self, config: MASamConfig) -> None:
        super().__init__()
        self.config = config
        self.sam = build_sam(config.sam, config.grid)
        self.to_rgb: nn.Linear | None = None
        if config.in_channels not in (1, 3):
            self.to_rgb = nn.Linear(config.in_channels, 3)
        self.encoder = MASamEncoder(config)
        self.decoder = MASamDecoder(config)
        self.sam.image_encoder.requires_grad_(not config.sam.frozen)
        for part in self.unused_parts():
            part.requires_grad_(False)

    def unused_parts(self) -> list[nn.Module]:
        """Parts of SAM that MA-SAM never runs: its own mask tokens and their networks, mask
        quality, mask and point prompts."""
        decoder, prompts = self.sam.mask_decoder, self.sam.prompt_encoder
        masks = [decoder.mask_tokens, decoder.output_hypernetworks_mlps, prompts.mask_downscaling]
        points = [prompts.point_embeddings[0], prompts.point_embeddings[1]]
        return [*masks, *points, prompts.not_a_point_embed, decoder.iou_prediction_head]

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Every trained parameter by name. With a frozen SAM: FacT, 3D adapters, prompt encoder and
        mask decoder."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def encode(self, images: Tensor) -> MASamEmbedding:
        """Images (B, C, T, H, W), normalised as the plan says, to what decoding needs."""
        expected = (self.config.in_channels, *self.config.window)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"expected windows of shape (channels, T, H, W) = {expected},"
                f" not {tuple(images.shape[1:])}"
            )
        return MASamEmbedding(self.encoder(self.sam.image_encoder, self.slices(images)))

    def slices(self, images: Tensor) -> Tensor:
        """Images (B, C, T, H, W) as SAM's input (B, T, rows, columns, 3)."""
        x = channels_last(images)
        x = x.expand(*x.shape[:-1], 3) if x.shape[-1] == 1 else x
        x = x if self.to_rgb is None else self.to_rgb(x)
        if x.shape[2:4] == self.config.image_size:
            return x
        flat = x.flatten(0, 1).permute(0, 3, 1, 2)
        flat = F.interpolate(flat, self.config.image_size, mode="bilinear", align_corners=False)
        return flat.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])

    def run_decoder(
        self, embedding: MASamEmbedding, boxes: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        """Class logits (B, K + 1, T, H, W) on the window's grid, float32.

        Args:
            embedding: of the windows.
            boxes: (B, 4), one box for all slices of each window, normalised x1 y1 x2 y2; or None.
            label: (B,), the class of each box, 1 to K.
        """
        logits = self.decoder(self.sam, embedding.neck, boxes, label).float()
        size = self.config.window[1:]
        if logits.shape[-2:] == size:
            return logits
        flat = F.interpolate(logits.flatten(1, 2), size, mode="bilinear", align_corners=False)
        return flat.unflatten(1, logits.shape[1:3])

    def decode(self, embedding: MASamEmbedding, prompts: BoxPrompts | None = None) -> ClassScores:
        """Class probabilities of an encoded window.

        A class with a box is decoded with it: one box for the window, the smallest around those of
        its slices. Nothing of the class is left outside its box, and nothing on slices that the box
        does not cross.
        """
        scores = self.run_decoder(embedding).softmax(1)
        if prompts is None:
            return ClassScores(scores)
        scores = scores.clone()
        for label in range(1, prompts.given.shape[1]):
            given = prompts.given[:, label]
            if not given.any():
                continue
            present = prompts.present[:, label] & given[:, None]
            scores[given, label] = 0
            active = present.any(1)
            if not active.any():
                continue
            boxes = prompts.boxes[active, label].float()
            one = stack_boxes(boxes, present[active])
            which = torch.full((len(one),), label, device=one.device)
            found = self.run_decoder(MASamEmbedding(embedding.neck[active]), one, which)
            inside = inside_boxes(boxes.flatten(0, 1), *scores.shape[-2:])
            inside = inside.unflatten(0, boxes.shape[:2]) & present[active][..., None, None]
            scores[active, label] = found.softmax(1)[:, label] * inside
        return ClassScores(scores)

    def forward(self, images: Tensor) -> ClassScores:
        """Images (B, C, T, H, W) to a prediction, without any prompt from a person."""
        return self.decode(self.encode(images))


def stack_boxes(boxes: Tensor, present: Tensor) -> Tensor:
    """The smallest box around those of a stack's slices.

    Args:
        boxes: (B, T, 4), x1 y1 x2 y2.
        present: bool (B, T), slices that have a box; at least one of each stack.

    Returns:
        (B, 4).
    """
    lower = boxes[..., :2].masked_fill(~present[..., None], torch.inf).amin(1)
    upper = boxes[..., 2:].masked_fill(~present[..., None], -torch.inf).amax(1)
    return torch.cat([lower, upper], -1)

"""MA-SAM: SAM for volumes without queries (Chen et al., "MA-SAM: Modality-agnostic SAM Adaptation
for 3D Medical Image Segmentation")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from MaskSAMCore.modeling.base import ClassScores, Network
from MaskSAMCore.modeling.box_prompts import BoxPrompts
from MaskSAMCore.modeling.boxes import inside_boxes
from MaskSAMCore.modeling.masam.config import MASamConfig
from MaskSAMCore.modeling.masam.image_encoder import MASamEncoder
from MaskSAMCore.modeling.masam.mask_decoder import ClassTokenDecoder, freeze_unused_parts
from MaskSAMCore.modeling.sam.build import Sam, build_sam
from MaskSAMCore.modeling.slices import build_channel_mixer, resized_slices, rgb_slices


@dataclass
class MASamEmbedding:
    """Encoded windows.

    Attributes:
        neck: (B, T, h, w, C) image embedding of SAM.
    """

    neck: Tensor


class MASam(Network):
    """MA-SAM; the names of its parts are keys of saved weights.

    ``sam.frozen`` freezes only SAM's image encoder; the trained parameters are then FacT, the 3D
    adapters, the prompt encoder and the mask decoder.
    """

    training_methods: ClassVar[tuple[str, ...]] = ("encode", "run_decoder")

    config: MASamConfig
    sam: Sam

    def __init__(self, config: MASamConfig) -> None:
        super().__init__(config)
        self.sam = build_sam(config.sam, config.grid)
        self.to_rgb = build_channel_mixer(config.in_channels)
        self.encoder = MASamEncoder(config)
        self.decoder = ClassTokenDecoder(
            config.sam, config.num_classes, upscaling_norm=config.upscaling_norm
        )
        self.sam.image_encoder.requires_grad_(not config.sam.frozen)
        freeze_unused_parts(self.sam)

    def encode(self, images: Tensor) -> MASamEmbedding:
        """Return the embedding of windows (B, C, T, H, W)."""
        self.check_window(images)
        slices = rgb_slices(images, self.to_rgb, self.config.image_size)
        return MASamEmbedding(self.encoder(self.sam.image_encoder, slices))

    def run_decoder(
        self,
        embedding: MASamEmbedding,
        boxes: Tensor | None = None,
        classes: Tensor | None = None,
    ) -> Tensor:
        """Return the class logits (B, K + 1, T, H, W) on the window's grid, float32.

        Args:
            embedding: encoded windows.
            boxes: (B, 4), one box for all slices of each window, normalised x1 y1 x2 y2, or None.
            classes: (B,) class index of each box, 1 to K, or None.
        """
        logits = self.decoder(self.sam, embedding.neck, boxes, classes).float()
        return resized_slices(logits, self.config.window[1:])

    def decode(self, embedding: MASamEmbedding, prompts: BoxPrompts | None = None) -> ClassScores:
        """Return the class probabilities of encoded windows.

        A class with a box is decoded with one box for the window, the smallest around the boxes of
        its slices. Nothing of the class is left outside its box, and nothing on slices that the box
        does not cross.
        """
        scores = self.run_decoder(embedding).softmax(1)
        if prompts is None:
            return ClassScores(scores)
        scores = scores.clone()
        for class_index in range(1, prompts.given.shape[1]):
            given = prompts.given[:, class_index]
            if not given.any():
                continue
            present = prompts.present[:, class_index] & given[:, None]
            scores[given, class_index] = 0
            active = present.any(1)
            if not active.any():
                continue
            boxes = prompts.boxes[active, class_index].float()
            one = enclosing_boxes(boxes, present[active])
            classes = torch.full((len(one),), class_index, device=one.device)
            found = self.run_decoder(MASamEmbedding(embedding.neck[active]), one, classes)
            inside = inside_boxes(boxes.flatten(0, 1), *scores.shape[-2:])
            inside = inside.unflatten(0, boxes.shape[:2]) & present[active][..., None, None]
            scores[active, class_index] = found.softmax(1)[:, class_index] * inside
        return ClassScores(scores)


def enclosing_boxes(boxes: Tensor, present: Tensor) -> Tensor:
    """Return the smallest box around the boxes of each window's slices.

    Args:
        boxes: (B, T, 4), x1 y1 x2 y2.
        present: bool (B, T), true on slices that have a box, at least one in each window.

    Returns:
        (B, 4).
    """
    lower = boxes[..., :2].masked_fill(~present[..., None], torch.inf).amin(1)
    upper = boxes[..., 2:].masked_fill(~present[..., None], -torch.inf).amax(1)
    return torch.cat([lower, upper], -1)

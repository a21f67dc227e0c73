"""MaskSAM without the prompt generator: accurate boxes take the place of its proposals
(supplement, section 6)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from MaskSAMCore.modeling.base import ClassScores, Network
from MaskSAMCore.modeling.box_prompts import BoxPrompts
from MaskSAMCore.modeling.masksam.channel_adapter import build_channel_adapter
from MaskSAMCore.modeling.masksam.image_encoder import AdaptedImageEncoder, ImageFeatures
from MaskSAMCore.modeling.masksam.mask_decoder import AdaptedMaskDecoder, DecoderPrompts
from MaskSAMCore.modeling.masksam.mask_upscaling import MaskUpscaling
from MaskSAMCore.modeling.masksam.network import set_trained_parts
from MaskSAMCore.modeling.masksam.voxel_embeddings import CoarseMasks
from MaskSAMCore.modeling.prompted.config import PromptedConfig
from MaskSAMCore.modeling.sam.build import Sam, build_sam


class PromptedMaskSAM(Network):
    """MaskSAM without the prompt generator; the names of its parts are keys of saved weights.

    The adapted SAM is that of :class:`~MaskSAMCore.modeling.masksam.network.MaskSAM`. Each slice
    has one box prompt for each class and one around the whole slice for the background. The class
    head still classifies the masks; all prompts share the decoder's class token.
    """

    training_methods: ClassVar[tuple[str, ...]] = ("encode", "run_decoder")

    config: PromptedConfig
    sam: Sam

    def __init__(self, config: PromptedConfig) -> None:
        super().__init__(config)
        self.sam = build_sam(config.sam, config.grid)
        self.stem = build_channel_adapter(config)
        self.encoder = AdaptedImageEncoder(config)
        self.decoder = AdaptedMaskDecoder(config)
        self.upscaling: MaskUpscaling | None = None
        if config.mask_upscaling == "learned":
            self.upscaling = MaskUpscaling(config.num_classes + 1)
        set_trained_parts(self.sam, config.sam.frozen)

    def encode(self, images: Tensor) -> ImageFeatures:
        """Return the features of windows (B, C, T, H, W)."""
        self.check_window(images)
        slices, maps = self.stem(images)
        features: ImageFeatures = self.encoder(self.sam.image_encoder, slices, maps)
        return features

    def run_decoder(
        self, features: ImageFeatures, boxes: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode the boxes of all classes.

        Args:
            features: encoded windows.
            boxes: (B, K + 1, T, 4) box prompts, x1 y1 x2 y2 normalised to the window.
            present: bool (B, K + 1, T), true where the class has a box. Results elsewhere have no
                meaning.

        Returns:
            Class logits (B, K + 1, T, K + 2) and mask logits (B, K + 1, T, H, W), float32.
        """
        boxes = boxes * present[..., None]
        tokens = boxes.new_zeros(*boxes.shape[:3], self.config.sam.prompt_dim)
        class_logits, decoded = self.decoder(
            self.sam, features.neck, features.maps, DecoderPrompts(boxes, tokens)
        )
        if self.upscaling is not None:
            decoded = CoarseMasks(self.upscaling(decoded.logits), decoded.size)
        return class_logits, decoded.on_grid()

    def decode(self, embedding: ImageFeatures, prompts: BoxPrompts | None = None) -> ClassScores:
        """Return the scores of the classes from their boxes: class probability times mask, summed
        over the boxes. Classes without a box get low scores, as do all foreground classes without
        prompts."""
        batch = embedding.neck.shape[0]
        shape = batch, self.config.num_classes + 1, self.config.window[0]
        boxes = embedding.neck.new_zeros(*shape, 4)
        present = torch.zeros(shape, dtype=torch.bool, device=boxes.device)
        if prompts is not None:
            present = prompts.given[..., None] & prompts.present
            boxes = prompts.boxes.to(boxes.dtype).clone()
        boxes[:, 0] = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
        present[:, 0] = True
        class_logits, masks = self.run_decoder(embedding, boxes, present)
        classes = class_logits.softmax(-1)[..., :-1] * present[..., None]
        return ClassScores(torch.einsum("bntk,bnthw->bkthw", classes, masks.sigmoid()))

"""A trainable SAM with the parameter names of segment-anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from MaskSAMCore.modeling.base import Network
from MaskSAMCore.modeling.layers import full_precision
from MaskSAMCore.modeling.sam.build import build_sam
from MaskSAMCore.modeling.sam.predictor import encode_slices
from MaskSAMCore.research.promptable_sam.config import PromptableSamConfig


@dataclass(frozen=True)
class Prompts:
    """Prompts for N masks of one slice, all of the same form.

    Attributes:
        boxes: (N, 4), x1 y1 x2 y2 in pixel edges of SAM's input, or None.
        points: (N, P, 2), columns and rows in pixel indices of SAM's input, or None.
        inside: (N, P), 1 for points in the object and 0 for points outside, or None.
        masks: (N, 1, 4h, 4w) mask logits, or None.
    """

    boxes: Tensor | None = None
    points: Tensor | None = None
    inside: Tensor | None = None
    masks: Tensor | None = None


class PromptableSam(Network):
    """Trainable SAM, whose state dict loads into segment-anything's own model."""

    config: PromptableSamConfig

    def __init__(self, config: PromptableSamConfig) -> None:
        super().__init__(config)
        sam = build_sam(config.sam, config.grid)
        self.image_encoder: Any = sam.image_encoder
        self.prompt_encoder: Any = sam.prompt_encoder
        self.mask_decoder: Any = sam.mask_decoder

    def encode(self, images: Tensor) -> Tensor:
        """Return the image embeddings (B, C, h, w) of SAM's inputs (B, 3, H, W)."""
        return encode_slices(self.image_encoder, images)

    def predict(self, embedding: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """Predict the masks of prompts.

        Args:
            embedding: (1, C, h, w) of one slice.
            prompts: N prompts.

        Returns:
            Logits (N, 4, 4h, 4w) of SAM's single mask and its three masks for one point, and the
            predicted IoU (N, 4) of each.
        """
        points = None
        if prompts.points is not None:
            points = prompts.points, prompts.inside
        # Half precision would round the prompts' positions.
        with full_precision(embedding):
            sparse, dense = self.prompt_encoder(points, prompts.boxes, prompts.masks)
            positions = self.prompt_encoder.get_dense_pe()
        masks, iou = self.mask_decoder.predict_masks(embedding, positions, sparse, dense)
        return masks.float(), iou.float()

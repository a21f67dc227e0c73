"""Plain SAM for single slices and box prompts, as in ``segment_anything``'s predictor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from MaskSAMCore.modeling.sam.attention import attend_in_windows
from MaskSAMCore.modeling.sam.build import build_sam
from MaskSAMCore.modeling.sam.checkpoint import IMAGE_SIZE, load_sam_checkpoint
from MaskSAMCore.modeling.sam.config import SamConfig

# Number of boxes decoded together; each repeats the image embedding in memory.
_BOX_BATCH = 16
# Mask logits inside of a filled box; outside they are negative.
_FILLED_LOGIT = 4.0

BlockCallback = Callable[[], None]


def encode_slices(encoder: Any, images: Tensor, each_block: BlockCallback | None = None) -> Tensor:
    """Return the image embeddings (B, C, h, w) of SAM's inputs.

    Args:
        encoder: image encoder of SAM.
        images: (B, 3, rows, columns), preprocessed for the encoder.
        each_block: callback before each block; it may raise to stop the encoder.
    """
    x = encoder.patch_embed(images) + encoder.pos_embed
    for block in encoder.blocks:
        if each_block is not None:
            each_block()
        x = x + attend_in_windows(block, block.norm1(x))
        x = x + block.mlp(block.norm2(x))
    embedding: Tensor = encoder.neck(x.permute(0, 3, 1, 2))
    return embedding


def filled_box_logits(boxes: Tensor, image_size: int, size: int) -> Tensor:
    """Return mask prompts that fill boxes; partly covered cells get logits in between.

    Args:
        boxes: (N, 4), x1 y1 x2 y2 in pixels of SAM's input.
        image_size: edge of SAM's input in pixels.
        size: edge of a mask prompt in cells.

    Returns:
        (N, 1, size, size) logits.
    """
    edges = boxes.float() * (size / image_size)
    cells = torch.arange(size, device=boxes.device, dtype=torch.float32)

    def covered(first: Tensor, last: Tensor) -> Tensor:
        return torch.minimum(cells + 1, last[:, None]) - torch.maximum(cells, first[:, None])

    x1, y1, x2, y2 = edges.unbind(1)
    columns, rows = covered(x1, x2).clamp(0, 1), covered(y1, y2).clamp(0, 1)
    return _FILLED_LOGIT * (2 * rows[:, None, :, None] * columns[:, None, None] - 1)


class PlainSam(nn.Module):
    """SAM or MedSAM without any adaptation.

    Args:
        config: shape of the model.
        image_size: edge of the square input in pixels; position embeddings are interpolated if it
            is not 1024.
        fills_boxes: True to pass boxes as filled mask prompts too, as in this SAM's training.
    """

    def __init__(
        self, config: SamConfig, image_size: int = IMAGE_SIZE, fills_boxes: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.image_size = image_size
        self.fills_boxes = fills_boxes
        tokens = image_size // config.patch_size
        self.sam = build_sam(config, (tokens, tokens))

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, config: SamConfig, image_size: int = IMAGE_SIZE
    ) -> PlainSam:
        """Build a SAM with the weights of a checkpoint, ready for inference.

        Raises:
            ValueError: the checkpoint does not fit the configuration; the message names all keys
                that differ.
        """
        with torch.device("meta"):
            model = cls(config, image_size)
        load_sam_checkpoint(model.sam, path)
        return model.float().eval().requires_grad_(False)

    def encode(self, images: Tensor, each_block: BlockCallback | None = None) -> Tensor:
        """Return the image embeddings of slices.

        Args:
            images: (B, 3, image_size, image_size), preprocessed for the checkpoint.
            each_block: callback before each block of the image encoder; it may raise to stop it.

        Returns:
            (B, C, image_size / 16, image_size / 16), equal to SAM's own within 1e-4 in float32.
        """
        return encode_slices(self.sam.image_encoder, images, each_block)

    def decode(self, embedding: Tensor, boxes: Tensor) -> Tensor:
        """Return one mask for each box.

        Args:
            embedding: (1, C, h, w) image embedding of one slice.
            boxes: (N, 4), x1 y1 x2 y2 in pixels of SAM's input.

        Returns:
            (N, 4 h, 4 w) logits, positive inside the mask.
        """
        masks = []
        size = self.sam.prompt_encoder.mask_input_size[0]
        for some in boxes.split(_BOX_BATCH):
            filled = filled_box_logits(some, self.image_size, size) if self.fills_boxes else None
            sparse, dense = self.sam.prompt_encoder(points=None, boxes=some, masks=filled)
            logits, _ = self.sam.mask_decoder(
                image_embeddings=embedding,
                image_pe=self.sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            masks.append(logits[:, 0])
        return torch.cat(masks)

"""Segment Anything Model built from the parts of the ``segment-anything`` package."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from MaskSAMCore.modeling.layers import full_precision
from MaskSAMCore.modeling.sam.config import SamConfig
from MaskSAMCore.modeling.sam.package import segment_anything


class Sam(nn.Module):
    """SAM's three parts, with the parameter names of the official checkpoints."""

    def __init__(self, image_encoder: nn.Module, prompt_encoder: Any, mask_decoder: Any) -> None:
        super().__init__()
        self.image_encoder: Any = image_encoder
        self.prompt_encoder: Any = prompt_encoder
        self.mask_decoder: Any = mask_decoder

    def embed_boxes(self, boxes: Tensor) -> Tensor:
        """Return the two corner tokens of each box.

        Args:
            boxes: (..., 4), x1 y1 x2 y2 in pixel edges, normalised by the width and height of
                SAM's input.

        Returns:
            (M, 2, C) for M boxes, never rounded to half precision.
        """
        rows, columns = self.prompt_encoder.input_image_size
        with full_precision(boxes):
            size = boxes.new_tensor([columns, rows, columns, rows], dtype=torch.float32)
            # SAM expects pixel indices and adds half a pixel to them.
            corners = boxes.float().reshape(-1, 4) * size - 0.5
            tokens: Tensor = self.prompt_encoder._embed_boxes(corners)
        return tokens


def build_sam(config: SamConfig, grid: tuple[int, int]) -> Sam:
    """Build a randomly initialised SAM.

    The position embedding and the relative positions of blocks with global attention have the size
    of the token grid, which need not be square; :func:`load_sam_checkpoint` interpolates them.

    Args:
        config: shape of the model.
        grid: rows and columns of tokens in a slice.
    """
    modeling = segment_anything("modeling")
    rows, columns = grid
    image_size = rows * config.patch_size, columns * config.patch_size
    encoder = modeling.ImageEncoderViT(
        img_size=max(image_size),
        patch_size=config.patch_size,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        out_chans=config.prompt_dim,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=config.window_size,
        global_attn_indexes=config.global_attn_indexes,
    )
    encoder.img_size = image_size
    encoder.pos_embed = nn.Parameter(torch.zeros(1, rows, columns, config.embed_dim))
    nn.init.trunc_normal_(encoder.pos_embed, std=0.02)
    for index in config.global_attn_indexes:
        attention = encoder.blocks[index].attn
        head_dim = config.embed_dim // config.num_heads
        attention.rel_pos_h = nn.Parameter(torch.zeros(2 * rows - 1, head_dim))
        attention.rel_pos_w = nn.Parameter(torch.zeros(2 * columns - 1, head_dim))
    prompt_encoder = modeling.PromptEncoder(
        embed_dim=config.prompt_dim,
        image_embedding_size=grid,
        input_image_size=image_size,
        mask_in_chans=16,
    )
    decoder = modeling.MaskDecoder(
        num_multimask_outputs=3,
        transformer=modeling.TwoWayTransformer(
            depth=2,
            embedding_dim=config.prompt_dim,
            mlp_dim=config.decoder_mlp_dim,
            num_heads=config.decoder_heads,
        ),
        transformer_dim=config.prompt_dim,
        iou_head_depth=3,
        iou_head_hidden_dim=config.prompt_dim,
    )
    return Sam(encoder, prompt_encoder, decoder)

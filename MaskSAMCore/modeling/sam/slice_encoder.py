"""SAM's image encoder on the slices of a window, for networks that adapt its blocks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from MaskSAMCore.modeling.layers import Checkpointed, apply_neck, strided_convolution
from MaskSAMCore.modeling.sam.attention import attend_in_windows


class SliceEncoder(Checkpointed):
    """SAM's image encoder applied to each slice; the encoder is an argument of ``forward``."""

    def forward(self, encoder: Any, images: Tensor) -> Tensor:
        """Return the image embeddings (B, T, h, w, C) of slices.

        Args:
            encoder: image encoder of SAM.
            images: (B, T, rows, columns, 3) slices.
        """
        x = strided_convolution(encoder.patch_embed.proj, images) + encoder.pos_embed[:, None]
        for index, block in enumerate(encoder.blocks):
            x = self.checkpointed(self.block, index, block, x)
        return apply_neck(encoder.neck, x)

    def block(self, index: int, block: Any, x: Tensor) -> Tensor:
        """Apply a transformer block to tokens (B, T, h, w, D)."""
        attended = attend_in_windows(block, block.norm1(x).flatten(0, 1)).reshape(x.shape)
        x = x + attended
        return x + block.mlp(block.norm2(x))

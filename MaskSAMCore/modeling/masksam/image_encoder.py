"""SAM's image encoder with adapters after each attention and beside each MLP (Figure 4 a)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from MaskSAMCore.modeling.layers import Checkpointed, apply_neck, repeated, strided_convolution
from MaskSAMCore.modeling.masksam.adapters import build_adapter
from MaskSAMCore.modeling.masksam.config import MaskSAMConfig
from MaskSAMCore.modeling.sam.attention import attend_in_windows


@dataclass
class ImageFeatures:
    """Features of encoded windows, all channels-last.

    Attributes:
        neck: (B, T, h, w, C) image embedding of SAM.
        taps: four (B, T, h, w, D) outputs of transformer blocks, shallow to deep.
        maps: maps of the channel adapter, fine to coarse; empty for the paper's channel adapter.
    """

    neck: Tensor
    taps: list[Tensor]
    maps: list[Tensor]

    def repeated(self, times: int) -> ImageFeatures:
        """Return the features with the batch of windows repeated."""
        taps, maps = ([repeated(x, times) for x in kind] for kind in (self.taps, self.maps))
        return ImageFeatures(repeated(self.neck, times), taps, maps)


class AdaptedImageEncoder(Checkpointed):
    """Adapters of SAM's image encoder; the encoder itself is an argument of ``forward``.

    The adapters work on whole slices after attention windows are merged back, so that their third
    axis is the anatomical depth in every block.
    """

    def __init__(self, config: MaskSAMConfig) -> None:
        super().__init__()
        dim, depth = config.sam.embed_dim, config.sam.depth
        slices = config.window[0]

        def adapters() -> nn.ModuleList:
            return nn.ModuleList(
                build_adapter(config.encoder_adapter, dim, slices, config.adapter_ratio)
                for _ in range(depth)
            )

        self.after_attention = adapters()
        self.beside_mlp = adapters()
        self.depth_position: nn.Parameter | None = None
        if config.depth_position:
            self.depth_position = nn.Parameter(torch.zeros(1, slices, 1, 1, dim))
        self.from_map: nn.Linear | None = None
        if config.stem_pyramid:
            self.from_map = nn.Linear(config.stem_channels[-1], dim)
        self.taps = tapped_blocks(config)

    def forward(self, encoder: Any, images: Tensor, maps: list[Tensor]) -> ImageFeatures:
        """Return the features of windows.

        Args:
            encoder: image encoder of SAM.
            images: (B, T, rows, columns, 3) slices.
            maps: maps of the channel adapter, fine to coarse.
        """
        x = strided_convolution(encoder.patch_embed.proj, images)
        if self.from_map is not None:
            x = x + self.from_map(maps[-1])
        x = x + encoder.pos_embed[:, None]
        if self.depth_position is not None:
            x = x + self.depth_position
        taps = []
        for index, block in enumerate(encoder.blocks):
            x = self.checkpointed(self.block, index, block, x)
            if index in self.taps:
                taps.append(x)
        return ImageFeatures(apply_neck(encoder.neck, x), taps, maps)

    def block(self, index: int, block: Any, x: Tensor) -> Tensor:
        """Apply a transformer block with its two adapters to tokens (B, T, h, w, D)."""
        attended = attend_in_windows(block, block.norm1(x).flatten(0, 1)).reshape(x.shape)
        x = x + attended + self.after_attention[index](attended)
        normed = block.norm2(x)
        return x + block.mlp(normed) + 0.5 * self.beside_mlp[index](normed)


def tapped_blocks(config: MaskSAMConfig) -> tuple[int, ...]:
    """Return the blocks whose outputs feed the prompt generator: the four with global attention."""
    blocks = tuple(sorted(config.sam.global_attn_indexes))
    if len(blocks) != 4:
        raise ValueError(f"the prompt generator needs four blocks with global attention: {blocks}")
    return blocks

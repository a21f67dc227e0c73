"""SAM's image encoder with an adapter after every attention and beside every MLP (Figure 4 a)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from MaskSAMCore.modeling.layers import layer_norm_2d, strided_convolution
from MaskSAMCore.modeling.masksam.adapters import build_adapter
from MaskSAMCore.modeling.masksam.config import MaskSAMConfig
from MaskSAMCore.modeling.sam.build import attend_in_windows


@dataclass
class ImageFeatures:
    """What a window looks like to the network; all tensors channels-last.

    Attributes:
        neck: (B, T, h, w, C), SAM's image embedding.
        taps: four (B, T, h, w, D), the outputs of the tapped blocks, shallow to deep.
        maps: the channel adapter's finer maps, fine to coarse; empty in the paper's forms.
    """

    neck: Tensor
    taps: list[Tensor]
    maps: list[Tensor]


class AdaptedImageEncoder(nn.Module):
    """Runs the blocks of a SAM image encoder (which it does not own) with its own adapters.

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
        """Args:
        encoder: the SAM image encoder.
        images: (B, T, rows, columns, 3).
        maps: the channel adapter's finer maps.
        """
        x = strided_convolution(encoder.patch_embed.proj, images)
        if self.from_map is not None:
            x = x + self.from_map(maps[-1])
        x = x + encoder.pos_embed[:, None]
        if self.depth_position is not None:
            x = x + self.depth_position
        taps = []
        for index, block in enumerate(encoder.blocks):
            x = self.block(index, block, x)
            if index in self.taps:
                taps.append(x)
        return ImageFeatures(neck(encoder.neck, x), taps, maps)

    def block(self, index: int, block: Any, x: Tensor) -> Tensor:
        """One adapted transformer block on (B, T, h, w, D)."""
        attended = attend_in_windows(block, block.norm1(x).flatten(0, 1)).reshape(x.shape)
        x = x + attended + self.after_attention[index](attended)
        normed = block.norm2(x)
        return x + block.mlp(normed) + 0.5 * self.beside_mlp[index](normed)


def tapped_blocks(config: MaskSAMConfig) -> tuple[int, ...]:
    """The four blocks whose outputs feed the prompt generator: SAM's global-attention blocks."""
    blocks = tuple(sorted(config.sam.global_blocks))
    if len(blocks) != 4:
        raise ValueError(f"the prompt generator needs four global blocks, not {blocks}")
    return blocks


def neck(layers: Any, x: Tensor) -> Tensor:
    """SAM's neck on (B, T, h, w, D), channels-last throughout: (B, T, h, w, C)."""
    x = nn.functional.linear(x, layers[0].weight.flatten(1))
    x = layer_norm_2d(layers[1], x)
    batch, slices = x.shape[:2]
    x = layers[2](x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return layer_norm_2d(layers[3], x.unflatten(0, (batch, slices)))

"""Image encoders of SAMed and Med-SA, which keep SAM's tokens of single slices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from MaskSAMCore.modeling.layers import dot_product_attention
from MaskSAMCore.modeling.sam.attention import attend_in_windows
from MaskSAMCore.modeling.sam.slice_encoder import SliceEncoder
from MaskSAMCore.research.sam_baselines.config import BaselineConfig


class LowRankIncrement(nn.Module):
    """Low-rank increments of the queries and values of a block (LoRA), zero before training."""

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.query_down = nn.Linear(dim, rank, bias=False)
        self.query_up = nn.Linear(rank, dim, bias=False)
        self.value_down = nn.Linear(dim, rank, bias=False)
        self.value_up = nn.Linear(rank, dim, bias=False)
        nn.init.zeros_(self.query_up.weight)
        nn.init.zeros_(self.value_up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the increment (..., 3 D) of queries, keys and values of tokens (..., D)."""
        queries = self.query_up(self.query_down(x))
        values = self.value_up(self.value_down(x))
        return torch.cat([queries, torch.zeros_like(queries), values], -1)


class LowRankEncoder(SliceEncoder):
    """Image encoder of SAMed (Zhang and Liu): low-rank increments in every block."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.increments = nn.ModuleList(
            LowRankIncrement(config.sam.embed_dim, config.rank) for _ in range(config.sam.depth)
        )

    def block(self, index: int, block: Any, x: Tensor) -> Tensor:
        """Apply a transformer block with its increments to tokens (B, T, h, w, D)."""
        tokens = block.norm1(x).flatten(0, 1)
        x = x + attend_in_windows(block, tokens, self.increments[index]).reshape(x.shape)
        return x + block.mlp(block.norm2(x))


class Bottleneck(nn.Sequential):
    """Adapter of two layers, whose output is zero before training."""

    def __init__(self, dim: int, hidden: int) -> None:
        up = nn.Linear(hidden, dim)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), up)


class SpaceDepthEncoder(SliceEncoder):
    """Image encoder of Med-SA (Wu et al.) for volumes.

    SAM's attention runs twice in each block with the same weights, over the tokens of a slice and
    over the slices of a token. Each run has an adapter; a third adapter is parallel to the MLP.
    Attention over depth has no relative positions, because SAM has none along depth.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()

        def adapters() -> nn.ModuleList:
            return nn.ModuleList(
                Bottleneck(config.sam.embed_dim, config.adapter_dim)
                for _ in range(config.sam.depth)
            )

        self.space, self.depth, self.beside_mlp = adapters(), adapters(), adapters()

    def block(self, index: int, block: Any, x: Tensor) -> Tensor:
        """Apply a transformer block with its adapters to tokens (B, T, h, w, D)."""
        normed = block.norm1(x)
        attended = attend_in_windows(block, normed.flatten(0, 1)).reshape(x.shape)
        over_depth = attend_over_depth(block.attn, normed)
        x = x + attended + self.space[index](attended) + self.depth[index](over_depth)
        normed = block.norm2(x)
        return x + block.mlp(normed) + 0.5 * self.beside_mlp[index](normed)


def attend_over_depth(attention: Any, x: Tensor) -> Tensor:
    """Apply an attention layer of SAM's image encoder over the slices of each token.

    Args:
        attention: ``image_encoder.blocks[i].attn``.
        x: (B, T, h, w, D) normalised tokens.

    Returns:
        (B, T, h, w, D) attended tokens, without relative positions.
    """
    batch, slices, height, width, dim = x.shape
    tokens = x.permute(0, 2, 3, 1, 4).reshape(-1, slices, dim)
    qkv = attention.qkv(tokens).reshape(len(tokens), slices, 3, attention.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    out = dot_product_attention(q, k, v, attention.scale).transpose(1, 2).flatten(2)
    found: Tensor = attention.proj(out).reshape(batch, height, width, slices, dim)
    return found.permute(0, 3, 1, 2, 4)

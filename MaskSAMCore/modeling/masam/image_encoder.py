"""MA-SAM's image encoder: SAM's encoder with FacT increments and 3D adapters in each block."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MaskSAMCore.modeling.masam.config import MASamConfig
from MaskSAMCore.modeling.sam.attention import attend_in_windows
from MaskSAMCore.modeling.sam.slice_encoder import SliceEncoder


class FacT(nn.Module):
    """Increments of queries and values in Tensor-Train form (FacT, Jie and Deng).

    U (D to r) and V (r to D) are shared by all blocks; each block has an r x r matrix for queries
    and one for values. V is initialised to zero, so that all increments are zero before training.
    """

    def __init__(self, config: MASamConfig) -> None:
        super().__init__()
        dim, rank, depth = config.sam.embed_dim, config.rank, config.sam.depth
        self.scale = config.fact_scale
        self.u = nn.Linear(dim, rank, bias=False)
        self.v = nn.Linear(rank, dim, bias=False)
        self.queries = nn.ModuleList(nn.Linear(rank, rank, bias=False) for _ in range(depth))
        self.values = nn.ModuleList(nn.Linear(rank, rank, bias=False) for _ in range(depth))
        self.dropout = nn.Dropout(config.fact_dropout)
        nn.init.zeros_(self.v.weight)

    def forward(self, x: Tensor, index: int) -> Tensor:
        """Return the increment (..., 3 D) of the queries, keys and values in a block.

        Args:
            x: (..., D) tokens.
            index: index of the block.
        """
        shared = self.u(x)
        queries = self.v(self.dropout(self.queries[index](shared)))
        values = self.v(self.dropout(self.values[index](shared)))
        return self.scale * torch.cat([queries, torch.zeros_like(queries), values], -1)


class DepthAdapter(nn.Module):
    """3D adapter: down, a convolution over three neighbouring slices, GELU, up, skip connection.

    It works on whole slices, never on attention windows, and is initialised as the identity.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.down = nn.Linear(dim, hidden, bias=False)
        self.convolution = nn.Conv3d(hidden, hidden, kernel_size=(3, 1, 1), padding=(1, 0, 0))
        self.up = nn.Linear(hidden, dim, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted embeddings (B, T, h, w, D) of x (B, T, h, w, D)."""
        hidden = self.down(self.norm(x))
        return x + self.up(F.gelu(convolution_over_depth(self.convolution, hidden)))


def convolution_over_depth(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """Apply a (3, 1, 1) convolution with padding 1 to channels-last x (B, T, h, w, C).

    It is written as one matrix product of each voxel and its two neighbours.
    """
    before = F.pad(x[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
    after = F.pad(x[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1))
    weight = layer.weight[..., 0, 0].permute(0, 2, 1).flatten(1)
    return F.linear(torch.cat([before, x, after], -1), weight, layer.bias)


class MASamEncoder(SliceEncoder):
    """SAM's image encoder with FacT increments and adapters; the encoder itself is an argument of
    ``forward``."""

    def __init__(self, config: MASamConfig) -> None:
        super().__init__()

        def adapters() -> nn.ModuleList:
            return nn.ModuleList(
                DepthAdapter(config.sam.embed_dim, config.adapter_dim)
                for _ in range(config.sam.depth)
            )

        self.fact = FacT(config)
        self.before_attention = adapters()
        self.before_mlp = adapters()

    def block(self, index: int, block: Any, x: Tensor) -> Tensor:
        """Apply a transformer block with its adapters to tokens (B, T, h, w, D)."""
        x = self.before_attention[index](x)
        attended = attend_in_windows(
            block, block.norm1(x).flatten(0, 1), lambda tokens: self.fact(tokens, index)
        )
        x = self.before_mlp[index](x + attended.unflatten(0, x.shape[:2]))
        return x + block.mlp(block.norm2(x))

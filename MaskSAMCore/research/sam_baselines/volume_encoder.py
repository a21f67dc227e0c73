"""Image encoder of 3DSAM-adapter (Gong et al.): SAM's blocks on the tokens of a volume."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MaskSAMCore.modeling.layers import (
    Checkpointed,
    Convolution3d,
    channels_first,
    channels_last,
    dot_product_attention,
    strided_convolution,
)
from MaskSAMCore.modeling.masksam.adapters import depthwise_convolution
from MaskSAMCore.modeling.sam.attention import relative_positions
from MaskSAMCore.research.sam_baselines.config import BaselineConfig

# Added to attention logits between tokens that a shift has brought together from opposite sides.
_EXCLUDED = -100.0


class VolumeAdapter(nn.Module):
    """Adapter before each block.

    It has a down-projection, a depthwise 3 x 3 x 3 convolution, an up-projection and a skip
    connection.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, hidden)
        self.convolution = nn.Conv3d(hidden, hidden, kernel_size=3, padding=1, groups=hidden)
        self.up = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted tokens (B, T, h, w, D) of tokens (B, T, h, w, D)."""
        hidden = F.relu(depthwise_convolution(self.convolution, F.relu(self.down(x))))
        return x + F.relu(self.up(hidden))


class LevelNeck(nn.Module):
    """Neck of a level: two convolutions with norms over the channels, as in SAM's neck."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(dim, channels, bias=False)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.convolution = Convolution3d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.last_norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map (B, C, T, h, w) of tokens (B, T, h, w, D)."""
        x = channels_first(self.norm(self.reduce(x)))
        return channels_first(self.last_norm(channels_last(self.convolution(x))))


class VolumeEncoder(Checkpointed):
    """Adaptation of SAM's image encoder to volumes; the SAM is an argument of ``forward``.

    SAM's patch embedding is followed by a depthwise convolution over depth, and every block attends
    in cubes of tokens, which are shifted by half a cube in every other block. The relative
    positions along depth are trained, and begin as the mean of SAM's along rows and columns; the
    norms of the blocks are trained too.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        dim, depth, heads = config.sam.embed_dim, config.sam.depth, config.sam.num_heads
        self.cube = config.cube
        self.enlarged_depth = config.token_depth * config.token_slices
        size = config.token_slices, 1, 1
        self.join_slices = Convolution3d(dim, dim, kernel_size=size, stride=size, groups=dim)
        # The published windows are 32 tokens deep; windows of other datasets may be shallower.
        self.depth_position = nn.Parameter(torch.ones(1, config.token_depth, 1, 1, dim))
        self.adapters = nn.ModuleList(VolumeAdapter(dim, config.adapter_dim) for _ in range(depth))
        # Increments to the mean of SAM's tables, so that SAM's tables may be loaded at any time.
        self.depth_tables = nn.ParameterList(
            torch.zeros(2 * config.cube - 1, dim // heads) for _ in range(depth)
        )
        self.necks = nn.ModuleList(LevelNeck(dim, config.sam.prompt_dim) for _ in range(4))

    def forward(self, encoder: Any, images: Tensor) -> list[Tensor]:
        """Return the maps (B, C, T', h, w) of four levels, shallow to deep.

        Args:
            encoder: image encoder of SAM.
            images: (B, T, rows, columns, 3) slices.
        """
        size = self.enlarged_depth, *images.shape[2:4]
        if images.shape[1:4] != size:
            images = F.interpolate(channels_first(images), size, mode="trilinear")
            images = channels_last(images)
        x = strided_convolution(encoder.patch_embed.proj, images)
        x = channels_last(self.join_slices(channels_first(x)))
        x = x + encoder.pos_embed[:, None] + self.depth_position
        levels: list[Tensor] = []
        step = len(encoder.blocks) // 4
        for index, block in enumerate(encoder.blocks):
            x = self.checkpointed(self.block, index, block, x)
            if (index + 1) % step == 0 and len(levels) < 3:
                levels.append(self.necks[len(levels)](x))
        return [*levels, self.necks[3](x)]

    def block(self, index: int, block: Any, x: Tensor) -> Tensor:
        """Apply a transformer block with its adapter to tokens (B, T, h, w, D)."""
        x = self.adapters[index](x)
        shift = self.cube // 2 if index % 2 == 0 else 0
        tables = [resized_table(t, self.cube) for t in (block.attn.rel_pos_h, block.attn.rel_pos_w)]
        along_depth = 0.5 * (tables[0] + tables[1]) + self.depth_tables[index]
        x = x + attend_in_cubes(
            block.attn, block.norm1(x), (along_depth, tables[0], tables[1]), self.cube, shift
        )
        return x + block.mlp(block.norm2(x))


def resized_table(table: Tensor, size: int) -> Tensor:
    """Return a table of relative positions interpolated to (2 size - 1, c)."""
    wanted = 2 * size - 1
    if len(table) == wanted:
        return table
    return F.interpolate(table.T[None], wanted, mode="linear")[0].T


def attend_in_cubes(
    attention: Any, x: Tensor, tables: tuple[Tensor, Tensor, Tensor], cube: int, shift: int
) -> Tensor:
    """Apply an attention layer of SAM's image encoder in cubes of a volume's tokens.

    Args:
        attention: ``image_encoder.blocks[i].attn``.
        x: (B, T, h, w, D) normalised tokens.
        tables: (2 cube - 1, c) relative positions along depth, rows and columns.
        cube: edge of the cubes in tokens.
        shift: number of tokens by which the cubes are shifted along each axis.

    Returns:
        (B, T, h, w, D) attended tokens.
    """
    sizes = x.shape[1:4]
    padding = [-size % cube for size in sizes]
    x = F.pad(x, (0, 0, 0, padding[2], 0, padding[1], 0, padding[0]))
    parts = torch.zeros(x.shape[1:4], dtype=torch.long, device=x.device)
    if shift:
        x = x.roll((-shift,) * 3, (1, 2, 3))
        # Opposite sides of the volume meet in the last cubes and must not see one another.
        for axis in range(3):
            side = torch.zeros(parts.shape[axis], dtype=torch.long, device=x.device)
            side[-shift:] = 1
            parts = 2 * parts + side.reshape([-1 if a == axis else 1 for a in range(3)])
    cubes = cut_cubes(x, cube)
    heads = attention.num_heads
    qkv = attention.qkv(cubes).reshape(*cubes.shape[:2], 3, heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    grid = q.unflatten(2, (cube,) * 3)
    letters = ("bntrcx,tkx->bntrck", "bntrcx,rkx->bntrck", "bntrcx,ckx->bntrck")
    token = torch.arange(cube**3, device=x.device)
    places = (token // cube**2, token // cube % cube, token % cube)
    biases = [
        torch.einsum(term, grid, relative_positions(cube, table).to(q.dtype)).flatten(2, 4)
        for term, table in zip(letters, tables, strict=True)
    ]
    keys = [F.one_hot(place, cube).to(k.dtype).expand(*k.shape[:2], -1, -1) for place in places]
    queries = [q * attention.scale, *(bias.to(q.dtype) for bias in biases)]
    if shift:
        inside = F.one_hot(cut_cubes(parts[None, ..., None], cube)[..., 0], 8)
        inside = inside.repeat(len(cubes) // len(inside), 1, 1)[:, None].to(q.dtype)
        inside = inside.expand(-1, heads, -1, -1)
        # Adds -100 to the product of a query and a key of different parts, and 0 within a part.
        queries.append(_EXCLUDED * (1 - inside))
        keys.append(inside)
    out = dot_product_attention(torch.cat(queries, -1), torch.cat([k, *keys], -1), v, 1.0)
    out = attention.proj(out.transpose(1, 2).flatten(2))
    whole = join_cubes(out, cube, x.shape[1:4])
    if shift:
        whole = whole.roll((shift,) * 3, (1, 2, 3))
    return whole[:, : sizes[0], : sizes[1], : sizes[2]]


def cut_cubes(x: Tensor, cube: int) -> Tensor:
    """Return cubes (M, cube^3, D) of tokens (B, T, h, w, D); cube divides T, h and w."""
    batch, *sizes, dim = x.shape
    t, h, w = (size // cube for size in sizes)
    x = x.reshape(batch, t, cube, h, cube, w, cube, dim).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(-1, cube**3, dim)


def join_cubes(cubes: Tensor, cube: int, sizes: torch.Size) -> Tensor:
    """Return the tokens (B, T, h, w, D) of cubes (M, cube^3, D); see :func:`cut_cubes`."""
    t, h, w = (size // cube for size in sizes)
    x = cubes.reshape(-1, t, h, w, cube, cube, cube, cubes.shape[-1])
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, *sizes, cubes.shape[-1])

"""SAM's image-encoder attention through ``scaled_dot_product_attention``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from MaskSAMCore.modeling.layers import dot_product_attention
from MaskSAMCore.modeling.sam.package import segment_anything

Increment = Callable[[Tensor], Tensor]


def attend_in_windows(block: Any, x: Tensor, increment: Increment | None = None) -> Tensor:
    """Apply a block's attention to whole slices, cut into the block's attention windows if any.

    Args:
        block: ``image_encoder.blocks[i]``.
        x: (B, H, W, D) normalised tokens.
        increment: function from tokens (..., D) to the increment (..., 3 D) of their queries, keys
            and values, or None.

    Returns:
        (B, H, W, D) attended tokens.
    """
    if block.window_size == 0:
        return attend(block.attn, x, increment)
    encoding = segment_anything("modeling.image_encoder")
    windows, padded = encoding.window_partition(x, block.window_size)
    windows = attend(block.attn, windows, increment)
    merged: Tensor = encoding.window_unpartition(windows, block.window_size, padded, x.shape[1:3])
    return merged


def attend(attention: Any, x: Tensor, increment: Increment | None = None) -> Tensor:
    """Apply an attention layer of SAM's image encoder.

    The decomposed relative positions are appended to queries and keys instead of being summed into
    a bias matrix: q' = [q scale, rel_h, rel_w], k' = [k, onehot(row), onehot(column)].

    Args:
        attention: ``image_encoder.blocks[i].attn``.
        x: (B, H, W, D) tokens.
        increment: function from tokens (..., D) to the increment (..., 3 D) of their queries, keys
            and values, or None.

    Returns:
        (B, H, W, D), equal to ``attention(x)`` within 1e-4 when there is no increment.
    """
    batch, height, width, _ = x.shape
    heads = attention.num_heads
    qkv = attention.qkv(x) if increment is None else attention.qkv(x) + increment(x)
    qkv = qkv.reshape(batch, height * width, 3, heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    scale = attention.scale
    if attention.use_rel_pos:
        grid_q = q.reshape(batch, heads, height, width, -1)
        table_h = relative_positions(height, attention.rel_pos_h).to(q.dtype)
        table_w = relative_positions(width, attention.rel_pos_w).to(q.dtype)
        rel_h = torch.einsum("bnhwc,hkc->bnhwk", grid_q, table_h).flatten(2, 3)
        rel_w = torch.einsum("bnhwc,wkc->bnhwk", grid_q, table_w).flatten(2, 3)
        q = torch.cat([q * scale, rel_h.to(q.dtype), rel_w.to(q.dtype)], -1)
        token = torch.arange(height * width, device=x.device)
        rows = F.one_hot(token // width, height).to(k.dtype)
        columns = F.one_hot(token % width, width).to(k.dtype)
        positions = torch.cat([rows, columns], -1).expand(batch, heads, -1, -1)
        k = torch.cat([k, positions], -1)
        scale = 1.0
    out = dot_product_attention(q, k, v, scale)
    return attention.proj(out.transpose(1, 2).reshape(batch, height, width, -1))


def relative_positions(size: int, table: Tensor) -> Tensor:
    """Return the relative position embedding of each query and key along an axis.

    Args:
        size: number of tokens along the axis.
        table: (2 size - 1, c) embedding of each distance; a table of another length is
            interpolated, as in SAM.

    Returns:
        (size, size, c).
    """
    if len(table) != 2 * size - 1:
        found: Tensor = segment_anything("modeling.image_encoder").get_rel_pos(size, size, table)
        return found
    # The import of segment_anything would break the graph of a compiled network here.
    index = torch.arange(size, device=table.device)
    return table[index[:, None] - index + size - 1]

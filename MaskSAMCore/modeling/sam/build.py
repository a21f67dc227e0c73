"""SAM itself, from the ``segment-anything`` package, and its official checkpoints."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MaskSAMCore.modeling.layers import dot_product_attention
from MaskSAMCore.modeling.masksam.config import SamConfig

_ALIAS = f"{__package__}._segment_anything"


def segment_anything(module: str) -> Any:
    """A module of the ``segment-anything`` package, for example ``"modeling.transformer"``.

    Raises:
        ImportError: the package is not installed.
    """
    return importlib.import_module(f"{_ALIAS}.{module}")


class Sam(nn.Module):
    """SAM's three parts, with the parameter names of the official checkpoints."""

    def __init__(self, image_encoder: nn.Module, prompt_encoder: Any, mask_decoder: Any) -> None:
        super().__init__()
        self.image_encoder: Any = image_encoder
        self.prompt_encoder: Any = prompt_encoder
        self.mask_decoder: Any = mask_decoder


def build_sam(config: SamConfig, grid: tuple[int, int]) -> Sam:
    """A randomly initialised SAM for slices of ``grid`` (rows, columns) tokens.

    Position embedding and the relative positions of the global blocks have the size of the grid
    itself, square or not; :func:`load_sam_checkpoint` interpolates all of them alike.
    """
    modeling = segment_anything("modeling")
    rows, columns = grid
    image_size = rows * config.patch, columns * config.patch
    encoder = modeling.ImageEncoderViT(
        img_size=max(image_size),
        patch_size=config.patch,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.heads,
        out_chans=config.prompt_dim,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=config.window,
        global_attn_indexes=config.global_blocks,
    )
    encoder.img_size = image_size
    encoder.pos_embed = nn.Parameter(torch.zeros(1, rows, columns, config.embed_dim))
    nn.init.trunc_normal_(encoder.pos_embed, std=0.02)
    for index in config.global_blocks:
        attention = encoder.blocks[index].attn
        head_dim = config.embed_dim // config.heads
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


Increment = Callable[[Tensor], Tensor]


def attend_in_windows(block: Any, x: Tensor, increment: Increment | None = None) -> Tensor:
    """The attention of a block of the image encoder on whole slices, cut into the block's windows
    where it has any.

    Args:
        block: ``image_encoder.blocks[i]``.
        x: (B, H, W, D), normalised.
        increment: see :func:`attend`.
    """
    if block.window_size == 0:
        return attend(block.attn, x, increment)
    encoding = segment_anything("modeling.image_encoder")
    windows, padded = encoding.window_partition(x, block.window_size)
    windows = attend(block.attn, windows, increment)
    merged: Tensor = encoding.window_unpartition(windows, block.window_size, padded, x.shape[1:3])
    return merged


def attend(attention: Any, x: Tensor, increment: Increment | None = None) -> Tensor:
    """SAM's image-encoder attention through ``scaled_dot_product_attention``.

    The decomposed relative positions are appended to queries and keys instead of being summed into
    a bias matrix: q' = [q scale, rel_h, rel_w], k' = [k, onehot(row), onehot(column)].

    Args:
        attention: ``image_encoder.blocks[i].attn``.
        x: (B, H, W, D).
        increment: of tokens (..., D), added to their queries, keys and values (..., 3 D).

    Returns:
        (B, H, W, D), equal to ``attention(x)`` within 1e-4 where there is no increment.
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
        place = torch.arange(height * width, device=x.device)
        rows = F.one_hot(place // width, height).to(k.dtype)
        columns = F.one_hot(place % width, width).to(k.dtype)
        places = torch.cat([rows, columns], -1).expand(batch, heads, -1, -1)
        k = torch.cat([k, places], -1)
        scale = 1.0
    out = dot_product_attention(q, k, v, scale)
    return attention.proj(out.transpose(1, 2).reshape(batch, height, width, -1))


def relative_positions(size: int, table: Tensor) -> Tensor:
    """(size, size, c): for each query and key along an axis, its entry of a table (2 size - 1, c);
    a table of another length is interpolated, as SAM does it."""
    if len(table) != 2 * size - 1:
        found: Tensor = segment_anything("modeling.image_encoder").get_rel_pos(size, size, table)
        return found
    # An import on the way would cut a compiled network in pieces.
    places = torch.arange(size, device=table.device)
    return table[places[:, None] - places + size - 1]


def load_sam_checkpoint(sam: Sam, path: str | Path) -> None:
    """Loads an official SAM (or MedSAM) checkpoint into ``sam``.

    Position embedding and the relative positions of the global blocks are all interpolated to the
    grid of ``sam``, which may be on the meta device. See :func:`read_sam_checkpoint`.

    Raises:
        ValueError: missing, unexpected or misshapen keys, all of them named.
    """
    state = read_sam_checkpoint(path)
    wanted = sam.state_dict()
    for key in set(wanted) & set(state):
        state[key] = _fitted(key, state[key], wanted[key])
    problems = mismatches(state, wanted)
    if problems:
        raise ValueError(f"{path} does not fit this SAM: {'; '.join(problems)}")
    on_meta = any(value.is_meta for value in wanted.values())
    sam.load_state_dict(state, assign=on_meta)


def read_sam_checkpoint(path: str | Path, mapped: bool = False) -> dict[str, Tensor]:
    """The tensors of a SAM (or MedSAM) checkpoint, under SAM's own names.

    Read with ``weights_only=True``. MedSAM's training files, which wrap the weights as ``model``,
    are accepted.

    Args:
        path: the file.
        mapped: map the file into memory instead of reading it; it must then stay where it is.

    Raises:
        ValueError: the file holds anything but tensors by name.
    """
    try:
        with Path(path).open("rb") as stream:
            # Only PyTorch's newer files, which are zips, can be mapped.
            mapped = mapped and stream.read(4) == b"PK\x03\x04"
        state = torch.load(str(path), map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        raise ValueError(f"{path} is not a readable SAM checkpoint: {error}") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} is not a SAM checkpoint: it must be a plain state dict")
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    for key in ("pixel_mean", "pixel_std"):
        state.pop(key, None)
    return state


def mismatches(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    """What does not fit, in words: missing, unexpected and misshapen keys."""
    problems = [f"missing {key}" for key in wanted if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in wanted]
    for key, value in wanted.items():
        if key in state and state[key].shape != value.shape:
            shapes = f"{tuple(state[key].shape)}, not {tuple(value.shape)}"
            problems.append(f"{key} has shape {shapes}")
    return problems


def _fitted(key: str, value: Tensor, wanted: Tensor) -> Tensor:
    """``value`` interpolated to the shape of ``wanted`` where the key depends on the grid."""
    if value.shape == wanted.shape or value.ndim != wanted.ndim:
        return value
    if key == "image_encoder.pos_embed" and value.shape[-1] == wanted.shape[-1]:
        resized = F.interpolate(
            value.permute(0, 3, 1, 2).float(),
            wanted.shape[1:3],
            mode="bicubic",
            align_corners=False,
            antialias=True,
        )
        return resized.permute(0, 2, 3, 1).to(value.dtype)
    if ".attn.rel_pos_" in key and value.shape[-1] == wanted.shape[-1]:
        resized = F.interpolate(value.T[None].float(), wanted.shape[0], mode="linear")
        return resized[0].T.to(value.dtype)
    return value

"""SAM's mask decoder with adapters, a class token for each mask and a class head (Figure 4 c)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MaskSAMCore.modeling.layers import (
    dot_product_attention,
    layer_norm_2d,
    strided_convolution,
    transposed_convolution,
)
from MaskSAMCore.modeling.masksam.adapters import build_adapter
from MaskSAMCore.modeling.masksam.config import MaskSAMConfig
from MaskSAMCore.modeling.masksam.voxel_embeddings import add_embedding_logits


class AdaptedMaskDecoder(nn.Module):
    """Adapters and class head of a mask decoder that gets N prompts for each slice.

    The SAM with the prompt encoder and the mask decoder is an argument of ``forward``. The tokens
    of a prompt are, in order: IoU, four masks, two box corners, class. Only the first mask token is
    decoded. Prompts of neighbouring slices meet in the DMLPAdapters (tokens) and DConvAdapters
    (image embeddings).
    """

    def __init__(self, config: MaskSAMConfig) -> None:
        super().__init__()
        dim, slices = config.sam.prompt_dim, config.window[0]

        def adapters(kind: Any, count: int) -> nn.ModuleList:
            return nn.ModuleList(
                build_adapter(kind, dim, slices, config.adapter_ratio) for _ in range(count)
            )

        self.after_self_attention = adapters(config.decoder_adapter, 2)
        self.after_token_to_image = adapters(config.decoder_adapter, 2)
        self.beside_mlp = adapters(config.decoder_adapter, 2)
        self.after_image_to_token = adapters(config.encoder_adapter, 2)
        self.after_final_attention = build_adapter(
            config.decoder_adapter, dim, slices, config.adapter_ratio
        )
        self.depth_position: nn.Parameter | None = None
        if config.depth_position:
            tokens = config.grid[0] * config.grid[1] if config.dense_decoder_position else 1
            self.depth_position = nn.Parameter(torch.zeros(slices, tokens, dim))
        self.class_token = nn.Parameter(torch.randn(1, dim) * 0.02)
        self.class_head = nn.Linear(dim, config.num_classes + 2)
        self.grid = config.grid
        self.from_half: nn.Linear | None = None
        self.from_full: nn.Linear | None = None
        if config.stem_pyramid:
            self.from_half = nn.Linear(config.stem_channels[-2], dim // 4)
            self.from_full = nn.Linear(config.stem_channels[-3], dim // 8)
        self.detail: nn.Sequential | None = None
        if config.detail_channels:
            self.detail = nn.Sequential(
                nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, config.embedding_channels)
            )

    def forward(
        self,
        sam: Any,
        neck: Tensor,
        maps: list[Tensor],
        boxes: Tensor,
        masks: Tensor | None,
        class_tokens: Tensor,
        without_mask: Tensor | None = None,
        voxel_embeddings: Tensor | None = None,
        mask_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode prompts.

        Args:
            sam: SAM with the prompt encoder and the mask decoder.
            neck: (B, T, h, w, C) image embedding.
            maps: maps of the channel adapter, fine to coarse, or an empty list.
            boxes: (B, N, T, 4) box prompts, x1 y1 x2 y2 normalised to the window.
            masks: (B, N, T, 4h, 4w) mask prompts, or None.
            class_tokens: (B, N, T, C) auxiliary class tokens.
            without_mask: bool (B, N, T), true for prompts whose mask is left out, or None.
            voxel_embeddings: (B, T, c, H, W) per-voxel embeddings, or None.
            mask_embeddings: (B, N, T, c) embeddings of the mask prompts if the decoder's masks are
                added to the prompts, or None.

        Returns:
            Class logits (B, N, T, K + 2) and mask logits, (B, N, T, H, W) with per-voxel embeddings
            and (B, N, T, 4h, 4w) otherwise.
        """
        decoder = sam.mask_decoder
        batch, queries, slices = boxes.shape[:3]
        lead = batch * queries
        dense = self.dense_prompts(sam.prompt_encoder, masks, without_mask, boxes)
        keys = neck.flatten(2, 3)[:, None] + dense
        keys = keys.reshape(lead, slices, -1, keys.shape[-1])
        key_position = sam.prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2)
        if self.depth_position is not None:
            key_position = key_position + self.depth_position
        key_position = key_position.to(keys.dtype)
        output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        output = output.expand(lead, slices, -1, -1)
        corners = sam.embed_boxes(boxes).reshape(lead, slices, 2, -1)
        classes = (class_tokens + self.class_token).reshape(lead, slices, 1, -1)
        tokens = torch.cat([output, corners.to(output.dtype), classes.to(output.dtype)], 2)
        tokens, keys = self.transform(decoder.transformer, tokens, keys, key_position)
        hyper = decoder.output_hypernetworks_mlps[0](tokens[:, :, 1])
        logits = self.upscaled_product(decoder, keys, hyper, maps, queries)
        shape = batch, queries, slices
        class_logits = self.class_head(tokens[:, :, -1]).reshape(*shape, -1)
        logits = logits.reshape(*shape, *logits.shape[2:])
        if self.detail is not None and voxel_embeddings is not None:
            embeddings = self.detail(tokens[:, :, 1]).reshape(*shape, -1)
            if mask_embeddings is not None and masks is not None:
                embeddings = embeddings + mask_embeddings
                if without_mask is not None:
                    masks = masks.masked_fill(without_mask[..., None, None], 0.0)
                logits = logits + masks
            logits = add_embedding_logits(logits, embeddings, voxel_embeddings)
        return class_logits.float(), logits

    def dense_prompts(
        self, prompt_encoder: Any, masks: Tensor | None, without: Tensor | None, boxes: Tensor
    ) -> Tensor:
        """Return the embeddings (B, N, T, h w, C) of mask prompts.

        Args:
            prompt_encoder: prompt encoder of SAM.
            masks: (B, N, T, 4h, 4w) mask prompts; None gives SAM's "no mask" embedding as
                (B, N, T, 1, C).
            without: bool (B, N, T), true for prompts that get the "no mask" embedding, or None.
            boxes: (B, N, T, 4) box prompts, whose shape alone is used.
        """
        nothing = prompt_encoder.no_mask_embed.weight[0]
        if masks is None:
            return nothing.expand(*boxes.shape[:3], 1, -1)
        first, norm1, act1, second, norm2, act2, last = prompt_encoder.mask_downscaling
        x = strided_convolution(first, masks[..., None])
        x = act1(layer_norm_2d(norm1, x))
        x = act2(layer_norm_2d(norm2, strided_convolution(second, x)))
        x = F.linear(x, last.weight.flatten(1), last.bias).flatten(3, 4)
        if without is not None:
            x = torch.where(without[..., None, None], nothing.to(x.dtype), x)
        return x

    def transform(
        self, transformer: Any, tokens: Tensor, keys: Tensor, key_position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Apply the two-way transformer with its adapters.

        Args:
            transformer: transformer of SAM's mask decoder.
            tokens: (P, T, L, C) tokens of P prompts.
            keys: (P, T, h w, C) image embeddings.
            key_position: position embedding that broadcasts to the image embeddings.

        Returns:
            The transformed tokens and image embeddings.
        """
        start = tokens
        for index, layer in enumerate(transformer.layers):
            if layer.skip_first_layer_pe:
                attended = attend(layer.self_attn, tokens, tokens, tokens)
                tokens = attended + self.after_self_attention[index](attended)
            else:
                positioned = tokens + start
                attended = attend(layer.self_attn, positioned, positioned, tokens)
                tokens = tokens + attended + self.after_self_attention[index](attended)
            tokens = layer.norm1(tokens)
            attended = attend(
                layer.cross_attn_token_to_image, tokens + start, keys, keys, k_position=key_position
            )
            tokens = layer.norm2(tokens + attended + self.after_token_to_image[index](attended))
            tokens = layer.norm3(tokens + layer.mlp(tokens) + 0.5 * self.beside_mlp[index](tokens))
            attended = attend(
                layer.cross_attn_image_to_token,
                keys,
                tokens + start,
                tokens,
                q_position=key_position,
            )
            increment = self.after_image_to_token[index](attended.unflatten(2, self.grid))
            keys = layer.norm4(keys + attended + increment.flatten(2, 3))
        attended = attend(
            transformer.final_attn_token_to_image,
            tokens + start,
            keys,
            keys,
            k_position=key_position,
        )
        tokens = tokens + attended + self.after_final_attention(attended)
        return transformer.norm_final_attn(tokens), keys

    def upscaled_product(
        self, decoder: Any, keys: Tensor, hyper: Tensor, maps: list[Tensor], queries: int
    ) -> Tensor:
        """Return the mask logits (P, T, 4h, 4w): upscaled image embeddings times mask vectors.

        If the channel adapter is a pyramid, its maps at 2 and 4 times the token grid are added to
        the upscaled embeddings, the same for every prompt.

        Args:
            decoder: mask decoder of SAM.
            keys: (P, T, h w, C) image embeddings of P = B N prompts.
            hyper: (P, T, C / 8) output of the hypernetwork for each prompt.
            maps: maps of the channel adapter, fine to coarse, or an empty list.
            queries: N.
        """
        first, norm, act1, second, act2 = decoder.output_upscaling
        x = transposed_convolution(first, keys.unflatten(2, self.grid))
        if self.from_half is not None:
            x = _add_to_each_query(x, self.from_half(maps[-2]), queries)
        x = act1(layer_norm_2d(norm, x))
        x = transposed_convolution(second, x)
        if self.from_full is not None:
            x = _add_to_each_query(x, self.from_full(maps[-3]), queries)
        lead, slices, height, width, channels = x.shape
        logits = act2(x).reshape(lead * slices, -1, channels) @ hyper.reshape(-1, channels, 1)
        return logits.reshape(lead, slices, height, width)


def _add_to_each_query(x: Tensor, image: Tensor, queries: int) -> Tensor:
    """Add an image (B, T, ...) to each of the N prompts in x (B N, T, ...)."""
    return (x.unflatten(0, (-1, queries)) + image[:, None]).flatten(0, 1)


def attend(
    attention: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_position: Tensor | None = None,
    k_position: Tensor | None = None,
) -> Tensor:
    """Apply an attention layer of SAM's mask decoder.

    Args:
        attention: attention layer of the transformer.
        q: (P, T, tokens, C) attention queries.
        k: (P, T, tokens, C) keys.
        v: (P, T, tokens, C) values; they are projected together with the keys if they are the same
            tensor.
        q_position: (1 or T, tokens, C) position embedding that is added to the queries, or None. It
            is the same for all prompts, so that it is projected only once.
        k_position: (1 or T, tokens, C) position embedding that is added to the keys, or None.

    Returns:
        (P, T, tokens, C).
    """
    lead = q.shape[:2]
    joint = k is v
    q = attention.q_proj(q)
    if joint:
        layers = attention.k_proj, attention.v_proj
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers])
        k, v = F.linear(k, weight, bias).chunk(2, -1)
    else:
        k, v = attention.k_proj(k), attention.v_proj(v)
    if q_position is not None:
        q = q + F.linear(q_position, attention.q_proj.weight)
    if k_position is not None:
        k = k + F.linear(k_position, attention.k_proj.weight)
    q, k, v = (
        x.flatten(0, 1).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for x in (q, k, v)
    )
    out = dot_product_attention(q, k, v, q.shape[-1] ** -0.5).transpose(1, 2).flatten(2)
    projected: Tensor = attention.out_proj(out)
    return projected.unflatten(0, lead)

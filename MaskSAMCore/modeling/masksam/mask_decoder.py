"""SAM's mask decoder with adapters, a class token for each mask and a class head (Figure 4 c)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MaskSAMCore.modeling.layers import (
    Checkpointed,
    add,
    dot_product_attention,
    fold_pixels,
    layer_norm_2d,
    pixels_of_tokens,
    softmax,
    unfold_twice,
)
from MaskSAMCore.modeling.masksam.adapters import build_adapter
from MaskSAMCore.modeling.masksam.config import MaskSAMConfig
from MaskSAMCore.modeling.masksam.voxel_embeddings import CoarseMasks

# A mask prompt whose largest logit is below this is silent: on the MNI152 head the masks of such
# prompts added at most 0.007 to a class's score.
SILENT_LOGIT = -8.0
# Memory for the image embeddings of queries that are decoded together on a CPU.
_CPU_BYTES = 8 << 20
# Memory for the image embeddings of queries that are decoded together in training with gradient
# checkpointing, so that the activations of only a few queries are in memory at a time.
_CHECKPOINTED_BYTES = 64 << 20
_ALL = 1 << 30


@dataclass(frozen=True)
class DecoderPrompts:
    """Prompts of N queries for each slice of B windows.

    Attributes:
        boxes: (B, N, T, 4) box prompts, x1 y1 x2 y2 normalised to the window.
        class_tokens: (B, N, T, C) auxiliary class tokens.
        masks: (B, N, T, 4h, 4w) mask prompts, or None.
        without_mask: bool (B, N, T), true for prompts whose mask is left out, or None.
        mask_embeddings: (B, N, T, c) embeddings of the mask prompts if the decoder's masks are
            added to the prompts, or None.
        silent: bool (B, N, T), true for prompts that are decoded without the upscaled image
            embeddings, see :meth:`MaskSAM.silent_prompts`; None decodes all prompts with them.
        loose: bool (B, N, T), true for boxes that only bound their class on the slice, or None.
    """

    boxes: Tensor
    class_tokens: Tensor
    masks: Tensor | None = None
    without_mask: Tensor | None = None
    mask_embeddings: Tensor | None = None
    silent: Tensor | None = None
    loose: Tensor | None = None

    def select(self, queries: slice) -> DecoderPrompts:
        """Return the prompts of some queries."""
        chosen = {
            field.name: value[:, queries]
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        return replace(self, **chosen)


class AdaptedMaskDecoder(Checkpointed):
    """Adapters and class head of a mask decoder that gets N prompts for each slice.

    The SAM with the prompt encoder and the mask decoder is an argument of ``forward``. The tokens
    of a prompt are, in order: IoU, four masks, two box corners, class. Only the first mask token is
    decoded. DMLPAdapters (tokens) and DConvAdapters (image embeddings) connect neighbouring slices.
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
        self.box_kinds: nn.Parameter | None = None
        if config.box_kinds:
            self.box_kinds = nn.Parameter(torch.zeros(2, 2, dim))
        self.grid = config.grid
        self.window = config.window[1:]
        self.from_half: nn.Linear | None = None
        self.from_full: nn.Linear | None = None
        if config.stem_pyramid:
            self.from_half = nn.Linear(config.stem_channels[-2], dim // 4)
            self.from_full = nn.Linear(config.stem_channels[-3], dim // 8)
        self.from_middle: nn.Linear | None = None
        self.from_fine: nn.Linear | None = None
        if config.generator_maps:
            _, middle, fine = config.generator_channels
            self.from_middle = zero_linear(middle, dim // 4)
            self.from_fine = zero_linear(fine, dim // 8)
        # A filled box only locates a mask, so it is not added to the decoder's mask.
        self.adds_to_masks = config.mask_prompt != "box"
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
        prompts: DecoderPrompts,
        voxel_embeddings: Tensor | None = None,
        generator_maps: Sequence[Tensor] = (),
    ) -> tuple[Tensor, CoarseMasks]:
        """Decode prompts.

        Args:
            sam: SAM with the prompt encoder and the mask decoder.
            neck: (B, T, h, w, C) image embedding.
            maps: maps of the channel adapter, fine to coarse, or an empty list.
            prompts: prompts of N queries.
            voxel_embeddings: (B, T, c, H, W) per-voxel embeddings, or None.
            generator_maps: maps of the prompt generator at 2 and 4 times the token grid, or empty.

        Returns:
            Class logits (B, N, T, K + 2) and masks.
        """
        images = self.upscaling_maps(maps, generator_maps)
        count = self.queries_at_once(neck)
        parts = [
            self.checkpointed(
                self.decode_together,
                sam,
                neck,
                images,
                prompts.select(slice(first, first + count)),
            )
            for first in range(0, prompts.boxes.shape[1], count)
        ]
        class_logits, mask_tokens, logits = (
            each[0] if len(each) == 1 else torch.cat(each, 1) for each in zip(*parts, strict=True)
        )
        if self.detail is None or voxel_embeddings is None:
            return class_logits, CoarseMasks(logits, self.window)
        embeddings = self.detail(mask_tokens)
        if prompts.mask_embeddings is not None and prompts.masks is not None:
            embeddings = embeddings + prompts.mask_embeddings
            if self.adds_to_masks:
                logits = add(logits, kept_masks(prompts.masks, prompts.without_mask))
            elif prompts.silent is not None:
                logits = logits.masked_fill(prompts.silent[..., None, None], SILENT_LOGIT)
                embeddings = embeddings.masked_fill(prompts.silent[..., None], 0.0)
        return class_logits, CoarseMasks(logits, self.window, embeddings, voxel_embeddings)

    def queries_at_once(self, neck: Tensor) -> int:
        """Return the number of queries to decode together: a few on a CPU and with gradient
        checkpointing, to save memory, else all."""
        if torch.is_grad_enabled():
            most = _CHECKPOINTED_BYTES if self.gradient_checkpointing else None
        else:
            most = _CPU_BYTES if neck.device.type == "cpu" else None
        return _ALL if most is None else max(1, most // (4 * neck.numel()))

    def decode_together(
        self,
        sam: Any,
        neck: Tensor,
        images: tuple[Tensor, ...],
        prompts: DecoderPrompts,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode the prompts of some queries, see :meth:`forward`.

        Args:
            sam: SAM with the prompt encoder and the mask decoder.
            neck: (B, T, h, w, C) image embedding.
            images: result of :meth:`upscaling_maps`.
            prompts: prompts of the queries.

        Returns:
            Class logits (B, N, T, K + 2), mask tokens (B, N, T, C) and the decoder's mask logits
            (B, N, T, 4h, 4w).
        """
        decoder = sam.mask_decoder
        batch, queries, slices = prompts.boxes.shape[:3]
        lead = batch * queries
        dense = self.dense_prompts(sam.prompt_encoder, prompts)
        keys = neck.flatten(2, 3)[:, None] + dense
        keys = keys.reshape(lead, slices, -1, keys.shape[-1])
        key_position = sam.prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2)
        if self.depth_position is not None:
            key_position = key_position + self.depth_position
        key_position = key_position.to(keys.dtype).contiguous()
        output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        output = output.expand(lead, slices, -1, -1)
        corners = sam.embed_boxes(prompts.boxes).reshape(lead, slices, 2, -1)
        if self.box_kinds is not None:
            kind = 0 if prompts.loose is None else prompts.loose.flatten(0, 1).long()
            corners = corners + self.box_kinds[kind]
        classes = (prompts.class_tokens + self.class_token).reshape(lead, slices, 1, -1)
        tokens = torch.cat([output, corners.to(output.dtype), classes.to(output.dtype)], 2)
        tokens, keys = self.transform(decoder.transformer, tokens, keys, key_position)
        shape = batch, queries, slices
        tokens, keys = (x.unflatten(0, shape[:2]) for x in (tokens, keys))
        hyper = decoder.output_hypernetworks_mlps[0](tokens[..., 1, :])
        logits = self.upscaled_product(decoder, keys, hyper, images, prompts.silent)
        class_logits = self.class_head(tokens[..., -1, :])
        return class_logits.float(), tokens[..., 1, :], logits

    def dense_prompts(self, prompt_encoder: Any, prompts: DecoderPrompts) -> Tensor:
        """Return the embeddings (B, N, T, h w, C) of mask prompts; without masks, SAM's "no mask"
        embedding as (B, N, T, 1, C).

        Args:
            prompt_encoder: prompt encoder of SAM.
            prompts: prompts of N queries.
        """
        masks, without = prompts.masks, prompts.without_mask
        nothing = prompt_encoder.no_mask_embed.weight[0]
        if masks is None:
            return nothing.expand(*prompts.boxes.shape[:3], 1, -1)
        first, norm1, act1, second, norm2, act2, last = prompt_encoder.mask_downscaling
        x = second(act1(norm1(first(masks.flatten(0, 2)[:, None]))))
        x = act2(layer_norm_2d(norm2, x.permute(0, 2, 3, 1)))
        x = F.linear(x, last.weight.flatten(1), last.bias).flatten(1, 2)
        x = x.unflatten(0, masks.shape[:3])
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
            key_position: (1 or T, h w, C) position embedding of the image embeddings.

        Returns:
            The transformed tokens and image embeddings.
        """
        start = tokens
        for index, layer in enumerate(transformer.layers):
            if layer.skip_first_layer_pe:
                attended = self_attention(layer.self_attn, tokens, tokens)
                tokens = attended + self.after_self_attention[index](attended)
            else:
                attended = self_attention(layer.self_attn, tokens + start, tokens)
                tokens = tokens + attended + self.after_self_attention[index](attended)
            tokens = layer.norm1(tokens)
            positioned = keys + key_position
            attended = token_to_image_attention(
                layer.cross_attn_token_to_image, tokens + start, positioned, keys
            )
            tokens = layer.norm2(tokens + attended + self.after_token_to_image[index](attended))
            tokens = layer.norm3(tokens + layer.mlp(tokens) + 0.5 * self.beside_mlp[index](tokens))
            attended = image_to_token_attention(
                layer.cross_attn_image_to_token, positioned, tokens + start, tokens
            )
            increment = self.after_image_to_token[index](attended.unflatten(2, self.grid))
            keys = layer.norm4(add(add(attended, increment.flatten(2, 3)), keys))
        attended = token_to_image_attention(
            transformer.final_attn_token_to_image, tokens + start, keys + key_position, keys
        )
        tokens = tokens + attended + self.after_final_attention(attended)
        return transformer.norm_final_attn(tokens), keys

    def upscaling_maps(
        self, maps: Sequence[Tensor], generator_maps: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the increments of every prompt's upscaled embeddings at 2 and 4 times the token
        grid, grouped by token: (B, T, h w, 4, C / 4) and (B, T, h w, 4, 4, C / 8).

        Args:
            maps: maps of the channel adapter, fine to coarse, or empty.
            generator_maps: maps of the prompt generator, coarse to fine, or empty.
        """
        halves, fulls = [], []
        if self.from_half is not None and self.from_full is not None:
            halves.append(self.from_half(maps[-2].contiguous()))
            fulls.append(self.from_full(maps[-3].contiguous()))
        if self.from_middle is not None and self.from_fine is not None:
            halves.append(self.from_middle(generator_maps[0].contiguous()))
            fulls.append(self.from_fine(generator_maps[1].contiguous()))
        if not halves:
            return ()
        half, full = fold_pixels(reduce(add, halves)), fold_pixels(reduce(add, fulls))
        full = fold_pixels(full.flatten(4)).unflatten(-1, (4, -1))
        return half.flatten(2, 3), full.flatten(2, 3)

    def upscaled_product(
        self,
        decoder: Any,
        keys: Tensor,
        hyper: Tensor,
        images: tuple[Tensor, ...],
        silent: Tensor | None,
    ) -> Tensor:
        """Return the mask logits (B, N, T, 4h, 4w): upscaled image embeddings times mask vectors.

        Args:
            decoder: mask decoder of SAM.
            keys: (B, N, T, h w, C) image embeddings.
            hyper: (B, N, T, C / 8) output of the hypernetwork for each prompt.
            images: result of :meth:`upscaling_maps`.
            silent: bool (B, N, T), true for prompts whose logits are 0, or None.
        """
        if silent is None:
            every = [image[:, None] for image in images]
            return self.upscale_and_multiply(decoder, keys, hyper, every)
        logits = keys.new_zeros((*silent.shape, *(4 * size for size in self.grid)))
        batch, _, slice_ = shown = (~silent).nonzero(as_tuple=True)
        logits[shown] = self.upscale_and_multiply(
            decoder, keys[shown], hyper[shown], [image[batch, slice_] for image in images]
        )
        return logits

    def upscale_and_multiply(
        self, decoder: Any, keys: Tensor, hyper: Tensor, images: Sequence[Tensor]
    ) -> Tensor:
        """Return mask logits (..., 4h, 4w), see :meth:`upscaled_product`.

        The 16 pixels of a token stay together until they are logits, so that 8 to 32 times fewer
        numbers are rearranged into rows.

        Args:
            decoder: mask decoder of SAM.
            keys: (..., h w, C) image embeddings.
            hyper: (..., C / 8) output of the hypernetwork.
            images: result of :meth:`upscaling_maps`, in a shape that fits the image embeddings.
        """
        first, norm, act1, second, act2 = decoder.output_upscaling
        x = pixels_of_tokens(first, keys)
        if images:
            x = add(x, images[0])
        x = act1(layer_norm_2d(norm, x))
        x = pixels_of_tokens(second, x)
        if images:
            x = add(x, images[1])
        logits = act2(x).flatten(-4, -2) @ hyper[..., None]
        return unfold_twice(logits.reshape(*logits.shape[:-2], *self.grid, 16))


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer that maps everything to zero before it is trained."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def kept_masks(masks: Tensor, without: Tensor | None) -> Tensor:
    """Return mask prompts (B, N, T, 4h, 4w) with zeros where ``without`` (B, N, T) is true; all
    masks are kept if it is None."""
    return masks if without is None else masks.masked_fill(without[..., None, None], 0.0)


def self_attention(attention: Any, positioned: Tensor, tokens: Tensor) -> Tensor:
    """Apply an attention layer of SAM's mask decoder among the tokens of each prompt.

    Args:
        attention: attention layer of the transformer.
        positioned: (P, T, L, C) tokens with position embeddings, for queries and keys.
        tokens: (P, T, L, C) tokens without position embeddings, for values.

    Returns:
        (P, T, L, C).
    """
    projected = attention.q_proj(positioned), attention.k_proj(positioned), attention.v_proj(tokens)
    q, k, v = (
        x.flatten(0, 1).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for x in projected
    )
    out = dot_product_attention(q, k, v, q.shape[-1] ** -0.5).transpose(1, 2).flatten(2)
    result: Tensor = attention.out_proj(out)
    return result.unflatten(0, tokens.shape[:2])


def token_to_image_attention(
    attention: Any, tokens: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """Apply an attention layer of SAM's mask decoder from a few tokens to the image embeddings.

    A prompt has far fewer tokens than image embeddings, so the projections of keys and values are
    applied to the tokens: q (W k) = (q W) k, and the weighted mean of projected values is the
    projection of the weighted mean. The bias of the keys' projection adds the same number to all
    scores of a token, which softmax ignores.

    Args:
        attention: attention layer of the transformer.
        tokens: (P, T, L, C) tokens with position embeddings.
        keys: (P, T, h w, C) image embeddings with position embeddings.
        values: (P, T, h w, C) image embeddings without position embeddings.

    Returns:
        (P, T, L, C).
    """
    heads = attention.num_heads
    k_weight, k_bias, v_weight = (
        weight.unflatten(0, (heads, -1))
        for weight in (attention.k_proj.weight, attention.k_proj.bias, attention.v_proj.weight)
    )
    q = attention.q_proj(tokens).unflatten(-1, (heads, -1))
    q = q * q.shape[-1] ** -0.5
    scores = torch.einsum("ptlhd,hdc->pthlc", q, k_weight).flatten(2, 3) @ keys.transpose(2, 3)
    if torch.is_grad_enabled():
        # Distributed training expects a gradient of every trained parameter.
        scores = scores + torch.einsum("ptlhd,hd->pthl", q, k_bias).flatten(2)[..., None]
    means = (softmax(scores, -1) @ values).unflatten(2, (heads, -1))
    values = torch.einsum("pthlc,hdc->ptlhd", means, v_weight).flatten(3)
    result: Tensor = attention.out_proj(values + attention.v_proj.bias)
    return result


def image_to_token_attention(
    attention: Any, queries: Tensor, tokens: Tensor, values: Tensor
) -> Tensor:
    """Apply an attention layer of SAM's mask decoder from the image embeddings to a few tokens.

    As in :func:`token_to_image_attention`, the projection of the image embeddings is applied to the
    tokens, and so is the output projection.

    Args:
        attention: attention layer of the transformer.
        queries: (P, T, h w, C) image embeddings with position embeddings.
        tokens: (P, T, L, C) tokens with position embeddings, for keys.
        values: (P, T, L, C) tokens without position embeddings.

    Returns:
        (P, T, h w, C).
    """
    heads = attention.num_heads
    weight, bias = (x.unflatten(0, (heads, -1)) for x in attention.q_proj.parameters())
    k = attention.k_proj(tokens).unflatten(-1, (heads, -1))
    k = k * k.shape[-1] ** -0.5
    constant = torch.einsum("ptlhd,hd->pthl", k, bias).flatten(2)[..., None]
    k = torch.einsum("ptlhd,hdc->pthlc", k, weight).flatten(2, 3)
    scores = k @ queries.transpose(2, 3) + constant
    weights = softmax(scores.unflatten(2, (heads, -1)), 3).flatten(2, 3)
    v = attention.v_proj(values).unflatten(-1, (heads, -1))
    out = attention.out_proj.weight.unflatten(1, (heads, -1))
    v = torch.einsum("ptlhd,chd->pthlc", v, out).flatten(2, 3)
    # The attention weights of each head sum to 1, so each head adds its share of the bias.
    v = v + attention.out_proj.bias / heads
    return weights.transpose(2, 3) @ v

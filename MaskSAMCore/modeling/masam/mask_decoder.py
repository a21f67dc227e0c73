"""Mask decoder with one mask token for each class, for MA-SAM (masks at the resolution of SAM's
input) and SAMed (masks at 4 times the token grid, as in SAM)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MaskSAMCore.modeling.layers import layer_norm_2d
from MaskSAMCore.modeling.sam.config import SamConfig
from MaskSAMCore.modeling.sam.package import segment_anything


class UpscalingStage(nn.Module):
    """Transposed convolution, LayerNorm and GELU: twice the resolution, half the channels."""

    def __init__(self, inputs: int, last: bool) -> None:
        super().__init__()
        outputs = inputs // 2
        self.convolution = nn.ConvTranspose2d(inputs, outputs, kernel_size=2, stride=2)
        self.norm = None if last else segment_anything("modeling.common").LayerNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (M, C / 2, 2 h, 2 w) for x (M, C, h, w)."""
        x = self.convolution(x)
        if self.norm is not None:
            x = layer_norm_2d(self.norm, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return F.gelu(x)


class ClassTokenDecoder(nn.Module):
    """Mask tokens, upscaling and hypernetworks; each slice is decoded independently.

    The SAM with the prompt encoder and the mask decoder, which are trained, is an argument of
    ``forward``. The first of the K + 1 mask tokens is the background's. SAM's upscaling ends at 4
    times the token grid; further stages lead up to the resolution of SAM's input. The two corner
    tokens of a box also carry the embedding of its class, which is initialised to zero.

    Args:
        config: shape of the SAM.
        num_classes: K.
        further_stages: True to append upscaling stages to SAM's, up to the resolution of its input.
        upscaling_norm: True if a LayerNorm follows SAM's second transposed convolution.
        boxes: True if the decoder takes box prompts of classes.
    """

    def __init__(
        self,
        config: SamConfig,
        num_classes: int,
        further_stages: bool = True,
        upscaling_norm: bool = False,
        boxes: bool = True,
    ) -> None:
        super().__init__()
        dim = config.prompt_dim
        count = num_classes + 1
        self.mask_tokens = nn.Embedding(count, dim)
        self.box_class: nn.Embedding | None = None
        if boxes:
            self.box_class = nn.Embedding(num_classes, dim)
            nn.init.zeros_(self.box_class.weight)
        self.upscaling_norm: nn.Module | None = None
        if upscaling_norm:
            self.upscaling_norm = segment_anything("modeling.common").LayerNorm2d(dim // 8)
        widths = []
        scale, width = 4, dim // 8
        while further_stages and scale < config.patch_size:
            widths.append(width)
            scale, width = 2 * scale, width // 2
        self.further = nn.Sequential(
            *(UpscalingStage(inputs, inputs == widths[-1]) for inputs in widths)
        )
        mlp = segment_anything("modeling.mask_decoder").MLP
        self.hypernetworks = nn.ModuleList(mlp(dim, dim, width, 3) for _ in range(count))

    def forward(
        self, sam: Any, neck: Tensor, boxes: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Return the class logits (B, K + 1, T, rows, columns) at the resolution of SAM's input or,
        without further stages, at 4 times the token grid.

        Args:
            sam: SAM with the prompt encoder and the mask decoder.
            neck: (B, T, h, w, C) image embedding.
            boxes: (B, 4), one box for all slices of each window, normalised x1 y1 x2 y2, or None.
            classes: (B,) class index of each box, 1 to K, or None.
        """
        decoder = sam.mask_decoder
        batch, slices, _, _, dim = neck.shape
        tokens = torch.cat([decoder.iou_token.weight, self.mask_tokens.weight])
        tokens = tokens.expand(batch, -1, -1)
        if boxes is not None and classes is not None and self.box_class is not None:
            corners = sam.embed_boxes(boxes) + self.box_class(classes - 1)[:, None]
            tokens = torch.cat([tokens, corners.to(tokens.dtype)], 1)
        tokens = tokens.repeat_interleave(slices, 0)
        nothing = sam.prompt_encoder.no_mask_embed.weight[0]
        image = (neck + nothing).flatten(0, 1).permute(0, 3, 1, 2)
        height, width = image.shape[-2:]
        position = sam.prompt_encoder.get_dense_pe().to(image.dtype).expand(len(image), -1, -1, -1)
        tokens, image = decoder.transformer(image, position, tokens)
        image = image.transpose(1, 2).reshape(-1, dim, height, width)
        image = self.further(self.upscale(decoder.output_upscaling, image))
        hyper = torch.stack(
            [layer(tokens[:, 1 + index]) for index, layer in enumerate(self.hypernetworks)], 1
        )
        logits = (hyper @ image.flatten(2)).unflatten(2, image.shape[-2:])
        return logits.unflatten(0, (batch, slices)).transpose(1, 2)

    def upscale(self, layers: Any, image: Tensor) -> Tensor:
        """Return SAM's upscaling (M, C / 8, 4h, 4w) of image embeddings (M, C, h, w)."""
        if self.upscaling_norm is None:
            upscaled: Tensor = layers(image)
            return upscaled
        first, norm, act1, second, act2 = layers
        return act2(self.upscaling_norm(second(act1(norm(first(image))))))


def freeze_unused_parts(sam: Any) -> None:
    """Freeze the parts of SAM that a decoder with class tokens never runs: SAM's own mask tokens
    and their networks, mask quality, mask and point prompts."""
    decoder, prompts = sam.mask_decoder, sam.prompt_encoder
    masks = [decoder.mask_tokens, decoder.output_hypernetworks_mlps, prompts.mask_downscaling]
    points = [prompts.point_embeddings[0], prompts.point_embeddings[1]]
    for part in (*masks, *points, prompts.not_a_point_embed, decoder.iou_prediction_head):
        part.requires_grad_(False)

"""MA-SAM's mask decoder: a mask token for each class, and masks at SAM's input resolution."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MaskSAMCore.modeling.layers import layer_norm_2d
from MaskSAMCore.modeling.masam.config import MASamConfig
from MaskSAMCore.modeling.sam.build import segment_anything


class UpscalingStage(nn.Module):
    """Twice the resolution and half the channels: transposed convolution, LayerNorm, GELU."""

    def __init__(self, inputs: int, last: bool) -> None:
        super().__init__()
        outputs = inputs // 2
        self.convolution = nn.ConvTranspose2d(inputs, outputs, kernel_size=2, stride=2)
        self.norm = None if last else segment_anything("modeling.common").LayerNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(M, C, h, w) to (M, C / 2, 2 h, 2 w)."""
        x = self.convolution(x)
        if self.norm is not None:
            x = layer_norm_2d(self.norm, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return F.gelu(x)


class MASamDecoder(nn.Module):
    """Runs a SAM prompt encoder and mask decoder (which it does not own, but which are trained)
    with K + 1 mask tokens, background first, slice by slice.

    SAM's upscaling ends at 4 times the token grid; further stages lead up to SAM's input. A box
    comes with the class it was drawn for: its two corner tokens carry the class's embedding, which
    is zero at the start, so that a fresh decoder takes SAM's own box tokens.
    """

    def __init__(self, config: MASamConfig) -> None:
        super().__init__()
        dim = config.sam.prompt_dim
        count = config.num_classes + 1
        self.image_size = config.image_size
        self.mask_tokens = nn.Embedding(count, dim)
        self.box_class = nn.Embedding(config.num_classes, dim)
        nn.init.zeros_(self.box_class.weight)
        widths = []
        scale, width = 4, dim // 8
        while scale < config.sam.patch:
            widths.append(width)
            scale, width = 2 * scale, width // 2
        self.further = nn.Sequential(
            *(UpscalingStage(inputs, inputs == widths[-1]) for inputs in widths)
        )
        mlp = segment_anything("modeling.mask_decoder").MLP
        self.hypernetworks = nn.ModuleList(mlp(dim, dim, width, 3) for _ in range(count))

    def forward(
        self, sam: Any, neck: Tensor, boxes: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        """Decodes windows.

        Args:
            sam: the SAM whose prompt encoder and mask decoder work here.
            neck: (B, T, h, w, C) image embedding.
            boxes: (B, 4), one box for all slices of each window, normalised x1 y1 x2 y2; or None.
            label: (B,), the class of each box, 1 to K.

        Returns:
            Logits (B, K + 1, T, rows, columns) at SAM's input resolution.
        """
        decoder = sam.mask_decoder
        batch, slices, _, _, dim = neck.shape
        tokens = torch.cat([decoder.iou_token.weight, self.mask_tokens.weight])
        tokens = tokens.expand(batch, -1, -1)
        if boxes is not None and label is not None:
            corners = self.box_tokens(sam.prompt_encoder, boxes)
            corners = corners + self.box_class(label - 1)[:, None]
            tokens = torch.cat([tokens, corners.to(tokens.dtype)], 1)
        tokens = tokens.repeat_interleave(slices, 0)
        nothing = sam.prompt_encoder.no_mask_embed.weight[0]
        image = (neck + nothing).flatten(0, 1).permute(0, 3, 1, 2)
        height, width = image.shape[-2:]
        position = sam.prompt_encoder.get_dense_pe().to(image.dtype).expand(len(image), -1, -1, -1)
        tokens, image = decoder.transformer(image, position, tokens)
        image = image.transpose(1, 2).reshape(-1, dim, height, width)
        image = self.further(decoder.output_upscaling(image))
        hyper = torch.stack(
            [layer(tokens[:, 1 + index]) for index, layer in enumerate(self.hypernetworks)], 1
        )
        logits = (hyper @ image.flatten(2)).unflatten(2, image.shape[-2:])
        return logits.unflatten(0, (batch, slices)).transpose(1, 2)

    def box_tokens(self, prompt_encoder: Any, boxes: Tensor) -> Tensor:
        """SAM's box corner tokens (B, 2, C). Our boxes are pixel edges; SAM adds half a pixel to
        the pixel centres it expects, which is taken off first."""
        rows, columns = self.image_size
        with torch.autocast(boxes.device.type, enabled=False):
            size = boxes.new_tensor([columns, rows, columns, rows], dtype=torch.float32)
            tokens: Tensor = prompt_encoder._embed_boxes(boxes.float() * size - 0.5)
        return tokens

"""MaskSAM: auto-prompt SAM with mask classification, for volumes (paper section 2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from MaskSAMCore.modeling.box_prompts import (
    BoxPrompts,
    apply_box_prompts,
    inside_boxes,
    restrict_prediction,
)
from MaskSAMCore.modeling.masksam.channel_adapter import build_stem
from MaskSAMCore.modeling.masksam.config import MaskSAMConfig
from MaskSAMCore.modeling.masksam.image_encoder import AdaptedImageEncoder, ImageFeatures
from MaskSAMCore.modeling.masksam.mask_decoder import AdaptedMaskDecoder
from MaskSAMCore.modeling.masksam.prompt_generator import PromptGenerator, Proposals
from MaskSAMCore.modeling.masksam.voxel_embeddings import to_grid, with_detail
from MaskSAMCore.modeling.sam.build import build_sam


class Prediction(NamedTuple):
    """What is said of a window.

    Attributes:
        class_logits: (B, N, T, K + 2): background, the K classes, "no object".
        mask_logits: (B, N, T, H, W), from SAM's mask decoder alone.
        boxes: (B, N, T, 4), the box prompts used, normalised x1 y1 x2 y2.
        auxiliary_logits: (B, N, T, 4h, 4w), the generator's masks.
    """

    class_logits: Tensor
    mask_logits: Tensor
    boxes: Tensor
    auxiliary_logits: Tensor

    def semantic(self) -> Tensor:
        """(B, K + 1, T, H, W) scores: the sum over masks of class probability times mask."""
        return semantic_scores(self.class_logits, self.mask_logits)


@dataclass
class Embedding:
    """What is kept of an encoded window, so that a changed prompt costs a decode only."""

    features: ImageFeatures
    proposals: Proposals


class MaskSAM(nn.Module):
    """The network. ``sam`` holds SAM with its official parameter names; everything else is new and
    trained (see :meth:`trained_parameters`)."""

    def __init__(self, config: MaskSAMConfig) -> None:
        super().__init__()
        self.config = config
        self.sam = build_sam(config.sam, config.grid)
        self.stem = build_stem(config)
        self.encoder = AdaptedImageEncoder(config)
        self.generator = PromptGenerator(config)
        self.decoder = AdaptedMaskDecoder(config)
        if config.residual_masks:
            self.silence_decoder()
        for parameter in self.sam.parameters():
            parameter.requires_grad_(not config.sam.frozen)
        for part in self.unused_parts():
            part.requires_grad_(False)

    def silence_decoder(self) -> None:
        """Lets a decoder whose masks are added to the mask prompts change nothing (but for what a
        frozen SAM says)."""
        assert self.decoder.detail is not None
        lasts: list[Any] = [self.decoder.detail[-1]]
        if not self.config.sam.frozen:
            lasts.append(self.sam.mask_decoder.output_hypernetworks_mlps[0].layers[-1])
        for last in lasts:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def unused_parts(self) -> list[nn.Module]:
        """Parts of SAM that MaskSAM never runs: point prompts, further masks, mask quality."""
        decoder, prompts = self.sam.mask_decoder, self.sam.prompt_encoder
        further = list(decoder.output_hypernetworks_mlps)[1:]
        points = [prompts.point_embeddings[0], prompts.point_embeddings[1]]
        return [*further, decoder.iou_prediction_head, prompts.not_a_point_embed, *points]

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Every trained parameter by name. With a frozen SAM: channel adapter, adapters, depth
        position embeddings, prompt generator, class token and class head, nothing of SAM."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def decoder_parameters(self) -> list[nn.Parameter]:
        """The trained ones that proposals do not depend on."""
        parts = ("decoder.", "sam.mask_decoder.", "sam.prompt_encoder.")
        return [p for name, p in self.trained_parameters().items() if name.startswith(parts)]

    def encode(self, images: Tensor) -> Embedding:
        """Images (B, C, T, H, W), normalised as the plan says, to what decoding needs."""
        expected = (self.config.in_channels, *self.config.window)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"expected windows of shape (channels, T, H, W) = {expected},"
                f" not {tuple(images.shape[1:])}"
            )
        slices, maps = self.stem(images)
        features = self.encoder(self.sam.image_encoder, slices, maps)
        return Embedding(features, self.generator(features))

    def decode(self, embedding: Embedding, prompts: BoxPrompts | None = None) -> Prediction:
        """Masks and classes of an encoded window, from its own proposals or a person's boxes.

        A class with a box is decoded from that box, which also bounds it: nothing of the class is
        left outside the box, and nothing on slices that it does not cross (supplement, section 6).
        """
        proposals = embedding.proposals
        prediction = self.run_decoder(embedding, proposals.boxes, proposals.masks)
        if prompts is None:
            return prediction
        changed = apply_box_prompts(prediction.class_logits, proposals, prompts)
        prediction = self.run_decoder(embedding, changed.boxes, changed.masks)
        class_logits, mask_logits = restrict_prediction(
            prediction.class_logits, prediction.mask_logits, changed, prompts
        )
        return prediction._replace(class_logits=class_logits, mask_logits=mask_logits)

    def decode_class(
        self, embedding: Embedding, class_logits: Tensor, prompts: BoxPrompts, label: int
    ) -> Tensor:
        """Scores (B, T, H, W) of one class from its boxes: those of :meth:`decode`, for less work.

        Only queries that a box is given to are decoded: they alone show a class that has a box.

        Args:
            embedding: of the windows.
            class_logits: (B, N, T, K + 2) without any box, as :meth:`decode` gave them.
            prompts: boxes, of this class at least.
            label: the class, 1 to K.
        """
        changed = apply_box_prompts(class_logits, embedding.proposals, prompts)
        mine = changed.forced == label
        queries = mine.any(2).any(0).nonzero()[:, 0]
        few = replace(embedding, proposals=embedding.proposals.of_queries(queries))
        prediction = self.run_decoder(few, changed.boxes[:, queries], changed.masks[:, queries])
        mine, bounds = mine[:, queries], changed.bounds[:, queries]
        inside = inside_boxes(bounds.flatten(0, 2), *self.config.window[1:])
        kept = inside.unflatten(0, mine.shape) & mine[..., None, None]
        return (prediction.mask_logits.sigmoid() * kept).sum(1)

    def run_decoder(
        self,
        embedding: Embedding,
        boxes: Tensor,
        masks: Tensor,
        without_mask: Tensor | None = None,
    ) -> Prediction:
        """Decodes given prompts: boxes (B, N, T, 4), mask logits (B, N, T, 4h, 4w), and bool
        (B, N, T) for prompts that go without their mask."""
        features, proposals = embedding.features, embedding.proposals
        class_logits, mask_logits = self.decoder(
            self.sam,
            features.neck,
            features.maps,
            boxes,
            self.mask_prompts(masks),
            proposals.class_tokens,
            without_mask,
            proposals.voxels,
            proposals.vectors,
        )
        return Prediction(class_logits, self.to_window(mask_logits), boxes, proposals.masks.float())

    def auxiliary_masks(self, proposals: Proposals) -> Tensor:
        """Logits (B, N, T, H, W) of the generator's masks, with their detail."""
        if proposals.vectors is None or proposals.voxels is None:
            return self.to_window(proposals.masks)
        return with_detail(proposals.masks, proposals.vectors, proposals.voxels).float()

    def mask_prompts(self, masks: Tensor) -> Tensor | None:
        """The generator's masks as the prompt encoder receives them: without gradient, except where
        the decoder adds to them."""
        if self.config.prompts == "boxes":
            return None
        if not self.config.residual_masks:
            masks = masks.detach()
        return masks if self.config.mask_prompt == "logits" else (masks > 0).to(masks.dtype)

    def to_window(self, masks: Tensor) -> Tensor:
        """Masks (B, N, T, 4h, 4w) as float32 on the window's grid (B, N, T, H, W)."""
        return to_grid(masks.float(), self.config.window[1:])

    def forward(self, images: Tensor) -> Prediction:
        """Images (B, C, T, H, W) to a prediction, without any prompt from a person."""
        return self.decode(self.encode(images))


def semantic_scores(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """MaskFormer's combination: (B, N, T, K + 2) and (B, N, T, H, W) to (B, K + 1, T, H, W)."""
    classes = class_logits.softmax(-1)[..., :-1]
    return torch.einsum("bntk,bnthw->bkthw", classes, mask_logits.sigmoid())

"""MaskSAM: SAM for volumes with its own prompt proposals and mask classes (paper, section 2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MaskSAMCore.modeling.base import Network, WindowPrediction
from MaskSAMCore.modeling.box_prompts import BoxPrompts
from MaskSAMCore.modeling.boxes import inside_boxes
from MaskSAMCore.modeling.masksam.box_prompts import (
    PromptedQueries,
    apply_box_prompts,
    filled_boxes,
    restrict_prediction,
)
from MaskSAMCore.modeling.masksam.channel_adapter import build_channel_adapter
from MaskSAMCore.modeling.masksam.config import MaskSAMConfig
from MaskSAMCore.modeling.masksam.image_encoder import AdaptedImageEncoder, ImageFeatures
from MaskSAMCore.modeling.masksam.mask_decoder import (
    SILENT_LOGIT,
    AdaptedMaskDecoder,
    DecoderPrompts,
)
from MaskSAMCore.modeling.masksam.mask_upscaling import MaskUpscaling
from MaskSAMCore.modeling.masksam.prompt_generator import PromptGenerator, Proposals
from MaskSAMCore.modeling.masksam.voxel_embeddings import (
    CoarseMasks,
    add_embedding_logits,
    resize_masks,
)
from MaskSAMCore.modeling.sam.build import Sam, build_sam

# Beginnings of the names of parameters on which the proposals do not depend.
DECODER_PARTS = ("decoder.", "upscaling.", "sam.mask_decoder.", "sam.prompt_encoder.")


@dataclass
class MaskPrediction(WindowPrediction):
    """Masks, classes and boxes that the decoder predicts for a batch of windows.

    Attributes:
        class_logits: (B, N, T, K + 2) for background, the K classes and "no object".
        masks: masks of the queries.
        boxes: (B, N, T, 4), the box prompts used, x1 y1 x2 y2 normalised to the window.
        auxiliary_logits: masks of the prompt generator, see :class:`Proposals`.
    """

    class_logits: Tensor
    masks: CoarseMasks
    boxes: Tensor
    auxiliary_logits: Tensor

    @cached_property
    def mask_logits(self) -> Tensor:
        """Mask logits (B, N, T, H, W)."""
        return self.masks.on_grid()

    def with_mask_logits(self, mask_logits: Tensor) -> MaskPrediction:
        """Return the prediction with other mask logits (B, N, T, H, W)."""
        rows, columns = mask_logits.shape[-2:]
        return replace(self, masks=CoarseMasks(mask_logits, (rows, columns)))

    def semantic(self) -> Tensor:
        """Return the scores (B, K + 1, T, H, W): class probability times mask, summed over N."""
        if self.class_logits.device.type == "cpu" and not torch.is_grad_enabled():
            return scores_by_slice(self.class_logits, self.masks)
        return semantic_scores(self.class_logits, self.mask_logits)


@dataclass
class MaskSAMEmbedding:
    """Encoded windows with their proposals, so that a changed prompt only requires decoding.

    Attributes:
        features: features of the image encoder.
        proposals: prompts that the generator proposes.
    """

    features: ImageFeatures
    proposals: Proposals

    def repeated(self, times: int) -> MaskSAMEmbedding:
        """Return the embedding with the batch of windows repeated."""
        return MaskSAMEmbedding(self.features.repeated(times), self.proposals.repeated(times))


class MaskSAM(Network):
    """MaskSAM; the names of its parts are keys of saved weights.

    If SAM is frozen, the trained parameters are the channel adapter, the adapters, the depth
    position embeddings, the prompt generator, the class token and the class head.
    """

    training_methods: ClassVar[tuple[str, ...]] = ("encode", "run_decoder")

    config: MaskSAMConfig
    sam: Sam

    def __init__(self, config: MaskSAMConfig) -> None:
        super().__init__(config)
        self.sam = build_sam(config.sam, config.grid)
        self.stem = build_channel_adapter(config)
        self.encoder = AdaptedImageEncoder(config)
        self.generator = PromptGenerator(config)
        self.decoder = AdaptedMaskDecoder(config)
        self.upscaling: MaskUpscaling | None = None
        if config.mask_upscaling == "learned":
            self.upscaling = MaskUpscaling(config.queries)
        self.reset_decoder()
        set_trained_parts(self.sam, config.sam.frozen)

    def reset_decoder(self) -> None:
        """Make the decoder's masks equal to its mask prompts, if it adds to them.

        A frozen SAM's own masks are kept, because its weights cannot be set to zero.
        """
        if not self.config.residual_masks or self.config.mask_prompt == "box":
            return
        assert self.decoder.detail is not None
        layers: list[Any] = [self.decoder.detail[-1]]
        if not self.config.sam.frozen:
            layers.append(self.sam.mask_decoder.output_hypernetworks_mlps[0].layers[-1])
        for layer in layers:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Return the trained parameters on which the proposals do not depend."""
        trained = self.trained_parameters().items()
        return [p for name, p in trained if name.startswith(DECODER_PARTS)]

    def encode(self, images: Tensor) -> MaskSAMEmbedding:
        """Return the embedding and the proposals of windows (B, C, T, H, W)."""
        self.check_window(images)
        slices, maps = self.stem(images)
        features = self.encoder(self.sam.image_encoder, slices, maps)
        return MaskSAMEmbedding(features, self.generator(features))

    def decode(
        self, embedding: MaskSAMEmbedding, prompts: BoxPrompts | None = None
    ) -> MaskPrediction:
        """Predict masks and classes from the proposals or from boxes of the user.

        A class with a box is decoded from that box, which also bounds it: nothing of the class is
        left outside the box, and nothing on slices that the box does not cross (supplement,
        section 6).
        """
        proposals = embedding.proposals
        if prompts is None:
            silent = self.silent_prompts(proposals)
            return self.run_decoder(embedding, proposals.boxes, proposals.masks, silent=silent)
        prediction = self.run_decoder(embedding, proposals.boxes, proposals.masks)
        queries = self.prompt_queries(prediction.class_logits, proposals, prompts)
        prediction = self.run_decoder(embedding, queries.boxes, queries.masks)
        class_logits, mask_logits = restrict_prediction(
            prediction.class_logits, prediction.mask_logits, queries, prompts
        )
        return replace(prediction, class_logits=class_logits).with_mask_logits(mask_logits)

    def decode_likely(self, embedding: MaskSAMEmbedding) -> MaskPrediction:
        """Predict without boxes, skipping queries whose prompts are all silent, see
        :meth:`silent_prompts`."""
        proposals = embedding.proposals
        silent = self.silent_prompts(proposals)
        if silent is not None:
            shown = (~silent).any(2).any(0)
            shown[0] |= ~shown.any()  # at least one query is decoded
            queries = shown.nonzero()[:, 0]
            proposals, silent = proposals.select(queries), silent[:, queries]
        few = replace(embedding, proposals=proposals)
        return self.run_decoder(few, proposals.boxes, proposals.masks, silent=silent)

    def decode_class(
        self,
        embedding: MaskSAMEmbedding,
        class_logits: Tensor | None,
        prompts: BoxPrompts,
        class_index: int,
    ) -> Tensor:
        """Return the scores (B, T, H, W) of one class from its boxes.

        Given the class logits of the prediction without boxes, only queries that get a box are
        decoded, because no other query shows a class that has a box. The scores equal those of
        :meth:`decode`.
        """
        if class_logits is None or self.upscaling is not None:
            # The learned upscaling needs the masks of all queries.
            return super().decode_class(embedding, class_logits, prompts, class_index)
        prompted = self.prompt_queries(class_logits, embedding.proposals, prompts)
        own = prompted.class_index == class_index
        queries = own.any(2).any(0).nonzero()[:, 0]
        few = replace(embedding, proposals=embedding.proposals.select(queries))
        prediction = self.run_decoder(few, prompted.boxes[:, queries], prompted.masks[:, queries])
        own, bounds = own[:, queries], prompted.bounds[:, queries]
        inside = inside_boxes(bounds.flatten(0, 2), *self.config.window[1:])
        kept = inside.unflatten(0, own.shape) & own[..., None, None]
        return (prediction.mask_logits.sigmoid() * kept).sum(1)

    def run_decoder(
        self,
        embedding: MaskSAMEmbedding,
        boxes: Tensor,
        masks: Tensor,
        without_mask: Tensor | None = None,
        silent: Tensor | None = None,
        loose: Tensor | None = None,
    ) -> MaskPrediction:
        """Decode prompts.

        Args:
            embedding: encoded windows.
            boxes: (B, N, T, 4) box prompts.
            masks: logits of the mask prompts on the grid of the generator's masks.
            without_mask: bool (B, N, T), true for prompts whose mask is left out.
            silent: bool (B, N, T), result of :meth:`silent_prompts`, or None.
            loose: bool (B, N, T), true for boxes that only bound their class on the slice; None if
                none does.
        """
        features, proposals = embedding.features, embedding.proposals
        prompts = DecoderPrompts(
            boxes,
            proposals.class_tokens,
            self.mask_prompts(masks, boxes),
            without_mask,
            None if self.config.separate_masks else proposals.mask_embeddings,
            silent,
            loose,
        )
        class_logits, decoded = self.decoder(
            self.sam,
            features.neck,
            features.maps,
            prompts,
            proposals.voxel_embeddings,
            proposals.maps,
        )
        if self.upscaling is not None:
            decoded = CoarseMasks(self.upscaling(decoded.logits), decoded.size)
        prediction = MaskPrediction(class_logits, decoded, boxes, proposals.masks.float())
        if torch.is_grad_enabled():
            # Training needs the logits, which a compiled network computes here.
            return prediction.with_mask_logits(prediction.mask_logits)
        return prediction

    def silent_prompts(self, proposals: Proposals) -> Tensor | None:
        """Return the silent prompts, bool (B, N, T): true where all logits of the prompt
        generator's mask are far below zero. None if all prompts must be decoded, as in training
        and where the decoder's masks do not depend on the generator's.

        Silent prompts are decoded without the upscaled image embeddings, which take most of the
        time. This needs mask embeddings of the generator.
        """
        voxels, masks = proposals.voxel_embeddings, proposals.mask_embeddings
        if torch.is_grad_enabled() or masks is None or voxels is None:
            return None
        if self.config.separate_masks:
            return None
        rows, columns = proposals.masks.shape[-2:]
        coarse = F.adaptive_avg_pool2d(voxels.flatten(0, 1), (rows, columns))
        coarse = coarse.unflatten(0, voxels.shape[:2])
        largest = add_embedding_logits(proposals.masks, masks, coarse).flatten(3).amax(3)
        return largest < SILENT_LOGIT

    def prompt_queries(
        self, class_logits: Tensor, proposals: Proposals, prompts: BoxPrompts
    ) -> PromptedQueries:
        """Give the user's boxes to queries, see :func:`apply_box_prompts`."""
        clip = not self.config.box_kinds
        return apply_box_prompts(class_logits, proposals, prompts, clip)

    def auxiliary_masks(self, proposals: Proposals) -> Tensor:
        """Return the logits (B, N, T, H, W) of the prompt generator's masks on the window's grid,
        including the products of mask and voxel embeddings, if any."""
        voxels, masks = proposals.voxel_embeddings, proposals.mask_embeddings
        if masks is None or voxels is None:
            return self.to_window(proposals.masks)
        return add_embedding_logits(proposals.masks, masks, voxels).float()

    def mask_prompts(self, masks: Tensor, boxes: Tensor) -> Tensor | None:
        """Return the mask prompts (B, N, T, 4h, 4w) as the prompt encoder receives them: without
        gradient, except where the decoder adds to them.

        Args:
            masks: (B, N, T, 4h, 4w) logits of the prompt generator's masks.
            boxes: (B, N, T, 4) box prompts.
        """
        if self.config.prompts == "boxes":
            return None
        rows, columns = (4 * size for size in self.config.grid)
        if self.config.mask_prompt == "box":
            return filled_boxes(boxes.detach(), rows, columns).to(masks.dtype)
        if not self.config.residual_masks:
            masks = masks.detach()
        binary = self.config.mask_prompt == "binary"
        if binary:
            masks = (masks > 0).to(masks.dtype)
        if masks.shape[-2:] == (rows, columns):
            return masks
        flat = masks.flatten(0, 1)
        if binary:
            coarser = F.interpolate(flat, (rows, columns), mode="nearest")
        else:
            coarser = F.adaptive_avg_pool2d(flat, (rows, columns))
        return coarser.unflatten(0, masks.shape[:2])

    def to_window(self, masks: Tensor) -> Tensor:
        """Resize masks from any grid to the window's grid: (B, N, T, H, W), float32."""
        return resize_masks(masks.float(), self.config.window[1:])


def set_trained_parts(sam: Sam, frozen: bool) -> None:
    """Freeze a SAM, or only the parts of it that MaskSAM never runs: point prompts, further masks,
    mask quality."""
    sam.requires_grad_(not frozen)
    decoder, prompts = sam.mask_decoder, sam.prompt_encoder
    further = list(decoder.output_hypernetworks_mlps)[1:]
    points = [prompts.point_embeddings[0], prompts.point_embeddings[1]]
    unused = [*further, decoder.iou_prediction_head, prompts.not_a_point_embed, *points]
    for part in unused:
        part.requires_grad_(False)


def semantic_scores(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Combine classes and masks as MaskFormer does.

    Args:
        class_logits: (B, N, T, K + 2).
        mask_logits: (B, N, T, H, W).

    Returns:
        (B, K + 1, T, H, W) scores.
    """
    classes = class_logits.softmax(-1)[..., :-1]
    return torch.einsum("bntk,bnthw->bkthw", classes, mask_logits.sigmoid())


def scores_by_slice(class_logits: Tensor, masks: CoarseMasks) -> Tensor:
    """Compute the scores of :func:`semantic_scores` slice by slice.

    The masks of one slice fit the cache of a CPU core, and the masks of a whole window are never in
    memory.

    Args:
        class_logits: (B, N, T, K + 2).
        masks: masks of the N queries.

    Returns:
        (B, K + 1, T, H, W) scores.
    """
    classes = class_logits.softmax(-1)[..., :-1].permute(0, 2, 3, 1)
    batch, slices, count, _ = classes.shape
    rows, columns = masks.size
    scores = classes.new_empty(batch, count, slices, rows * columns)
    for window, index in product(range(batch), range(slices)):
        logits = masks.of_slice(window, index)
        torch.mm(classes[window, index], logits.sigmoid_(), out=scores[window, :, index])
    return scores.unflatten(-1, (rows, columns))

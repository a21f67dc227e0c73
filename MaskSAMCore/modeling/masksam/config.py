"""Configuration of MaskSAM."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from MaskSAMCore.modeling.base import SamNetworkConfig

PromptForm = Literal["masks", "boxes", "both", "average"]
AdapterKind = Literal[
    "plain", "depth_mlp", "depth_mlp_before", "depth_mlp_after", "depth_convolution"
]


@dataclass(frozen=True)
class MaskSAMConfig(SamNetworkConfig):
    """Description of a MaskSAM (paper, section 2), saved with its weights.

    Class K + 1 of the network is "no object". The attributes below come after those of
    :class:`~MaskSAMCore.modeling.base.SamNetworkConfig`.

    Attributes:
        queries: N, the number of masks, boxes and class tokens proposed for each slice.
        stem_channels: widths of the channel adapter. Two numbers or more with ``upsampling`` 4 are
            the paper's form for ACDC. With ``stem_pyramid`` they are the widths at full, half,
            quarter (and eighth) resolution down to the token grid, and the finer maps reach the
            prompt generator and the decoder.
        stem_norms: True if instance normalisation and LeakyReLU also follow the last two
            convolutions of the channel adapter, as in the published code. SAM's input then has
            about the spread of the images that SAM was trained on. Not for ``stem_pyramid``.
        upsampling: in-plane factor from the window to SAM's input, 1 or 4.
        stem_pyramid: True if the channel adapter is a convolutional pyramid; only for a SAM with
            4-pixel or 8-pixel tokens.
        detail_channels: width of the per-voxel embeddings, whose products with the mask embeddings
            are added to the mask logits (MaskFormer); 0 means none. Needs ``stem_pyramid``.
        residual_masks: True if the prompt generator also predicts mask embeddings and the decoder's
            masks are added to the mask prompts. With many classes the decoder then learns a
            correction of the proposals instead of every class anew. If the mask prompts are boxes,
            only the mask embeddings are added. Needs ``detail_channels``.
        separate_masks: True if the mask embeddings of the prompt generator are for its own masks
            and boxes only, so that the decoder predicts its masks anew. Needs ``residual_masks``
            and boxes as mask prompts.
        prototypes: width of the per-voxel embeddings if the mean embedding of the voxels that a
            mask claims also contributes to the mask embedding; 0 means that it does not. Needs
            ``residual_masks``.
        prompts: form of the prompt generator, Figure 2 (a) "masks", (b) "boxes", (c) "both" or
            (d) "average".
        mask_prompt: form of the mask prompts: "logits" (as in SAM's training) or "binary" masks of
            the prompt generator, or "box", the filled box prompt, which gives the decoder the
            position of a mask but not its outline.
        box_kinds: True if boxes that only bound their class on a slice have a separate learned
            embedding. It is used in training only, so that the decoder learns to fill all other
            boxes.
        generator_maps: True if the prompt generator's maps at 2 and 4 times the token grid are
            added to the decoder's upscaled image embeddings.
        generator_channels: widths of the prompt generator at 1, 2 and 4 times the token grid.
        generator_joins: method to join the maps at each level of the prompt generator:
            "concatenation", or "sum", which halves the arithmetic of the level's convolutions.
        generator_grid: grid of the prompt generator's masks, "tokens" (4 times the token grid) or
            "window" (as fine as the window, as in the paper). Each further level up to the window's
            grid has half the channels of the level below, but at least 16.
        deep_supervision: True if the prompt generator also predicts masks at the two levels below
            its finest one, for the loss only (Equation 3 of the paper's first draft).
        mask_upscaling: "bilinear" interpolation of the decoder's masks to the window's grid, or
            "learned" transposed convolutions over the masks of all queries (the published code for
            AMOS and Synapse), which need masks at a quarter of the window's resolution.
        head_channels: hidden width of the heads for boxes and class tokens.
        adapter_ratio: width of the adapters' bottleneck over that of the embeddings.
        encoder_adapter: adapter for image embeddings.
        decoder_adapter: adapter for prompt embeddings.
        depth_position: True if encoder and decoder have a learned depth position embedding.
        dense_decoder_position: True if the decoder has one depth position embedding for each token
            instead of one for each slice (T x C x h x w; the paper's parameter counts include it).
    """

    kind: ClassVar[str] = "masksam"

    queries: int = 8
    stem_channels: tuple[int, ...] = (16, 32)
    stem_norms: bool = False
    upsampling: int = 4
    stem_pyramid: bool = False
    detail_channels: int = 0
    residual_masks: bool = False
    separate_masks: bool = False
    prototypes: int = 0
    prompts: PromptForm = "average"
    mask_prompt: Literal["logits", "binary", "box"] = "logits"
    box_kinds: bool = False
    generator_maps: bool = False
    generator_channels: tuple[int, int, int] = (256, 128, 128)
    generator_joins: Literal["concatenation", "sum"] = "concatenation"
    generator_grid: Literal["tokens", "window"] = "tokens"
    deep_supervision: bool = False
    mask_upscaling: Literal["bilinear", "learned"] = "bilinear"
    head_channels: int = 128
    adapter_ratio: float = 0.25
    encoder_adapter: AdapterKind = "depth_convolution"
    decoder_adapter: AdapterKind = "depth_mlp"
    depth_position: bool = True
    dense_decoder_position: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for size in self.window[1:]:
            if size * self.upsampling % self.sam.patch_size:
                raise ValueError(
                    f"window {self.window} times upsampling {self.upsampling} is not a whole number"
                    f" of {self.sam.patch_size}-pixel tokens: choose a multiple of the token size"
                )
        if self.upsampling not in (1, 4):
            raise ValueError(f"upsampling must be 1 or 4, not {self.upsampling}")
        if self.queries < 1:
            raise ValueError("queries must be at least 1")
        for name in ("stem_channels", "generator_channels"):
            if min(getattr(self, name), default=1) < 1:
                raise ValueError(f"{name} must be widths of at least 1")
        if self.head_channels < 1:
            raise ValueError("head_channels must be at least 1")
        if self.detail_channels < 0 or self.prototypes < 0:
            raise ValueError("detail_channels and prototypes must not be negative")
        if self.stem_pyramid:
            levels = {4: 3, 8: 4}.get(self.sam.patch_size)
            if levels is None or self.upsampling != 1:
                raise ValueError(
                    "stem_pyramid needs a SAM with 4-pixel or 8-pixel tokens and no upsampling"
                )
            if len(self.stem_channels) != levels:
                raise ValueError(
                    f"with {self.sam.patch_size}-pixel tokens stem_channels must be {levels}"
                    f" widths, not {self.stem_channels}"
                )
        if self.detail_channels and not self.stem_pyramid:
            raise ValueError("detail_channels needs stem_pyramid")
        if self.residual_masks and (not self.detail_channels or self.prompts == "boxes"):
            raise ValueError("residual_masks needs detail_channels and mask prompts")
        if self.prototypes and not self.residual_masks:
            raise ValueError("prototypes needs residual_masks")
        if self.separate_masks and (not self.residual_masks or self.mask_prompt != "box"):
            raise ValueError("separate_masks needs residual_masks and mask_prompt 'box'")
        if self.stem_norms and self.stem_pyramid:
            raise ValueError("stem_norms is for a channel adapter without stem_pyramid")
        if self.mask_upscaling == "learned" and (self.mask_scale != 4 or self.detail_channels):
            raise ValueError(
                "mask_upscaling 'learned' needs masks at a quarter of the window's resolution"
                " (16-pixel tokens without upsampling) and no detail_channels"
            )
        if self.generator_grid == "window" and self.residual_masks:
            raise ValueError("residual_masks needs generator_grid 'tokens'")

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of SAM's input in pixels."""
        return self.window[1] * self.upsampling, self.window[2] * self.upsampling

    @property
    def mask_scale(self) -> int:
        """Factor from the decoder's mask grid, 4 times the token grid, to the window's grid; 1 for
        a decoder whose masks are at least as fine as the window."""
        return max(1, self.sam.patch_size // (4 * self.upsampling))

    @property
    def embedding_channels(self) -> int:
        """Width of the per-voxel and mask embeddings; prototypes add one constant channel."""
        return self.prototypes + 1 if self.prototypes else self.detail_channels

    @property
    def token_voxels(self) -> int:
        """Number of voxels that H and W of a window must be a multiple of."""
        return max(1, self.sam.patch_size // self.upsampling)

    def query_count(self, num_classes: int) -> int:
        """Return the number of queries for a dataset with this many foreground classes.

        For the configuration's own number of classes, this is the configured number (8 for ACDC, 24
        for Synapse and AMOS). Otherwise it is 1.5 for each class, and at least 8 or the configured
        number, whichever is smaller, so that each class and the background can have a query.
        """
        if num_classes == self.num_classes:
            return self.queries
        return max(min(8, self.queries), math.ceil(1.5 * num_classes))

    def adapted(
        self,
        window: tuple[int, int, int],
        spacing: tuple[float, float, float],
        num_classes: int,
        in_channels: int,
        chosen: Collection[str] = (),
    ) -> MaskSAMConfig:
        """Return the configuration for a dataset; see :meth:`NetworkConfig.adapted`.

        Raises:
            ValueError: the user has chosen no more queries than there are classes, which is too few
                for a slice that shows all classes and background.
        """
        known: dict[str, Any] = {}
        if "queries" not in chosen:
            known["queries"] = self.query_count(num_classes)
        elif self.queries <= num_classes:
            raise ValueError(
                f"queries must be at least {num_classes + 1}, one for each class and one for the"
                f" background, not {self.queries}"
            )
        changed = super().adapted(window, spacing, num_classes, in_channels, chosen)
        return changed.replace(**known)

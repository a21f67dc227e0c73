"""SAM-based networks that the paper compares with, in their automatic form."""

from __future__ import annotations

from torch import Tensor, nn

from MaskSAMCore.modeling.layers import channels_first
from MaskSAMCore.modeling.masam.mask_decoder import ClassTokenDecoder, freeze_unused_parts
from MaskSAMCore.modeling.sam.build import Sam, build_sam
from MaskSAMCore.modeling.sam.slice_encoder import SliceEncoder
from MaskSAMCore.modeling.slices import build_channel_mixer, resized_slices, rgb_slices
from MaskSAMCore.research.class_logits import ClassLogitsNetwork
from MaskSAMCore.research.sam_baselines.config import BaselineConfig
from MaskSAMCore.research.sam_baselines.decoders import ConvolutionDecoder, LevelDecoder
from MaskSAMCore.research.sam_baselines.slice_encoders import LowRankEncoder, SpaceDepthEncoder
from MaskSAMCore.research.sam_baselines.volume_encoder import VolumeEncoder


class SamBaseline(ClassLogitsNetwork):
    """Network of an adapted image encoder and a decoder; see :class:`BaselineConfig`."""

    config: BaselineConfig
    sam: Sam

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        self.sam = build_sam(config.sam, config.grid)
        self.to_rgb = build_channel_mixer(config.in_channels)
        self.encoder: nn.Module = build_encoder(config)
        self.decoder: nn.Module = build_decoder(config)
        self._choose_trained()

    def _choose_trained(self) -> None:
        """Freeze the image encoder if the SAM is frozen, and all SAM parts that never run."""
        sam = self.sam
        sam.image_encoder.requires_grad_(not self.config.sam.frozen)
        if self.config.decoder == "class_tokens":
            freeze_unused_parts(sam)
            # Without boxes, only the no-mask embedding of the prompt encoder is used.
            sam.prompt_encoder.requires_grad_(False)
            sam.prompt_encoder.no_mask_embed.requires_grad_(True)
        else:
            sam.prompt_encoder.requires_grad_(False)
            sam.mask_decoder.requires_grad_(False)
        if self.config.encoder == "volume":
            sam.image_encoder.neck.requires_grad_(False)
            for block in sam.image_encoder.blocks:
                block.norm1.requires_grad_(True)
                block.norm2.requires_grad_(True)

    def supervised_logits(self, images: Tensor) -> list[Tensor]:
        """Return class logits (B, K + 1, T, H, W) of images (B, C, T, H, W), fine to coarse."""
        slices = rgb_slices(images, self.to_rgb, self.config.image_size)
        found = self.encoder(self.sam.image_encoder, slices)
        stages: list[Tensor]
        if self.config.decoder == "class_tokens":
            stages = [self.decoder(self.sam, found)]
        elif self.config.decoder == "convolutions":
            stages = self.decoder(channels_first(found))
        else:
            stages = [self.decoder(found, images)]
        return [resized_slices(stages[0].float(), self.config.window[1:]), *stages[1:]]

    def encode(self, images: Tensor) -> Tensor:
        """Return the class logits (B, K + 1, T, H, W) of windows (B, C, T, H, W)."""
        self.check_window(images)
        return self.supervised_logits(images)[0]


def build_encoder(config: BaselineConfig) -> nn.Module:
    """Build the adaptation of the image encoder."""
    if config.encoder == "low_rank":
        return LowRankEncoder(config)
    if config.encoder == "space_depth":
        return SpaceDepthEncoder(config)
    if config.encoder == "volume":
        return VolumeEncoder(config)
    return SliceEncoder()


def build_decoder(config: BaselineConfig) -> nn.Module:
    """Build the decoder."""
    if config.decoder == "convolutions":
        return ConvolutionDecoder(config)
    if config.decoder == "levels":
        return LevelDecoder(config)
    return ClassTokenDecoder(config.sam, config.num_classes, further_stages=False, boxes=False)

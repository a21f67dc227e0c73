"""Channel adapters: windows of any number of channels become SAM's three-channel slices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from MaskSAMCore.modeling.layers import (
    Checkpointed,
    Convolution3d,
    ConvolutionBlock,
    Upsample,
    channels_first,
    channels_last,
)
from MaskSAMCore.modeling.masksam.config import MaskSAMConfig


class ChannelAdapter(Checkpointed):
    """Channel adapter of the paper: 3 x 3 x 3 convolutions to three channels.

    With ``upsampling`` 4, as for ACDC, two transposed convolutions enlarge the slices 4 times. With
    ``stem_norms`` every convolution is followed by normalisation and activation.
    """

    def __init__(self, config: MaskSAMConfig) -> None:
        super().__init__()
        width, *rest = config.stem_channels
        self.first = ConvolutionBlock(config.in_channels, width)
        self.upsampling = nn.ModuleList()
        if config.upsampling == 4:
            last = rest[0] if rest else width
            for inputs, outputs in ((width, width), (width, last)):
                self.upsampling.append(Upsample(inputs, outputs))
                self.upsampling.append(nn.InstanceNorm3d(outputs, affine=True))
            self.refine = _convolution(last, last, config.stem_norms)
            width = last
        else:
            self.refine = nn.Identity()
        self.last = _convolution(width, 3, config.stem_norms)
        self.activation = nn.GELU()

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return slices (B, T, rows, columns, 3) of images (B, C, T, H, W), and an empty list of
        maps."""
        x = self.checkpointed(self.first, images)
        for index in range(0, len(self.upsampling), 2):
            x = self.checkpointed(self.enlarge, index, x)
        return self.checkpointed(self.last_convolutions, x), []

    def enlarge(self, index: int, x: Tensor) -> Tensor:
        """Apply a transposed convolution with its normalisation and activation."""
        x = channels_first(self.upsampling[index](channels_last(x)))
        enlarged: Tensor = self.activation(self.upsampling[index + 1](x))
        return enlarged

    def last_convolutions(self, x: Tensor) -> Tensor:
        """Return the channels-last slices."""
        return channels_last(self.last(self.refine(x)))


def _convolution(inputs: int, outputs: int, normalised: bool) -> nn.Module:
    if normalised:
        return ConvolutionBlock(inputs, outputs)
    return Convolution3d(inputs, outputs, kernel_size=3, padding=1)


class ConvPyramid(nn.Module):
    """Channel adapter for a SAM that is trained from scratch.

    Convolutions at full, half and quarter resolution, and at an eighth for a SAM with 8-pixel
    tokens, learn the low-level features that a pretrained SAM already has.
    """

    def __init__(self, config: MaskSAMConfig) -> None:
        super().__init__()
        full, half, quarter, *eighth = config.stem_channels
        self.level_full = nn.Sequential(
            ConvolutionBlock(config.in_channels, full), ConvolutionBlock(full, full)
        )
        self.level_half = nn.Sequential(
            ConvolutionBlock(full, half, 2), ConvolutionBlock(half, half)
        )
        self.level_quarter = nn.Sequential(
            ConvolutionBlock(half, quarter, 2), ConvolutionBlock(quarter, quarter)
        )
        self.level_eighth: nn.Sequential | None = None
        if eighth:
            self.level_eighth = nn.Sequential(
                ConvolutionBlock(quarter, eighth[0], 2), ConvolutionBlock(eighth[0], eighth[0])
            )
        self.last = nn.Linear(full, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return slices (B, T, H, W, 3) of images (B, C, T, H, W), and the maps (B, T, h, w, C) of
        all levels, fine to coarse."""
        if images.device.type == "cpu" and not torch.is_grad_enabled():
            # All maps then keep the channels-last memory format, which the next layers need.
            images = images.clone(memory_format=torch.channels_last_3d)
        full = self.level_full(images)
        half = self.level_half(full)
        quarter = self.level_quarter(half)
        levels = [full, half, quarter]
        if self.level_eighth is not None:
            levels.append(self.level_eighth(quarter))
        maps = [channels_last(x) for x in levels]
        return self.last(maps[0]), maps


def build_channel_adapter(config: MaskSAMConfig) -> nn.Module:
    """Build the channel adapter of a configuration."""
    return ConvPyramid(config) if config.stem_pyramid else ChannelAdapter(config)

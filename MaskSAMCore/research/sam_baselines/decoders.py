"""Convolutional decoders of SAM3D and 3DSAM-adapter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MaskSAMCore.modeling.layers import Convolution3d
from MaskSAMCore.research.sam_baselines.config import BaselineConfig


def convolution(inputs: int, outputs: int, size: int, bias: bool = True) -> Convolution3d:
    """Build a convolution that keeps the size of its input."""
    return Convolution3d(inputs, outputs, kernel_size=size, padding=size // 2, bias=bias)


class ResidualBlock(nn.Module):
    """Two convolutions with instance norms and a skip connection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, 3)
        self.second = convolution(outputs, outputs, 3)
        self.skip = convolution(inputs, outputs, 1)
        self.norm = nn.InstanceNorm3d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, T, H, W) for x (B, inputs, T, H, W)."""
        hidden = F.leaky_relu(self.norm(self.first(x)))
        return F.leaky_relu(self.norm(self.second(hidden)) + self.norm(self.skip(x)))


class LogitsHead(nn.Sequential):
    """Head that predicts the class logits of a stage, with half as many hidden channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        half = max(1, inputs // 2)
        super().__init__(
            convolution(inputs, half, 3),
            nn.InstanceNorm3d(half),
            nn.LeakyReLU(),
            convolution(half, outputs, 1),
        )


class ConvolutionDecoder(nn.Module):
    """Decoder of SAM3D (Bui et al.): residual blocks up to the resolution of SAM's input.

    Class logits are predicted at the three finest stages. Each block is followed by a doubling of
    rows and columns, except the first ones if fewer doublings lead from tokens to pixels.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        widths = (config.sam.prompt_dim, *config.channels)
        self.blocks = nn.ModuleList(map(ResidualBlock, widths[:-1], widths[1:]))
        self.heads = nn.ModuleList(
            LogitsHead(width, config.num_classes + 1) for width in widths[1:][-3:]
        )
        self.doublings = (config.sam.patch_size - 1).bit_length()

    def forward(self, neck: Tensor) -> list[Tensor]:
        """Return class logits (B, K + 1, T, rows, columns), fine to coarse.

        Args:
            neck: (B, C, T, h, w) image embedding.
        """
        x, stages = neck, []
        kept = len(self.blocks) - self.doublings
        without_head = len(self.blocks) - len(self.heads)
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index >= kept:
                x = F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest")
            if index >= without_head:
                stages.append(self.heads[index - without_head](x))
        return stages[::-1]


class LevelDecoder(nn.Module):
    """Decoder of 3DSAM-adapter (Gong et al.), on the maps of four levels and the image itself."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        width = config.channels[0]

        def two_convolutions() -> nn.Sequential:
            return nn.Sequential(
                convolution(config.sam.prompt_dim, width, 3, bias=False),
                nn.InstanceNorm3d(width),
                nn.ReLU(),
                convolution(width, width, 3, bias=False),
                nn.InstanceNorm3d(width),
                nn.ReLU(),
            )

        self.levels = nn.ModuleList(two_convolutions() for _ in range(4))
        self.join = nn.Sequential(
            convolution(4 * width + 1, width, 3, bias=False),
            nn.InstanceNorm3d(width),
            nn.ReLU(),
            convolution(width, config.num_classes + 1, 3, bias=False),
        )

    def forward(self, maps: list[Tensor], images: Tensor) -> Tensor:
        """Return class logits (B, K + 1, T, H, W) on the grid of the images.

        Args:
            maps: (B, C, T', h, w) maps of four levels.
            images: (B, C, T, H, W) windows, whose first channel is used.
        """
        grid = [2 * size for size in maps[0].shape[2:]]
        upon = [
            F.interpolate(level(x), grid, mode="trilinear", align_corners=True)
            for level, x in zip(self.levels, maps, strict=True)
        ]
        upon.append(F.interpolate(images[:, :1], grid, mode="trilinear").to(upon[0].dtype))
        logits = self.join(torch.cat(upon, 1))
        return F.interpolate(logits, images.shape[2:], mode="trilinear", align_corners=True)

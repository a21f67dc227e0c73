"""Slices of a window as input of SAM, and class logits of slices back on the window's grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from MaskSAMCore.modeling.base import SamNetworkConfig
from MaskSAMCore.modeling.layers import channels_last


@dataclass(frozen=True)
class SliceNetworkConfig(SamNetworkConfig):
    """Description of a network whose SAM gets slices without a learned channel adapter.

    One image channel is repeated to SAM's three, three are taken as they are, and any other number
    is mixed to three by a learned layer. The attributes below come after those of
    :class:`~MaskSAMCore.modeling.base.SamNetworkConfig`.

    Attributes:
        pixels: longer side of SAM's input in pixels, to which smaller slices are enlarged; None
            means that slices keep their size.
    """

    pixels: int | None = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        for size in self.window[1:]:
            if size % self.token_voxels:
                raise ValueError(
                    f"window {self.window} is not a whole number of {self.token_voxels}-voxel"
                    " tokens: choose a multiple of the token size"
                )

    @property
    def enlargement(self) -> float:
        """Factor by which slices are enlarged, at least 1."""
        return 1.0 if self.pixels is None else max(1.0, self.pixels / max(self.window[1:]))

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of SAM's input in pixels."""
        rows, columns = self.window[1:]
        if self.pixels is None:
            return rows, columns
        patch = self.sam.patch_size
        tokens = [max(1, round(size * self.enlargement / patch)) for size in (rows, columns)]
        return tokens[0] * patch, tokens[1] * patch

    @property
    def token_voxels(self) -> int:
        """Number of voxels that H and W of a window must be a multiple of; slices that are enlarged
        may have any size."""
        return self.sam.patch_size if self.pixels is None else 1


def build_channel_mixer(channels: int) -> nn.Linear | None:
    """Return the layer that mixes image channels to three, or None where none is needed."""
    return None if channels in (1, 3) else nn.Linear(channels, 3)


def rgb_slices(images: Tensor, mixer: nn.Linear | None, size: tuple[int, int]) -> Tensor:
    """Return images (B, C, T, H, W) as SAM's input (B, T, rows, columns, 3).

    Args:
        images: windows.
        mixer: layer that mixes channels to three, or None.
        size: rows and columns of SAM's input in pixels.
    """
    x = channels_last(images)
    x = x.expand(*x.shape[:-1], 3) if x.shape[-1] == 1 else x
    x = x if mixer is None else mixer(x)
    if x.shape[2:4] == size:
        return x
    flat = x.flatten(0, 1).permute(0, 3, 1, 2)
    flat = F.interpolate(flat, size, mode="bilinear", align_corners=False)
    return flat.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


def resized_slices(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize the slices of logits (B, K + 1, T, rows, columns) to (H, W)."""
    if logits.shape[-2:] == size:
        return logits
    flat = F.interpolate(logits.flatten(1, 2), size, mode="bilinear", align_corners=False)
    return flat.unflatten(1, logits.shape[1:3])

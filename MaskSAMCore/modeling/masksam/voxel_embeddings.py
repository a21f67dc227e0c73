"""Detail of masks: embeddings of voxels, and what each mask takes of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from MaskSAMCore.modeling.layers import (
    Convolution3d,
    ConvolutionBlock,
    Upsample,
    channels_first,
    channels_last,
)
from MaskSAMCore.modeling.masksam.config import MaskSAMConfig


class VoxelEmbedding(nn.Module):
    """Embeds each voxel, from the finest map of the channel adapter and of the generator."""

    def __init__(self, config: MaskSAMConfig) -> None:
        super().__init__()
        width, first, fine = (
            config.detail_channels,
            config.stem_channels[0],
            config.generator_channels[-1],
        )
        self.from_map = nn.Linear(first, width)
        self.from_fine = nn.Linear(fine, width) if config.sam.patch == 4 else Upsample(fine, width)
        self.level = ConvolutionBlock(width, width)
        self.of_level: Convolution3d | None = None
        self.of_map: Convolution3d | None = None
        if config.prototypes:
            self.of_level = Convolution3d(width, config.prototypes, kernel_size=1)
            self.of_map = Convolution3d(first, config.prototypes, kernel_size=1, bias=False)

    def forward(self, finest: Tensor, fine: Tensor) -> Tensor:
        """Maps (B, T, H, W, C) of the channel adapter and (B, C, T, h, w) of the generator to
        (B, T, c, H, W); with prototypes the last of the c is 1 everywhere."""
        joined = self.from_map(finest) + self.from_fine(channels_last(fine))
        x: Tensor = self.level(channels_first(joined))
        if self.of_level is not None and self.of_map is not None:
            x = self.of_level(x) + self.of_map(channels_first(finest))
            x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        return x.transpose(1, 2)


class Prototypes(nn.Module):
    """What each mask takes of the embeddings, from those of the voxels that it claims.

    A mask's prototype is their mean over the window. It gains by the squared distance of a voxel to
    it, less the mean over all masks of their distances: of masks that meet, the nearer one gets
    the voxel (prototypical networks, Snell et al., NeurIPS 2017). So a network that never saw a
    contrast finds in the image itself what its structures look like there.
    """

    def __init__(self, queries: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((queries, 1), 0.5))

    def forward(self, masks: Tensor, vectors: Tensor, voxels: Tensor) -> Tensor:
        """Args:
            masks: (B, N, T, h, w) logits.
            vectors: (B, N, T, c), what the masks take already.
            voxels: (B, T, c, H, W), the last of c being 1.

        Returns:
            (B, N, 1, c) to add to the vectors.
        """
        with torch.autocast(masks.device.type, enabled=False):
            masks, vectors, voxels = masks.float(), vectors.float(), voxels.float()
            embedded = voxels.transpose(1, 2).flatten(2).transpose(1, 2)
            first = self.claimed(to_grid(masks, voxels.shape[-2:]), embedded)
            # Refined masks give better prototypes.
            return self.claimed(with_detail(masks, vectors + first, voxels), embedded)

    def claimed(self, logits: Tensor, embedded: Tensor) -> Tensor:
        """Vectors (B, N, 1, c) of the prototypes of masks (B, N, T, H, W), from the embeddings
        (B, T H W, c) of the voxels."""
        sums = logits.softmax(1).flatten(2) @ embedded
        prototypes = sums[..., :-1] / (sums[..., -1:] + 1)
        squares = (prototypes**2).sum(-1, keepdim=True)
        found = self.scale * torch.cat([2 * prototypes, -squares], -1)
        return (found - found.mean(1, keepdim=True))[:, :, None]


def to_grid(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Masks (B, N, T, h, w) on a grid (H, W) of slices: (B, N, T, H, W).

    It is ``F.interpolate``'s bilinear mode as two matrix products, for its gradient is several
    times slower on a CPU.
    """
    if masks.shape[-2:] == tuple(size):
        return masks
    with torch.autocast(masks.device.type, enabled=False):
        rows, columns = (
            _linear(length, wanted, masks.device).to(masks.dtype)
            for length, wanted in zip(masks.shape[-2:], size, strict=True)
        )
        return rows @ (masks @ columns.T)


def _linear(length: int, wanted: int, device: torch.device) -> Tensor:
    """(wanted, length): linear interpolation between cells that share their ends' edges."""
    place = ((torch.arange(wanted, device=device) + 0.5) * (length / wanted) - 0.5).clamp(
        0, length - 1
    )
    return (1 - (place[:, None] - torch.arange(length, device=device)).abs()).clamp(min=0)


def with_detail(logits: Tensor, vectors: Tensor, voxels: Tensor) -> Tensor:
    """Mask logits (B, N, T, 4h, 4w) on the window's grid (B, N, T, H, W), plus the products of each
    mask's vector (B, N, T, c) with the embeddings of voxels (B, T, c, H, W)."""
    size = voxels.shape[-2:]
    vectors = vectors.transpose(1, 2).flatten(0, 1)
    products = vectors @ voxels.flatten(0, 1).flatten(2).to(vectors.dtype)
    products = products.unflatten(0, voxels.shape[:2]).unflatten(-1, size).transpose(1, 2)
    return to_grid(logits, size) + products

"""Per-voxel embeddings and mask embeddings, whose products refine masks (as in MaskFormer)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MaskSAMCore.modeling.layers import (
    Convolution3d,
    ConvolutionBlock,
    Upsample,
    add,
    channels_first,
    channels_last,
    full_precision,
    linear_weights,
)
from MaskSAMCore.modeling.masksam.config import MaskSAMConfig


class VoxelEmbedding(nn.Module):
    """Per-voxel embeddings from the finest maps of the channel adapter and the prompt generator."""

    def __init__(self, config: MaskSAMConfig) -> None:
        super().__init__()
        width, first, fine = (
            config.detail_channels,
            config.stem_channels[0],
            config.generator_channels[-1],
        )
        whole = config.sam.patch_size == 4
        self.from_map = nn.Linear(first, width)
        self.from_fine = nn.Linear(fine, width) if whole else Upsample(fine, width)
        self.level = ConvolutionBlock(width, width)
        self.of_level: Convolution3d | None = None
        self.of_map: Convolution3d | None = None
        if config.prototypes:
            self.of_level = Convolution3d(width, config.prototypes, kernel_size=1)
            self.of_map = Convolution3d(first, config.prototypes, kernel_size=1, bias=False)

    def forward(self, finest: Tensor, fine: Tensor) -> Tensor:
        """Return the per-voxel embeddings of windows.

        Args:
            finest: (B, T, H, W, C) map of the channel adapter.
            fine: (B, C, T, h, w) map of the prompt generator.

        Returns:
            (B, T, c, H, W); with prototypes the last channel is 1 everywhere.
        """
        joined = add(self.from_map(finest), self.from_fine(channels_last(fine)))
        x: Tensor = self.level(channels_first(joined))
        if self.of_level is not None and self.of_map is not None:
            x = add(self.of_level(x), self.of_map(channels_first(finest)))
            x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        return x.transpose(1, 2)


class Prototypes(nn.Module):
    """Mask embeddings from the voxels that each mask claims.

    The prototype of a mask is the mean embedding of its voxels in the window. The logit of a voxel
    decreases with its squared distance to the prototype and increases with the mean of the squared
    distances to all prototypes, so that the nearest prototype gets the voxel (prototypical
    networks, Snell et al., NeurIPS 2017). A network thus takes the intensities of structures from
    the image itself, even with a contrast that it was never trained on.
    """

    def __init__(self, queries: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((queries, 1), 0.5))

    def forward(self, masks: Tensor, mask_embeddings: Tensor, voxel_embeddings: Tensor) -> Tensor:
        """Return the prototypes' increment of the mask embeddings.

        Args:
            masks: (B, N, T, h, w) logits.
            mask_embeddings: (B, N, T, c) without prototypes.
            voxel_embeddings: (B, T, c, H, W) whose last channel is 1.

        Returns:
            (B, N, 1, c).
        """
        batch, slices = voxel_embeddings.shape[:2]
        # All masks of one slice fit a CPU core's cache; on a GPU, small operations would be slow.
        together = 1 if masks.device.type == "cpu" else slices

        def parts(x: Tensor) -> list[Tensor]:
            """Split (B, N, T, ...) along T into parts (B t, N, ...)."""
            return [part.transpose(1, 2).flatten(0, 1) for part in x.split(together, 2)]

        with full_precision(masks):
            windows = voxel_embeddings.float().flatten(3).split(together, 1)
            voxels = [part.flatten(0, 1) for part in windows]
            embeddings = mask_embeddings.float()
            size = voxel_embeddings.shape[-2:]
            whole = [resize_masks(part, size).flatten(2) for part in parts(masks.float())]
            first = self.from_masks(whole, voxels, batch)
            # Masks that the first prototypes have refined give better prototypes.
            triples = zip(whole, parts(embeddings + first), voxels, strict=True)
            return self.from_masks((torch.baddbmm(*each) for each in triples), voxels, batch)

    def from_masks(self, logits: Iterable[Tensor], voxels: Sequence[Tensor], batch: int) -> Tensor:
        """Return the mask embeddings of the prototypes of masks.

        The T slices of the B windows are divided into parts of t slices each.

        Args:
            logits: for each part, (B t, N, H W).
            voxels: for each part, the voxel embeddings (B t, c, H W).
            batch: B.

        Returns:
            (B, N, 1, c).
        """
        pairs = zip(logits, voxels, strict=True)
        products = [mask.softmax(1) @ voxel.transpose(1, 2) for mask, voxel in pairs]
        slices = [part.unflatten(0, (batch, -1)).transpose(0, 1) for part in products]
        sums = torch.cat(slices).sum(0)
        prototypes = sums[..., :-1] / (sums[..., -1:] + 1)
        squares = (prototypes**2).sum(-1, keepdim=True)
        found = self.scale * torch.cat([2 * prototypes, -squares], -1)
        return (found - found.mean(1, keepdim=True))[:, :, None]


def resize_masks(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Resize masks (B, ..., h, w) to another grid: (B, ..., H, W).

    Where a gradient is needed, ``F.interpolate``'s bilinear mode is written as two matrix products,
    whose gradient is several times faster on a CPU.

    Args:
        masks: logits.
        size: H and W.
    """
    if masks.shape[-2:] == tuple(size):
        return masks
    if not torch.is_grad_enabled():
        flat = F.interpolate(masks.flatten(1, -3), tuple(size), mode="bilinear")
        return flat.unflatten(1, masks.shape[1:-2])
    with full_precision(masks):
        rows, columns = (
            linear_weights(length, wanted, masks.device).to(masks.dtype)
            for length, wanted in zip(masks.shape[-2:], size, strict=True)
        )
        return rows @ (masks @ columns.T)


@dataclass(frozen=True)
class CoarseMasks:
    """Masks on a coarse grid that are resized to the window's grid on demand.

    Attributes:
        logits: (B, N, T, h, w).
        size: H and W of the window.
        mask_embeddings: (B, N, T, c), whose products with the voxel embeddings are added; None
            for masks without embeddings.
        voxel_embeddings: (B, T, c, H, W), or None.
    """

    logits: Tensor
    size: tuple[int, int]
    mask_embeddings: Tensor | None = None
    voxel_embeddings: Tensor | None = None

    def on_grid(self) -> Tensor:
        """Return the mask logits (B, N, T, H, W) as float32."""
        if self.mask_embeddings is None or self.voxel_embeddings is None:
            return resize_masks(self.logits.float(), self.size)
        return add_embedding_logits(
            self.logits, self.mask_embeddings, self.voxel_embeddings
        ).float()

    def of_slice(self, window: int, index: int) -> Tensor:
        """Return the mask logits (N, H W) of one slice of a window as a new tensor, without
        gradient."""
        masks = self.logits[window, None, :, index]
        resized = resize_masks(masks.float(), self.size)[0].flatten(1)
        if self.logits.shape[-2:] == self.size:
            resized = resized.clone()
        if self.mask_embeddings is None or self.voxel_embeddings is None:
            return resized
        voxels = self.voxel_embeddings[window, index].flatten(1)
        return resized.addmm_(self.mask_embeddings[window, :, index].float(), voxels.float())


def add_embedding_logits(
    logits: Tensor, mask_embeddings: Tensor, voxel_embeddings: Tensor
) -> Tensor:
    """Return mask logits on the window's grid plus the products of mask and voxel embeddings.

    Args:
        logits: (B, N, T, 4h, 4w).
        mask_embeddings: (B, N, T, c).
        voxel_embeddings: (B, T, c, H, W).

    Returns:
        (B, N, T, H, W).
    """
    size = voxel_embeddings.shape[-2:]
    masks = mask_embeddings.transpose(1, 2).flatten(0, 1)
    products = masks @ voxel_embeddings.flatten(0, 1).flatten(2).to(masks.dtype)
    products = products.unflatten(0, voxel_embeddings.shape[:2]).unflatten(-1, size)
    return resize_masks(logits, size) + products.transpose(1, 2)

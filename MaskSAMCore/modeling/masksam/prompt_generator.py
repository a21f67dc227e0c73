"""The prompt generator: N masks, boxes and class tokens for each slice (paper section 2.4)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MaskSAMCore.modeling.layers import ConvolutionBlock, Upsample, channels_first, channels_last
from MaskSAMCore.modeling.masksam.config import MaskSAMConfig
from MaskSAMCore.modeling.masksam.image_encoder import ImageFeatures
from MaskSAMCore.modeling.masksam.voxel_embeddings import Prototypes, VoxelEmbedding


@dataclass
class Proposals:
    """What the generator proposes.

    Attributes:
        masks: (B, N, T, 4h, 4w) logits of the auxiliary masks, on 4 times the token grid.
        boxes: (B, N, T, 4) final box prompts, x1 y1 x2 y2 normalised to the window (voxel edges).
        class_tokens: (B, N, T, C) auxiliary class tokens.
        voxels: (B, T, c, H, W), an embedding of each voxel for the detail of masks, or None.
        vectors: (B, N, T, c), what each mask takes of that detail, or None where the decoder alone
            says so.
    """

    masks: Tensor
    boxes: Tensor
    class_tokens: Tensor
    voxels: Tensor | None = None
    vectors: Tensor | None = None

    def of_queries(self, queries: Tensor) -> Proposals:
        """Those of some queries (indices) alone."""
        return replace(
            self,
            masks=self.masks[:, queries],
            boxes=self.boxes[:, queries],
            class_tokens=self.class_tokens[:, queries],
            vectors=None if self.vectors is None else self.vectors[:, queries],
        )


class PromptGenerator(nn.Module):
    """A pyramid from the neck up to 4 times the token grid, with one skip path a level.

    The deepest two taps join the neck at the token grid, the second joins at 2 times it, the first
    at 4 times it; maps of a convolutional channel adapter join at their own resolution. Box and
    class-token heads read every level, pooled to (T, 2, 2) and (T, 1, 1).
    """

    def __init__(self, config: MaskSAMConfig) -> None:
        super().__init__()
        dim, prompt_dim = config.sam.embed_dim, config.sam.prompt_dim
        coarse, middle, fine = config.generator_channels
        # Maps at 4, 2 and 1 times the token grid; with 8-pixel tokens there is a finer one.
        four, two, one = config.stem_channels[-3:] if config.stem_pyramid else (0, 0, 0)
        self.queries = config.queries
        self.form = config.prompts
        self.skip_deep = nn.Linear(2 * dim, coarse)
        self.skip_middle = Upsample(dim, middle)
        self.skip_shallow = nn.Sequential(Upsample(dim, fine // 2), Upsample(fine // 2, fine // 2))
        self.level_coarse = _level(prompt_dim + coarse + one, coarse)
        self.up_middle = Upsample(coarse, middle)
        self.level_middle = _level(2 * middle + two, middle)
        self.up_fine = Upsample(middle, fine)
        self.level_fine = _level(fine + fine // 2 + four, fine)
        self.mask_head = nn.Conv3d(fine, config.queries, kernel_size=1)
        self.detail = VoxelEmbedding(config) if config.detail_channels else None
        width, hidden = coarse + middle + fine, config.head_channels
        self.box_head = nn.Sequential(
            nn.Linear(4 * width, hidden), nn.GELU(), nn.Linear(hidden, 4 * config.queries)
        )
        self.class_head = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, prompt_dim * config.queries)
        )
        self.vector_head: nn.Sequential | None = None
        if config.residual_masks:
            last = nn.Linear(hidden, config.voxel_channels * config.queries)
            assert self.mask_head.bias is not None
            # Masks differ, and are rather empty, from the start.
            nn.init.normal_(last.bias, std=0.2)
            nn.init.constant_(self.mask_head.bias, -2.0)
            self.vector_head = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), last)
        self.prototypes = Prototypes(config.queries) if config.prototypes else None

    def forward(self, features: ImageFeatures) -> Proposals:
        """Features of a window to its proposals."""
        four, two, one = ([m] for m in features.maps[-3:]) if features.maps else ([], [], [])
        deep = self.skip_deep(torch.cat(features.taps[2:], -1))
        coarse = _join(self.level_coarse, features.neck, deep, *one)
        middle = _join(
            self.level_middle,
            self.up_middle(channels_last(coarse)),
            self.skip_middle(features.taps[1]),
            *two,
        )
        fine = _join(
            self.level_fine,
            self.up_fine(channels_last(middle)),
            self.skip_shallow(features.taps[0]),
            *four,
        )
        masks = self.mask_head(fine)
        levels = (coarse, middle, fine)
        pooled = torch.cat([pool(level, 2) for level in levels], -1)
        learned = fraction_boxes(self.per_query(self.box_head(pooled)))
        whole = torch.cat([pool(level, 1) for level in levels], -1)
        class_tokens = self.per_query(self.class_head(whole))
        boxes = self.box_prompts(masks, learned)
        voxels = None if self.detail is None else self.detail(features.maps[0], fine)
        vectors = None if self.vector_head is None else self.per_query(self.vector_head(whole))
        if self.prototypes is not None:
            vectors = vectors + self.prototypes(masks, vectors, voxels)
        return Proposals(masks, boxes, class_tokens, voxels, vectors)

    def per_query(self, x: Tensor) -> Tensor:
        """(B, T, N c) to (B, N, T, c)."""
        return x.unflatten(-1, (self.queries, -1)).transpose(1, 2)

    def box_prompts(self, masks: Tensor, learned: Tensor) -> Tensor:
        """The final boxes of Figure 2 (a) to (d); where a mask is empty, the learned box alone."""
        if self.form in ("boxes", "both"):
            return learned
        of_masks, present = mask_boxes(masks.detach() > 0)
        of_masks = of_masks.to(learned.dtype)
        chosen = of_masks if self.form == "masks" else (of_masks + learned) / 2
        return torch.where(present[..., None], chosen, learned)


def _level(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(ConvolutionBlock(inputs, outputs), ConvolutionBlock(outputs, outputs))


def _join(level: nn.Module, *parts: Tensor) -> Tensor:
    """Concatenates channels-last maps and runs a level's convolutions: channels-first."""
    return level(channels_first(torch.cat(parts, -1)))


def pool(level: Tensor, cells: int) -> Tensor:
    """(B, C, T, H, W) to (B, T, C cells^2): the in-plane mean in cells x cells fields."""
    if cells == 1:
        return level.mean((3, 4)).transpose(1, 2)
    batch, channels, slices = level.shape[:3]
    flat = channels_last(level).flatten(0, 1).permute(0, 3, 1, 2)
    pooled = F.adaptive_avg_pool2d(flat, cells).flatten(1)
    return pooled.reshape(batch, slices, channels * cells * cells)


def fraction_boxes(x: Tensor) -> Tensor:
    """(..., 4) numbers to boxes: a corner, and the fraction of what is left behind it, so that
    x2 >= x1 and y2 >= y1 always."""
    x = x.float().sigmoid()
    corner, fraction = x[..., :2], x[..., 2:]
    return torch.cat([corner, corner + (1 - corner) * fraction], -1)


def mask_boxes(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Tight boxes of binary masks.

    Args:
        masks: bool (..., H, W).

    Returns:
        Boxes (..., 4), x1 y1 x2 y2 as voxel edges normalised by W and H (zeros where a mask is
        empty), and whether each mask has a voxel (...).
    """
    height, width = masks.shape[-2:]

    def extent(line: Tensor, length: int) -> tuple[Tensor, Tensor]:
        counts = line.to(torch.uint8)
        first = counts.argmax(-1)
        last = length - counts.flip(-1).argmax(-1)
        return first / length, last / length

    columns, rows = masks.any(-2), masks.any(-1)
    x1, x2 = extent(columns, width)
    y1, y2 = extent(rows, height)
    present = columns.any(-1)
    return torch.stack([x1, y1, x2, y2], -1) * present[..., None], present

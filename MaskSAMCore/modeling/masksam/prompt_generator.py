"""Prompt generator: N masks, boxes and class tokens for each slice (paper, section 2.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MaskSAMCore.modeling.boxes import mask_boxes
from MaskSAMCore.modeling.layers import (
    Checkpointed,
    ConvolutionBlock,
    Upsample,
    add,
    channels_first,
    channels_last,
    repeated,
)
from MaskSAMCore.modeling.masksam.config import MaskSAMConfig
from MaskSAMCore.modeling.masksam.image_encoder import ImageFeatures
from MaskSAMCore.modeling.masksam.voxel_embeddings import (
    Prototypes,
    VoxelEmbedding,
    add_embedding_logits,
)

# Fewest channels of the further levels, which halve the channels of the level below.
_NARROWEST = 16


@dataclass
class Proposals:
    """Prompts that the generator proposes for windows.

    Attributes:
        masks: logits of the auxiliary masks, (B, N, T, 4h, 4w) at 4 times the token grid, or
            (B, N, T, H, W) for a generator with the window's grid.
        boxes: (B, N, T, 4) box prompts, x1 y1 x2 y2 in voxel edges normalised to the window.
        class_tokens: (B, N, T, C) auxiliary class tokens.
        voxel_embeddings: (B, T, c, H, W) per-voxel embeddings, or None.
        mask_embeddings: (B, N, T, c) embeddings of the auxiliary masks, or None if only the decoder
            predicts mask embeddings.
        coarser_masks: logits of the auxiliary masks at the two levels below, fine to coarse, for
            deep supervision; else empty.
        maps: maps (B, T, 2h, 2w, C) and (B, T, 4h, 4w, C') of the generator for the decoder, or
            empty.
    """

    masks: Tensor
    boxes: Tensor
    class_tokens: Tensor
    voxel_embeddings: Tensor | None = None
    mask_embeddings: Tensor | None = None
    coarser_masks: tuple[Tensor, ...] = ()
    maps: tuple[Tensor, ...] = ()

    def repeated(self, times: int) -> Proposals:
        """Return the proposals with the batch of windows repeated."""
        voxels, embeddings = (
            None if x is None else repeated(x, times)
            for x in (self.voxel_embeddings, self.mask_embeddings)
        )
        return Proposals(
            repeated(self.masks, times),
            repeated(self.boxes, times),
            repeated(self.class_tokens, times),
            voxels,
            embeddings,
            tuple(repeated(masks, times) for masks in self.coarser_masks),
            tuple(repeated(level, times) for level in self.maps),
        )

    def select(self, queries: Tensor) -> Proposals:
        """Return the proposals of some queries, given by index."""
        embeddings = self.mask_embeddings
        return replace(
            self,
            masks=self.masks[:, queries],
            boxes=self.boxes[:, queries],
            class_tokens=self.class_tokens[:, queries],
            mask_embeddings=None if embeddings is None else embeddings[:, queries],
            coarser_masks=tuple(masks[:, queries] for masks in self.coarser_masks),
        )


class PromptGenerator(Checkpointed):
    """Pyramid from the neck up to 4 times the token grid, with one skip connection for each level.

    The deepest two taps join the neck at the token grid, the second tap joins at 2 times the grid,
    the first at 4 times. Maps of a convolutional channel adapter join at their own resolution.
    Further levels, without skip connections, lead to the window's grid where the configuration asks
    for it. The heads for boxes and class tokens read all levels, pooled to (T, 2, 2) and (T, 1, 1).
    """

    def __init__(self, config: MaskSAMConfig) -> None:
        super().__init__()
        dim, prompt_dim = config.sam.embed_dim, config.sam.prompt_dim
        coarse, middle, fine = config.generator_channels
        # The last three maps are at 4, 2 and 1 times the grid; 8-pixel tokens add a finer one.
        four, two, one = config.stem_channels[-3:] if config.stem_pyramid else (0, 0, 0)
        self.queries = config.queries
        self.form = config.prompts
        # Box prompts are computed from the refined masks only if boxes are also the mask prompts.
        self.boxes_of_refined = config.mask_prompt == "box"
        self.gives_maps = config.generator_maps
        sums = config.generator_joins == "sum"
        shallow = fine if sums else fine // 2
        self.skip_deep = nn.Linear(2 * dim, coarse)
        self.skip_middle = Upsample(dim, middle)
        self.skip_shallow = nn.Sequential(Upsample(dim, fine // 2), Upsample(fine // 2, shallow))
        self.join_coarse = Join((prompt_dim, coarse, one), coarse, sums)
        self.level_coarse = _level(self.join_coarse.width, coarse)
        self.up_middle = Upsample(coarse, middle)
        self.join_middle = Join((middle, middle, two), middle, sums)
        self.level_middle = _level(self.join_middle.width, middle)
        self.up_fine = Upsample(middle, fine)
        self.join_fine = Join((fine, shallow, four), fine, sums)
        self.level_fine = _level(self.join_fine.width, fine)
        widths = [coarse, middle, fine]
        self.further = nn.ModuleList()
        if config.generator_grid == "window":
            for _ in range(config.mask_scale.bit_length() - 1):
                narrower = max(_NARROWEST, widths[-1] // 2)
                self.further.append(FurtherLevel(widths[-1], narrower))
                widths.append(narrower)
        self.mask_head = nn.Conv3d(widths[-1], config.queries, kernel_size=1)
        self.coarser_heads = nn.ModuleList()
        if config.deep_supervision:
            self.coarser_heads.extend(
                nn.Conv3d(width, config.queries, kernel_size=1) for width in widths[-2:-4:-1]
            )
        self.detail = VoxelEmbedding(config) if config.detail_channels else None
        width, hidden = sum(widths), config.head_channels
        self.box_head = nn.Sequential(
            nn.Linear(4 * width, hidden), nn.GELU(), nn.Linear(hidden, 4 * config.queries)
        )
        self.class_head = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, prompt_dim * config.queries)
        )
        self.vector_head: nn.Sequential | None = None
        if config.residual_masks:
            last = nn.Linear(hidden, config.embedding_channels * config.queries)
            assert self.mask_head.bias is not None
            # Initial masks differ from each other and are almost empty.
            nn.init.normal_(last.bias, std=0.2)
            nn.init.constant_(self.mask_head.bias, -2.0)
            self.vector_head = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), last)
        self.prototypes = Prototypes(config.queries) if config.prototypes else None

    def forward(self, features: ImageFeatures) -> Proposals:
        """Return the proposals of windows."""
        four, two, one = ([m] for m in features.maps[-3:]) if features.maps else ([], [], [])
        coarse = self.checkpointed(self.coarse_level, features, *one)
        middle = self.checkpointed(self.middle_level, coarse, features.taps[1], *two)
        fine = self.checkpointed(self.fine_level, middle, features.taps[0], *four)
        levels = [coarse, middle, fine]
        for level in self.further:
            levels.append(self.checkpointed(level, levels[-1]))
        masks = self.mask_head(levels[-1]).contiguous()
        coarser = tuple(
            head(level) for head, level in zip(self.coarser_heads, levels[-2::-1], strict=False)
        )
        pooled = torch.cat([pool(level, 2) for level in levels], -1)
        learned = fraction_boxes(self.per_query(self.box_head(pooled)))
        whole = torch.cat([pool(level, 1) for level in levels], -1)
        class_tokens = self.per_query(self.class_head(whole))
        voxels = None if self.detail is None else self.detail(features.maps[0], fine)
        embeddings = None if self.vector_head is None else self.per_query(self.vector_head(whole))
        if self.prototypes is not None:
            assert voxels is not None
            if not torch.is_grad_enabled():
                # All later steps compute in float32, so the embeddings are converted once here.
                voxels = voxels.float()
            embeddings = embeddings + self.prototypes(masks, embeddings, voxels)
        shown = masks
        if self.boxes_of_refined and embeddings is not None and voxels is not None:
            shown = add_embedding_logits(masks.detach(), embeddings.detach(), voxels.detach())
        boxes = self.box_prompts(shown, learned)
        maps: tuple[Tensor, ...] = ()
        if self.gives_maps:
            maps = channels_last(middle), channels_last(fine)
        return Proposals(masks, boxes, class_tokens, voxels, embeddings, coarser, maps)

    def coarse_level(self, features: ImageFeatures, *maps: Tensor) -> Tensor:
        """Return the level (B, C, T, h, w) of the token grid."""
        deep = self.skip_deep(torch.cat(features.taps[2:], -1))
        coarse: Tensor = self.level_coarse(self.join_coarse(features.neck, deep, *maps))
        return coarse

    def middle_level(self, coarse: Tensor, tap: Tensor, *maps: Tensor) -> Tensor:
        """Return the level (B, C, T, 2h, 2w)."""
        finer = self.up_middle(channels_last(coarse))
        middle: Tensor = self.level_middle(self.join_middle(finer, self.skip_middle(tap), *maps))
        return middle

    def fine_level(self, middle: Tensor, tap: Tensor, *maps: Tensor) -> Tensor:
        """Return the level (B, C, T, 4h, 4w)."""
        finer = self.up_fine(channels_last(middle))
        fine: Tensor = self.level_fine(self.join_fine(finer, self.skip_shallow(tap), *maps))
        return fine

    def per_query(self, x: Tensor) -> Tensor:
        """Return (B, N, T, c) for x (B, T, N c)."""
        return x.unflatten(-1, (self.queries, -1)).transpose(1, 2)

    def box_prompts(self, masks: Tensor, learned: Tensor) -> Tensor:
        """Return the box prompts of Figure 2 (a) to (d); empty masks get the learned boxes.

        Args:
            masks: (B, N, T, h, w) logits on any grid.
            learned: (B, N, T, 4) boxes of the box head.
        """
        if self.form in ("boxes", "both"):
            return learned
        tight, present = mask_boxes(masks.detach() > 0)
        tight = tight.to(learned.dtype)
        chosen = tight if self.form == "masks" else (tight + learned) / 2
        return torch.where(present[..., None], chosen, learned)


class Join(nn.Module):
    """Join of the channels-last maps at a level of the prompt generator.

    Args:
        widths: channels of the maps; 0 for an absent map.
        output: channels of the level.
        sums: True to sum the maps, each after a linear layer, instead of concatenating them.

    Attributes:
        width: channels of the joined map.
    """

    def __init__(self, widths: Sequence[int], output: int, sums: bool) -> None:
        super().__init__()
        self.width = output if sums else sum(widths)
        self.layers: nn.ModuleList | None = None
        if sums:
            self.layers = nn.ModuleList(nn.Linear(width, output) for width in widths if width)

    def forward(self, *maps: Tensor) -> Tensor:
        """Return the joined map, channels-first."""
        if self.layers is None:
            return channels_first(torch.cat(maps, -1))
        first, *others = (layer(x) for layer, x in zip(self.layers, maps, strict=True))
        for other in others:
            first = add(first, other)
        return channels_first(first)


class FurtherLevel(nn.Module):
    """Level with twice the in-plane resolution of the one below."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up = Upsample(inputs, outputs)
        self.convolution = ConvolutionBlock(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, T, 2h, 2w) for x (B, inputs, T, h, w)."""
        finer: Tensor = self.convolution(channels_first(self.up(channels_last(x))))
        return finer


def _level(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(ConvolutionBlock(inputs, outputs), ConvolutionBlock(outputs, outputs))


def pool(level: Tensor, cells: int) -> Tensor:
    """Return the in-plane means of (B, C, T, H, W) over cells x cells fields: (B, T, C cells^2)."""
    if cells == 1:
        return level.mean((3, 4)).transpose(1, 2)
    batch, channels, slices = level.shape[:3]
    flat = channels_last(level).flatten(0, 1).permute(0, 3, 1, 2)
    pooled = F.adaptive_avg_pool2d(flat, cells).flatten(1)
    return pooled.reshape(batch, slices, channels * cells * cells)


def fraction_boxes(x: Tensor) -> Tensor:
    """Return boxes (..., 4) for logits (..., 4) of the upper left corner and of the box's share of
    the remaining width and height, so that x2 >= x1 and y2 >= y1."""
    x = x.float().sigmoid()
    corner, fraction = x[..., :2], x[..., 2:]
    return torch.cat([corner, corner + (1 - corner) * fraction], -1)

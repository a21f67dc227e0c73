"""Configurations of the Segment Anything Models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from MaskSAMCore.modeling.configuration import Configuration

# The largest SAM has 32 blocks; each block takes time to build, even without weights.
_MOST_BLOCKS = 256


@dataclass(frozen=True)
class SamConfig(Configuration):
    """Shape of a Segment Anything Model, with segment-anything's names.

    Attributes:
        name: "vit_b", "vit_l", "vit_h" (Meta's checkpoints) or "vit_t" (the small one of the
            bundled models).
        patch_size: edge of a token in pixels of SAM's input.
        embed_dim: width D of the image encoder.
        depth: number of transformer blocks in the image encoder.
        num_heads: attention heads in each block of the image encoder.
        window_size: edge of an attention window in tokens; 0 means global attention in all blocks.
        global_attn_indexes: indices of the blocks with global attention.
        prompt_dim: width C of the neck, the prompt encoder and the mask decoder.
        decoder_mlp_dim: hidden width of the two-way transformer, which has two layers as in SAM.
        decoder_heads: attention heads of the two-way transformer.
        frozen: True if SAM's weights come from its own checkpoint and are not trained.
    """

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "patch": "patch_size",
        "heads": "num_heads",
        "window": "window_size",
        "global_blocks": "global_attn_indexes",
    }

    name: str = "vit_b"
    patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    window_size: int = 14
    global_attn_indexes: tuple[int, ...] = (2, 5, 8, 11)
    prompt_dim: int = 256
    decoder_mlp_dim: int = 2048
    decoder_heads: int = 8
    frozen: bool = True

    def __post_init__(self) -> None:
        sizes = (self.patch_size, self.embed_dim, self.num_heads, self.prompt_dim)
        if min(*sizes, self.decoder_mlp_dim, self.decoder_heads) < 1 or self.window_size < 0:
            raise ValueError("the sizes of a SAM must be positive")
        if not 1 <= self.depth <= _MOST_BLOCKS:
            raise ValueError(f"depth must be 1 to {_MOST_BLOCKS}, not {self.depth}")
        if self.embed_dim % self.num_heads or self.prompt_dim % self.decoder_heads:
            raise ValueError("the widths of a SAM must be multiples of its numbers of heads")


SAM_CONFIGS = {
    "vit_b": SamConfig(),
    "vit_l": SamConfig(
        "vit_l", embed_dim=1024, depth=24, num_heads=16, global_attn_indexes=(5, 11, 17, 23)
    ),
    "vit_h": SamConfig(
        "vit_h", embed_dim=1280, depth=32, num_heads=16, global_attn_indexes=(7, 15, 23, 31)
    ),
    "vit_t": SamConfig(
        "vit_t",
        patch_size=4,
        embed_dim=192,
        depth=4,
        num_heads=6,
        window_size=0,
        global_attn_indexes=(0, 1, 2, 3),
        prompt_dim=128,
        decoder_mlp_dim=256,
        decoder_heads=4,
        frozen=False,
    ),
}

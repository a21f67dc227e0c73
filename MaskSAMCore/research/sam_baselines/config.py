"""Configuration of the SAM-based networks that the paper compares with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from MaskSAMCore.modeling.slices import SliceNetworkConfig

EncoderKind = Literal["frozen", "low_rank", "space_depth", "volume"]
DecoderKind = Literal["class_tokens", "convolutions", "levels"]


@dataclass(frozen=True)
class BaselineConfig(SliceNetworkConfig):
    """Description of a network that adapts SAM's image encoder and predicts class logits.

    The published networks are the encoder "low_rank" with the decoder "class_tokens" (SAMed),
    "space_depth" with "class_tokens" (Med-SA without prompts), "volume" with "levels" (the
    automatic form of 3DSAM-adapter), and "frozen" with "convolutions" (SAM3D). If SAM is not
    frozen, the encoder's own weights are trained as well. The attributes below come after those of
    :class:`~MaskSAMCore.modeling.slices.SliceNetworkConfig`.

    Attributes:
        encoder: adaptation of the image encoder: none, low-rank increments of queries and values,
            adapters over space and depth, or attention in cubes of a volume.
        decoder: SAM's decoder with a mask token for each class, convolutions on the image
            embedding, or convolutions on the maps of four levels of the encoder.
        rank: rank of the low-rank increments.
        adapter_dim: bottleneck width of the adapters.
        token_slices: slices of the enlarged volume that a token of the encoder "volume" spans.
        cube: edge of the attention cubes of the encoder "volume" in tokens.
        channels: channels of the levels of the decoder "convolutions", coarse to fine, or of each
            level of the decoder "levels".
    """

    kind: ClassVar[str] = "sam_baselines"

    encoder: EncoderKind = "low_rank"
    decoder: DecoderKind = "class_tokens"
    rank: int = 4
    adapter_dim: int = 384
    token_slices: int = 16
    cube: int = 8
    channels: tuple[int, ...] = (128, 64, 32, 16)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.encoder == "volume") != (self.decoder == "levels"):
            raise ValueError('the encoder "volume" and the decoder "levels" need each other')
        numbers = (self.rank, self.adapter_dim, self.token_slices, self.cube, *self.channels)
        if min(numbers) < 1 or not self.channels:
            raise ValueError("ranks, widths and sizes of a network must be at least 1")
        if self.decoder == "convolutions" and 2 ** len(self.channels) < self.sam.patch_size:
            raise ValueError("channels needs a level for each doubling of the token grid")

    @property
    def token_depth(self) -> int:
        """Number of tokens along the depth of a window in the encoder "volume", which enlarges
        depth by the same factor as rows and columns."""
        return max(1, round(self.window[0] * self.enlargement / self.token_slices))

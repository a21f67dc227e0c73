"""Configuration of MA-SAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from MaskSAMCore.modeling.slices import SliceNetworkConfig


@dataclass(frozen=True)
class MASamConfig(SliceNetworkConfig):
    """Description of an MA-SAM (Chen et al.), saved with its weights.

    ``sam.frozen`` freezes only SAM's image encoder. The attributes below come after those of
    :class:`~MaskSAMCore.modeling.slices.SliceNetworkConfig`.

    Attributes:
        rank: r, the rank of the FacT increments.
        fact_scale: weight of the FacT increments.
        fact_dropout: dropout rate between the factors of the FacT increments.
        adapter_dim: bottleneck width of the 3D adapters.
        upscaling_norm: True if a LayerNorm follows SAM's second transposed convolution, as in the
            published code.
    """

    kind: ClassVar[str] = "masam"
    every_slice: ClassVar[bool] = True

    window: tuple[int, int, int] = (5, 512, 512)
    rank: int = 32
    fact_scale: float = 1.0
    fact_dropout: float = 0.1
    adapter_dim: int = 384
    upscaling_norm: bool = False

    def __post_init__(self) -> None:
        if self.sam.patch_size not in (4, 8, 16):
            raise ValueError(f"MA-SAM needs tokens of 4, 8 or 16 pixels, not {self.sam.patch_size}")
        super().__post_init__()

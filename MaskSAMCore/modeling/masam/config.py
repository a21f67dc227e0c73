"""Configuration of MA-SAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from MaskSAMCore.modeling.base import SamNetworkConfig


@dataclass(frozen=True)
class MASamConfig(SamNetworkConfig):
    """Description of an MA-SAM (Chen et al.), saved with its weights.

    One image channel is repeated to SAM's three, three are taken as they are, and any other number
    is mixed to three by a learned layer. If SAM is frozen, only its image encoder is. The
    attributes below come after those of :class:`~MaskSAMCore.modeling.base.SamNetworkConfig`.

    Attributes:
        pixels: longer side of SAM's input in pixels, to which smaller slices are enlarged; None
            means that slices keep their size.
        rank: r, the rank of the FacT increments.
        fact_scale: weight of the FacT increments.
        fact_dropout: dropout rate between the factors of the FacT increments.
        adapter_dim: bottleneck width of the 3D adapters.
        upscaling_norm: SAM's second transposed convolution is followed by a LayerNorm, as in the
            published code.
    """

    kind: ClassVar[str] = "masam"
    every_slice: ClassVar[bool] = True

    window: tuple[int, int, int] = (5, 512, 512)
    pixels: int | None = 512
    rank: int = 32
    fact_scale: float = 1.0
    fact_dropout: float = 0.1
    adapter_dim: int = 384
    upscaling_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sam.patch_size not in (4, 8, 16):
            raise ValueError(f"MA-SAM needs tokens of 4, 8 or 16 pixels, not {self.sam.patch_size}")
        for size in self.window[1:]:
            if size % self.token_voxels:
                raise ValueError(
                    f"window {self.window} is not a whole number of {self.token_voxels}-voxel"
                    " tokens: choose a multiple of the token size"
                )

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of SAM's input in pixels."""
        rows, columns = self.window[1:]
        if self.pixels is None:
            return rows, columns
        scale = max(1.0, self.pixels / max(rows, columns))
        patch = self.sam.patch_size
        tokens = [max(1, round(size * scale / patch)) for size in (rows, columns)]
        return tokens[0] * patch, tokens[1] * patch

    @property
    def token_voxels(self) -> int:
        """Number of voxels that H and W of a window must be a multiple of; slices that are enlarged
        may have any size."""
        return self.sam.patch_size if self.pixels is None else 1

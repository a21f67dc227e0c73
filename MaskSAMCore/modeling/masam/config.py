"""The description of an MA-SAM network, saved with its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from MaskSAMCore.modeling.masksam.config import SAM_CONFIGS, SamConfig, read_fields


@dataclass(frozen=True)
class MASamConfig:
    """MA-SAM (Chen et al.): FacT increments and 3D adapters in SAM's image encoder, and a mask
    decoder that is trained whole.

    Attributes:
        num_classes: K, the foreground classes; class 0 is the background.
        in_channels: image channels. One is repeated to SAM's three; three are taken as they are;
            any other number is mixed to three by a learned layer.
        window: (T, H, W) in voxels: T neighbouring slices of H x W.
        sam: the backbone. Where it is frozen, its image encoder is, and nothing else.
        pixels: the longer side of SAM's input, to which smaller slices are enlarged; None takes
            slices as they are.
        rank: r of the FacT increments.
        fact_scale: their weight.
        fact_dropout: between their factors, in training.
        adapter_dim: bottleneck width of the 3D adapters.
    """

    num_classes: int
    in_channels: int = 1
    window: tuple[int, int, int] = (5, 512, 512)
    sam: SamConfig = SAM_CONFIGS["vit_b"]
    pixels: int | None = 512
    rank: int = 32
    fact_scale: float = 1.0
    fact_dropout: float = 0.1
    adapter_dim: int = 384

    # Windows are centred on every slice, edge slices repeated, and their predictions averaged.
    every_slice = True

    def __post_init__(self) -> None:
        if len(self.window) != 3 or min(self.window) < 1:
            raise ValueError(f"window must be three positive numbers (T, H, W), not {self.window}")
        if self.num_classes < 1:
            raise ValueError("num_classes must be at least 1")
        if self.sam.patch not in (4, 8, 16):
            raise ValueError(f"MA-SAM needs tokens of 4, 8 or 16 pixels, not {self.sam.patch}")
        for size in self.window[1:]:
            if size % self.token_voxels:
                raise ValueError(
                    f"window {self.window} is not a whole number of {self.token_voxels}-voxel"
                    " tokens: choose a multiple of the token size"
                )

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of SAM's input, in pixels."""
        rows, columns = self.window[1:]
        if self.pixels is None:
            return rows, columns
        scale = max(1.0, self.pixels / max(rows, columns))
        tokens = [max(1, round(size * scale / self.sam.patch)) for size in (rows, columns)]
        return tokens[0] * self.sam.patch, tokens[1] * self.sam.patch

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens of a slice."""
        return self.image_size[0] // self.sam.patch, self.image_size[1] // self.sam.patch

    @property
    def token_voxels(self) -> int:
        """What H and W of a window are multiples of; slices that are enlarged may have any."""
        return self.sam.patch if self.pixels is None else 1

    @property
    def frozen_sam(self) -> SamConfig | None:
        """The SAM whose weights come from its own file, where it is frozen."""
        return self.sam if self.sam.frozen else None

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for JSON."""
        return {"network": "masam", **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MASamConfig:
        """Inverse of :meth:`to_dict`; an unknown key is a ValueError that names it."""
        plain = {key: value for key, value in values.items() if key != "network"}
        config: MASamConfig = read_fields(
            cls, {**plain, "sam": read_fields(SamConfig, plain["sam"])}
        )
        return config

    def replace(self, **changes: Any) -> MASamConfig:
        """A copy with some fields changed."""
        return replace(self, **changes)

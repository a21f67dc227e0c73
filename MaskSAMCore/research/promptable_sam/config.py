"""Configuration of a SAM that is trained to segment anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from MaskSAMCore.modeling.base import SamNetworkConfig
from MaskSAMCore.modeling.sam.config import SamConfig

SAM_T = SamConfig(
    "sam_t",
    patch_size=8,
    embed_dim=192,
    depth=6,
    num_heads=6,
    window_size=0,
    global_attn_indexes=(0, 1, 2, 3, 4, 5),
    prompt_dim=128,
    decoder_mlp_dim=256,
    decoder_heads=4,
    frozen=False,
)


@dataclass(frozen=True)
class PromptableSamConfig(SamNetworkConfig):
    """Description of a SAM that is trained on single slices and has no classes.

    Attributes:
        num_classes: 1, the prompted object.
        window: (1, N, N), one square slice.
        sam: architecture of the SAM.
    """

    kind: ClassVar[str] = "promptable_sam"
    needs_boxes: ClassVar[bool] = True

    num_classes: int = 1
    window: tuple[int, int, int] = (1, 128, 128)
    sam: SamConfig = SAM_T

    def __post_init__(self) -> None:
        super().__post_init__()
        slices, rows, columns = self.window
        if slices != 1 or rows != columns or rows % self.sam.patch_size:
            raise ValueError(
                f"a SAM sees one square slice of whole tokens of {self.sam.patch_size} pixels, not"
                f" a window of {self.window}"
            )
        if self.sam.frozen:
            raise ValueError("a SAM that is trained cannot be frozen")

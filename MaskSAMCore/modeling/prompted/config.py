"""Configuration of MaskSAM without the prompt generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from MaskSAMCore.modeling.masksam.config import MaskSAMConfig


@dataclass(frozen=True)
class PromptedConfig(MaskSAMConfig):
    """Description of a MaskSAM without the prompt generator (supplement, section 6).

    Query k is the box prompt of class k, and query 0 that of the background. The attributes are
    those of :class:`~MaskSAMCore.modeling.masksam.config.MaskSAMConfig`; those of the prompt
    generator and of mask prompts have no effect.
    """

    kind: ClassVar[str] = "prompted"
    needs_boxes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.detail_channels:
            raise ValueError("detail_channels needs the prompt generator")

    def query_count(self, num_classes: int) -> int:
        """Return the number of queries: one for each class, and one for the background."""
        return num_classes + 1

"""Network of one convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from MaskSAMCore.modeling import BoxPrompts, ClassScores, NetworkConfig
from MaskSAMCore.modeling import Network as BaseNetwork


@dataclass(frozen=True)
class Config(NetworkConfig):
    kind: ClassVar[str] = "toy"

    window: tuple[int, int, int] = (4, 16, 16)
    kernel: int = 3


class Network(BaseNetwork):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        padding = config.kernel // 2
        self.convolution = nn.Conv3d(
            config.in_channels, config.num_classes + 1, config.kernel, padding=padding
        )

    def encode(self, images: Tensor) -> Tensor:
        self.check_window(images)
        return self.convolution(images)

    def decode(self, embedding: Tensor, prompts: BoxPrompts | None = None) -> ClassScores:
        return ClassScores(embedding.softmax(1))

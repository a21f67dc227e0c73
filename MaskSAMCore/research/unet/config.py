"""The description of a U-Net in the manner of nnU-Net, saved with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from MaskSAMCore.modeling.masksam.config import SamConfig, read_fields

Axes = tuple[int, int, int]

# nnU-Net's: no axis is halved below this many voxels.
_SMALLEST = 4
# And none whose voxels are this many times as long as the shortest.
_COARSE = 2.0


@dataclass(frozen=True)
class UNetConfig:
    """A plain convolutional U-Net.

    Attributes:
        num_classes: K, the foreground classes; class 0 is the background.
        in_channels: image channels of a volume.
        window: (T, H, W) in voxels, a multiple of the product of the strides.
        strides, kernels: of each stage, along (T, H, W); the first stride is 1.
        features: channels of the first stage, doubled from stage to stage.
        most_features: their limit.
        convolutions: in each stage of encoder and decoder.
    """

    num_classes: int
    in_channels: int = 1
    window: Axes = (64, 128, 128)
    strides: tuple[Axes, ...] = ((1, 1, 1), *((2, 2, 2),) * 4)
    kernels: tuple[Axes, ...] = ((3, 3, 3),) * 5
    features: int = 32
    most_features: int = 320
    convolutions: int = 2

    every_slice = False

    def __post_init__(self) -> None:
        if len(self.strides) != len(self.kernels):
            raise ValueError("strides and kernels must be of the same number of stages")
        for axis in range(3):
            factor = 1
            for stride in self.strides:
                factor *= stride[axis]
            if self.window[axis] < 1 or self.window[axis] % factor:
                raise ValueError(f"window {self.window} is not a multiple of the strides' product")

    @property
    def token_voxels(self) -> int:
        """H and W of a window may be any; see :meth:`on_grid`."""
        return 1

    @property
    def frozen_sam(self) -> SamConfig | None:
        """There is no SAM in it."""
        return None

    @property
    def stage_features(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(min(self.features << i, self.most_features) for i in range(len(self.strides)))

    def on_grid(self, window: Sequence[int], spacing: Sequence[float], **changes: Any) -> Any:
        """A copy whose stages fit a window on a grid of some spacing, by nnU-Net's rules: axes are
        halved while they have voxels enough and are not much coarser than the others, and kernels
        reach along the axes that are not much coarser. The window is enlarged to whole strides.

        Args:
            window: (T, H, W) wanted.
            spacing: mm along the same axes.
            changes: further fields.
        """
        size, mm = list(window), [float(value) for value in spacing]
        kernel = [1, 1, 1]
        strides: list[Axes] = [(1, 1, 1)]
        kernels: list[Axes] = []
        while True:
            for axis in range(3):
                if mm[axis] < _COARSE * min(mm):
                    kernel[axis] = 3
            kernels.append((kernel[0], kernel[1], kernel[2]))
            large = [axis for axis in range(3) if size[axis] >= 2 * _SMALLEST]
            finest = min((mm[axis] for axis in large), default=0.0)
            halved = [axis for axis in large if mm[axis] < _COARSE * finest]
            if not halved or (len(halved) == 1 and size[halved[0]] < 3 * _SMALLEST):
                break
            a, b, c = (2 if axis in halved else 1 for axis in range(3))
            strides.append((a, b, c))
            for axis in halved:
                size[axis] = -(-size[axis] // 2)
                mm[axis] *= 2
        whole = list(size)
        for stride in strides:
            whole = [n * s for n, s in zip(whole, stride, strict=True)]
        return replace(
            self,
            window=(whole[0], whole[1], whole[2]),
            strides=tuple(strides),
            kernels=tuple(kernels),
            **changes,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for JSON."""
        return {"network": "unet", **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> UNetConfig:
        """Inverse of :meth:`to_dict`; an unknown key is a ValueError that names it."""
        plain = {key: value for key, value in values.items() if key != "network"}
        for key in ("strides", "kernels"):
            plain[key] = tuple(tuple(axes) for axes in plain[key])
        config: UNetConfig = read_fields(cls, plain)
        return config

    def replace(self, **changes: Any) -> UNetConfig:
        """A copy with some fields changed."""
        return replace(self, **changes)

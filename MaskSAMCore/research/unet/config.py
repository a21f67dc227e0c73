"""Configuration of a U-Net in the manner of nnU-Net."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from MaskSAMCore.modeling.base import NetworkConfig

Axes = tuple[int, int, int]

# nnU-Net halves no axis below this many voxels.
_SMALLEST = 4
# nnU-Net halves no axis whose spacing is this many times that of the finest axis.
_COARSE = 2.0


@dataclass(frozen=True)
class UNetConfig(NetworkConfig):
    """Description of a plain convolutional U-Net, saved with its weights.

    The window must be a multiple of the product of the strides. The attributes below come after
    those of :class:`~MaskSAMCore.modeling.base.NetworkConfig`.

    Attributes:
        strides: stride of each stage along (T, H, W); the first one is 1.
        kernels: kernel size of each stage along (T, H, W).
        features: channels of the first stage, doubled from stage to stage.
        most_features: largest number of channels of a stage.
        convolutions: number of convolutions in each stage of encoder and decoder.
    """

    kind: ClassVar[str] = "unet"

    window: Axes = (64, 128, 128)
    strides: tuple[Axes, ...] = ((1, 1, 1), *((2, 2, 2),) * 4)
    kernels: tuple[Axes, ...] = ((3, 3, 3),) * 5
    features: int = 32
    most_features: int = 320
    convolutions: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.strides) != len(self.kernels):
            raise ValueError("strides and kernels must be of the same number of stages")
        reduction = _reduction(self.strides)
        if any(size % factor for size, factor in zip(self.window, reduction, strict=True)):
            raise ValueError(
                f"window {self.window} is not a multiple of the strides' product {reduction}"
            )

    @property
    def stage_features(self) -> tuple[int, ...]:
        """Number of channels of each stage."""
        return tuple(min(self.features << i, self.most_features) for i in range(len(self.strides)))

    def adapted(
        self,
        window: tuple[int, int, int],
        spacing: tuple[float, float, float],
        num_classes: int,
        in_channels: int,
        chosen: Collection[str] = (),
    ) -> UNetConfig:
        """Return the configuration for a dataset, with stages by nnU-Net's rules.

        An axis is halved while it has enough voxels and is not much coarser than the others.
        Kernels have size 3 along axes that are not much coarser than the finest one, else size 1.
        Chosen strides or kernels are kept. The window is enlarged to a multiple of the strides'
        product. See :meth:`NetworkConfig.adapted` for the arguments.

        Raises:
            ValueError: the window is too small for two stages, or for more than one voxel in the
                last one.
        """
        strides, kernels = self.strides, self.kernels
        if not {"strides", "kernels"} & set(chosen):
            strides, kernels = _stages(window, spacing)
        reduction = _reduction(strides)
        last = [-(-size // factor) for size, factor in zip(window, reduction, strict=True)]
        # Normalisation over the last stage needs more than one voxel.
        if len(strides) < 2 or math.prod(last) < 2:
            raise ValueError(
                f"a window of {' x '.join(map(str, window))} voxels is too small for the stages of"
                " a U-Net: choose larger windows or smaller voxels"
            )
        depth, rows, columns = (n * s for n, s in zip(last, reduction, strict=True))
        return self.replace(
            window=(depth, rows, columns),
            strides=strides,
            kernels=kernels,
            num_classes=num_classes,
            in_channels=in_channels,
        )


def _reduction(strides: Sequence[Axes]) -> Axes:
    """Return the product of strides along (T, H, W)."""
    depth, rows, columns = (math.prod(axis) for axis in zip(*strides, strict=True))
    return depth, rows, columns


def _stages(
    window: tuple[int, int, int], spacing: tuple[float, float, float]
) -> tuple[tuple[Axes, ...], tuple[Axes, ...]]:
    """Return the strides and the kernel sizes of the stages for a window."""
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
            return tuple(strides), tuple(kernels)
        a, b, c = (2 if axis in halved else 1 for axis in range(3))
        strides.append((a, b, c))
        for axis in halved:
            size[axis] = -(-size[axis] // 2)
            mm[axis] *= 2

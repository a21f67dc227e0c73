"""Learned upscaling of the decoder's masks to the window's grid (published code, AMOS, Synapse)."""

from __future__ import annotations

from torch import Tensor, nn

from MaskSAMCore.modeling.layers import (
    Checkpointed,
    Convolution3d,
    ConvolutionBlock,
    Upsample,
    channels_first,
    channels_last,
)

_WIDTH = 64


class MaskUpscaling(Checkpointed):
    """Convolutions that enlarge the masks of all queries 4 times, with two transposed convolutions.

    The queries are the channels, so that each upscaled mask depends on the masks of all queries.

    Args:
        queries: N.
    """

    def __init__(self, queries: int) -> None:
        super().__init__()
        self.first = ConvolutionBlock(queries, _WIDTH)
        self.upsampling = nn.ModuleList(Upsample(_WIDTH, _WIDTH) for _ in range(2))
        self.norm = nn.InstanceNorm3d(_WIDTH)
        self.activation = nn.GELU()
        self.last = Convolution3d(_WIDTH, queries, kernel_size=3, padding=1)

    def forward(self, masks: Tensor) -> Tensor:
        """Return the logits (B, N, T, 4h, 4w) of masks (B, N, T, h, w)."""
        x = self.checkpointed(self.first, masks)
        for upsample in self.upsampling:
            x = self.checkpointed(self.enlarge, upsample, x)
        logits: Tensor = self.checkpointed(self.last, x)
        return logits

    def enlarge(self, upsample: nn.Module, x: Tensor) -> Tensor:
        """Apply a transposed convolution with its normalisation and activation."""
        x = channels_first(upsample(channels_last(x)))
        enlarged: Tensor = self.activation(self.norm(x))
        return enlarged

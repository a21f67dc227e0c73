"""Adapters: small trained bottlenecks inside a SAM (paper, section 2.5, Figure 3).

Each maps channels-last embeddings to an increment of the same shape and is initialised as the zero
map, so that an adapted SAM is exactly SAM before training.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MaskSAMCore.modeling.masksam.config import AdapterKind

Position = Literal["before", "middle", "after"]


class Adapter(nn.Module):
    """Plain adapter: down, GELU, up (baseline of the paper's ablations B1 to B5).

    Args:
        dim: width of the embeddings.
        ratio: width of the bottleneck over that of the embeddings.
    """

    def __init__(self, dim: int, ratio: float = 0.25) -> None:
        super().__init__()
        self.hidden = int(dim * ratio)
        self.down = nn.Linear(dim, self.hidden)
        self.up = nn.Linear(self.hidden, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the increment (..., dim) of embeddings (..., dim)."""
        hidden = F.gelu(self.down(x))
        return self.up(hidden + self.mix(hidden))

    def mix(self, hidden: Tensor) -> Tensor:
        """Return the increment of the hidden embeddings (..., hidden), which is zero here."""
        return torch.zeros((), dtype=hidden.dtype, device=hidden.device)


class DConvAdapter(Adapter):
    """Adapter for image embeddings with a depthwise 3 x 3 x 3 convolution over (T, H, W).

    The convolution works on whole slices in anatomical order, never on attention windows: slice k
    reaches exactly slices k - 1, k and k + 1.
    """

    def __init__(self, dim: int, ratio: float = 0.25) -> None:
        super().__init__(dim, ratio)
        self.convolution = nn.Conv3d(
            self.hidden, self.hidden, kernel_size=3, padding=1, groups=self.hidden
        )
        self.norm = nn.LayerNorm(self.hidden)

    def mix(self, hidden: Tensor) -> Tensor:
        """Return the increment of the hidden embeddings (B, T, H, W, hidden)."""
        return F.gelu(self.norm(depthwise_convolution(self.convolution, hidden)))


def depthwise_convolution(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """Apply a depthwise 3 x 3 x 3 convolution with padding 1 to channels-last x (B, T, H, W, C).

    It is written as three in-plane convolutions whose results are shifted by a slice and summed,
    which is many times faster to differentiate than the three-dimensional kernels.
    """
    slices = x.flatten(0, 1).permute(0, 3, 1, 2)
    before, here, after = (
        F.conv2d(slices, weight, padding=1, groups=layer.groups)
        .permute(0, 2, 3, 1)
        .unflatten(0, x.shape[:2])
        for weight in layer.weight.unbind(2)
    )
    total = (
        here + F.pad(before[:, :-1], (0, 0) * 3 + (1, 0)) + F.pad(after[:, 1:], (0, 0) * 3 + (0, 1))
    )
    return total if layer.bias is None else total + layer.bias


class DMLPAdapter(Adapter):
    """Adapter for prompt embeddings with an inverted bottleneck (T to 4T to T) over depth.

    Args:
        dim: width of the embeddings.
        slices: T, the number of slices in a window, on which the shapes of the weights depend.
        ratio: width of the bottleneck over that of the embeddings.
        position: position of the depth MLP and its skip connection, in the "middle" of the
            bottleneck or, as in the paper's ablations, "before" the layer down (B7) or "after" the
            layer up (B6).
    """

    def __init__(
        self, dim: int, slices: int, ratio: float = 0.25, position: Position = "middle"
    ) -> None:
        super().__init__(dim, ratio)
        self.slices = slices
        self.position = position
        self.expand = nn.Linear(slices, 4 * slices)
        self.contract = nn.Linear(4 * slices, slices)
        if position == "after":
            # The last layer must be zero for the adapter to be the zero map.
            nn.init.zeros_(self.contract.weight)
            nn.init.zeros_(self.contract.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the increment (B, T, ..., dim) of embeddings (B, T, ..., dim).

        Raises:
            ValueError: the number of slices is not that of the weights.
        """
        if self.position == "before":
            return self.up(F.gelu(self.down(x + self.mix(x))))
        if self.position == "after":
            increment = self.up(F.gelu(self.down(x)))
            return increment + self.mix(increment)
        return super().forward(x)

    def mix(self, hidden: Tensor) -> Tensor:
        """Return the depth MLP's increment of embeddings (B, T, ..., channels)."""
        if hidden.shape[1] != self.slices:
            raise ValueError(
                f"this DMLPAdapter was built for {self.slices} slices, not {hidden.shape[1]}:"
                " use windows of the depth stated in the model's configuration"
            )
        along_depth = hidden.transpose(1, -1)
        return self.contract(F.gelu(self.expand(along_depth))).transpose(1, -1)


def build_adapter(kind: AdapterKind, dim: int, slices: int, ratio: float) -> Adapter:
    """Build an adapter of a given kind.

    Args:
        kind: kind of the adapter.
        dim: width of the embeddings.
        slices: T, the number of slices in a window.
        ratio: width of the bottleneck over that of the embeddings.
    """
    if kind == "plain":
        return Adapter(dim, ratio)
    if kind == "depth_mlp":
        return DMLPAdapter(dim, slices, ratio)
    if kind == "depth_mlp_before":
        return DMLPAdapter(dim, slices, ratio, "before")
    if kind == "depth_mlp_after":
        return DMLPAdapter(dim, slices, ratio, "after")
    if kind == "depth_convolution":
        return DConvAdapter(dim, ratio)
    raise ValueError(f"unknown adapter '{kind}': choose one of {', '.join(get_args(AdapterKind))}")

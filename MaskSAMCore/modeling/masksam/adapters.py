"""The adapters: small trained bottlenecks inside a frozen SAM (paper section 2.5, Figure 3).

Each maps channels-last embeddings to an increment of the same shape, and starts as the zero map, so
that a freshly adapted SAM is exactly SAM.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MaskSAMCore.modeling.masksam.config import AdapterKind

Place = Literal["before", "middle", "after"]


class Adapter(nn.Module):
    """The plain adapter: down, GELU, up (the baseline of the paper's ablations B1 to B5)."""

    def __init__(self, dim: int, ratio: float = 0.25) -> None:
        super().__init__()
        self.hidden = int(dim * ratio)
        self.down = nn.Linear(dim, self.hidden)
        self.up = nn.Linear(self.hidden, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Args and result: (..., dim)."""
        hidden = F.gelu(self.down(x))
        return self.up(hidden + self.mix(hidden))

    def mix(self, hidden: Tensor) -> Tensor:
        """What is added to the hidden embedding: here nothing."""
        return torch.zeros((), dtype=hidden.dtype, device=hidden.device)


class DConvAdapter(Adapter):
    """For image embeddings: a depthwise 3 x 3 x 3 convolution over (T, H, W) in the bottleneck.

    The convolution sees whole slices in anatomical order, never attention windows: slice k reaches
    exactly slices k - 1, k and k + 1.
    """

    def __init__(self, dim: int, ratio: float = 0.25) -> None:
        super().__init__(dim, ratio)
        self.convolution = nn.Conv3d(
            self.hidden, self.hidden, kernel_size=3, padding=1, groups=self.hidden
        )
        self.norm = nn.LayerNorm(self.hidden)

    def mix(self, hidden: Tensor) -> Tensor:
        """hidden: (B, T, H, W, hidden)."""
        return F.gelu(self.norm(depthwise_convolution(self.convolution, hidden)))


def depthwise_convolution(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """A depthwise 3 x 3 x 3 convolution with padding 1 on channels-last (B, T, H, W, C).

    Written as three in-plane ones whose results are shifted by a slice and summed: the same
    numbers, and many times faster to differentiate than the three-dimensional kernels.
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
    """For prompt embeddings: an inverted bottleneck (T to 4T to T) over the depth axis.

    T is fixed by the weights: another number of slices raises ValueError.

    Args:
        dim, ratio: of the adapter.
        slices: T.
        place: where the depth MLP and its skip connection are: in the "middle" of the bottleneck,
            or, as in the paper's ablations, "before" the layer down (B7) or "after" the layer up
            (B6).
    """

    def __init__(self, dim: int, slices: int, ratio: float = 0.25, place: Place = "middle") -> None:
        super().__init__(dim, ratio)
        self.slices = slices
        self.place = place
        self.expand = nn.Linear(slices, 4 * slices)
        self.contract = nn.Linear(4 * slices, slices)
        if place == "after":
            # Nothing follows that is zero at the start.
            nn.init.zeros_(self.contract.weight)
            nn.init.zeros_(self.contract.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Args and result: (B, T, ..., dim): depth on axis 1."""
        if self.place == "before":
            return self.up(F.gelu(self.down(x + self.mix(x))))
        if self.place == "after":
            increment = self.up(F.gelu(self.down(x)))
            return increment + self.mix(increment)
        return super().forward(x)

    def mix(self, hidden: Tensor) -> Tensor:
        """hidden: (B, T, ..., channels): depth on axis 1."""
        if hidden.shape[1] != self.slices:
            raise ValueError(
                f"this DMLPAdapter was built for {self.slices} slices, not {hidden.shape[1]}:"
                " use windows of the depth stated in the model's configuration"
            )
        along_depth = hidden.transpose(1, -1)
        return self.contract(F.gelu(self.expand(along_depth))).transpose(1, -1)


def build_adapter(kind: AdapterKind, dim: int, slices: int, ratio: float) -> Adapter:
    """The adapter of a configuration's word for it."""
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

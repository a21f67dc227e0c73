"""Random numbers of which a seed decides all, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Draw:
    """Random numbers from one seed: single ones without waiting for a device, tensors on it."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self._single = torch.Generator().manual_seed(seed)
        self._many = torch.Generator(device).manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:
        """A number."""
        return low + (high - low) * float(torch.rand((), generator=self._single))

    def normal(self, std: float) -> float:
        """A number around 0."""
        return std * float(torch.randn((), generator=self._single))

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return self.uniform(0, 1) < probability

    def whole(self, below: int) -> int:
        """An integer from 0."""
        return int(torch.randint(below, (), generator=self._single))

    def uniforms(self, count: int, low: float, high: float) -> Tensor:
        """(count,) on the CPU."""
        return low + (high - low) * torch.rand(count, generator=self._single)

    def normals(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers on the device."""
        return torch.randn(tuple(shape), generator=self._many, device=self.device)

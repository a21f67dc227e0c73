"""Seeded random numbers, reproducible on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class RandomSource:
    """Random numbers from two generators with one seed.

    Parameters of the synthesis are generated on the CPU, so that they are the same on every device
    and need no transfer. The voxels' noise is generated on the device itself.

    Args:
        seed: seed of both generators.
        device: device of the tensors of :meth:`normal_tensor`.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self._cpu = torch.Generator().manual_seed(seed)
        self._on_device = torch.Generator(device).manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:
        """Return a uniform number from ``low`` to ``high``."""
        return low + (high - low) * float(torch.rand((), generator=self._cpu))

    def uniform_tensor(self, low: float, high: float, count: int) -> Tensor:
        """Return uniform numbers from ``low`` to ``high``, float32 (count,) on the CPU."""
        return low + (high - low) * torch.rand(count, generator=self._cpu)

    def unit_uniform_tensor(self, count: int) -> Tensor:
        """Return uniform numbers with mean 0 and a standard deviation of about 1, float32 (count,)
        on the CPU."""
        return self.uniform_tensor(-1.7, 1.7, count)

    def normal(self, std: float) -> float:
        """Return a normal number with mean 0 and standard deviation ``std``."""
        return std * float(torch.randn((), generator=self._cpu))

    def normal_tensor(self, shape: Sequence[int]) -> Tensor:
        """Return standard normal numbers, float32 of ``shape`` on the device."""
        return torch.randn(tuple(shape), generator=self._on_device, device=self.device)

    def bernoulli(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.uniform(0, 1) < probability

    def randint(self, high: int) -> int:
        """Return an integer from 0 to ``high`` - 1."""
        return int(torch.randint(high, (), generator=self._cpu))

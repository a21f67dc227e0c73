"""Endless training windows out of prepared cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed
from torch.utils.data import IterableDataset, get_worker_info

from MaskSAMCore.data.augmentation import Augmentation
from MaskSAMCore.data.planning import Plan
from MaskSAMCore.data.preprocessing import Prepared

_VOXELS_A_CLASS = 10_000


@dataclass(frozen=True)
class _Source:
    """A case and what would take long to find for each window.

    Attributes:
        image: (C, D, R, Cc).
        label: (D, R, Cc).
        lowest: intensity of each channel.
        foreground: for each class present, voxels (M, 3), a sample of at most 10,000.
    """

    image: NDArray[np.float32]
    label: NDArray[np.integer]
    lowest: tuple[float, ...]
    foreground: tuple[NDArray[np.intp], ...]

    @classmethod
    def of(cls, case: Prepared) -> _Source:
        assert case.label is not None
        foreground = sample_voxels(case.label, _VOXELS_A_CLASS)
        lowest = tuple(float(channel.min()) for channel in case.image)
        return cls(case.image, case.label, lowest, foreground)


def sample_voxels(classes: NDArray[np.integer], most: int) -> tuple[NDArray[np.intp], ...]:
    """For each class present, 0 left out, some of its voxels (M, 3), always the same ones.

    Args:
        classes: (D, R, C).
        most: voxels of a class.
    """
    random = np.random.default_rng(0)
    samples = []
    for value in np.unique(classes[classes > 0]):
        inside = np.flatnonzero(classes == value)
        chosen = random.choice(inside, min(most, inside.size), replace=False)
        samples.append(np.stack(np.unravel_index(chosen, classes.shape), -1))
    return tuple(samples)


class WindowDataset(IterableDataset[tuple[Tensor, Tensor]]):
    """Random augmented windows, without end; each worker and each process draws its own.

    Args:
        cases: with labels.
        plan: gives the window.
        strength, mirror, contrast: of the augmentation.
        foreground_share: share of windows centred on a voxel of a class drawn at random.
        seed: of everything that is drawn; another one after a restart.
    """

    def __init__(
        self,
        cases: Sequence[Prepared],
        plan: Plan,
        strength: float,
        mirror: tuple[int, ...],
        foreground_share: float,
        seed: int,
        contrast: float = 0.0,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.strength = strength
        self.contrast = contrast
        self.mirror = mirror
        self.foreground_share = foreground_share
        self.seed = seed
        self._sources = [_Source.of(case) for case in cases]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of float32 (C, T, H, W) and int64 (T, H, W)."""
        sequence = np.random.SeedSequence([self.seed, process_seed()])
        state = sequence.generate_state(2)
        # The augmentation library draws from these two global generators. Without worker processes
        # torch's is the training's own, which is left alone; it draws nothing else from NumPy.
        np.random.seed(state[0])
        if get_worker_info() is not None:
            torch.manual_seed(int(state[1]))
            torch.set_num_threads(1)
        random = np.random.default_rng(sequence)
        augmentation = Augmentation(
            self.plan.window, self.plan.spacing, self.strength, self.mirror, self.contrast
        )
        while True:
            source = self._sources[random.integers(len(self._sources))]
            centre = self._centre(source, random)
            yield augmentation(source.image, source.label, centre, source.lowest)

    def _centre(self, source: _Source, random: np.random.Generator) -> tuple[int, ...]:
        """The middle of a window: such that it lies in the case, or hangs over by a tenth."""
        shape, window = np.array(source.label.shape), np.array(self.plan.window)
        slack = window // 10
        low = np.minimum(window // 2, shape // 2) - slack
        high = np.maximum(shape - window // 2, shape // 2) + slack
        if source.foreground and random.random() < self.foreground_share:
            voxels = source.foreground[random.integers(len(source.foreground))]
            middle = voxels[random.integers(len(voxels))]
            return tuple(int(v) for v in np.clip(middle, low, high))
        return tuple(int(v) for v in random.integers(low, high + 1))


def process_seed() -> int:
    """Different in each worker and in each of several processes that train together."""
    if get_worker_info() is not None:
        # Torch seeds the workers of a loader apart, and Lightning those of each process.
        return torch.initial_seed()
    together = distributed.is_available() and distributed.is_initialized()
    return distributed.get_rank() if together else 0

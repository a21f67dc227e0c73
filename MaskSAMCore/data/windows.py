"""Endless training windows out of prepared cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed
from torch.utils.data import IterableDataset, get_worker_info

from MaskSAMCore.data.augmentation import Augmentation, Deformation
from MaskSAMCore.data.planning import Plan
from MaskSAMCore.data.preprocessing import PreparedCase

_VOXELS_PER_CLASS = 10_000


@dataclass(frozen=True)
class _IndexedCase:
    """A prepared case with voxels of each class, on which windows are centred.

    Attributes:
        image: float32 (C, D, R, W).
        labelmap: (D, R, W).
        lowest: lowest intensity of each channel.
        foreground: for each class present, int (M, 3), at most 10,000 of its voxels.
    """

    image: NDArray[np.float32]
    labelmap: NDArray[np.integer]
    lowest: tuple[float, ...]
    foreground: tuple[NDArray[np.intp], ...]

    @classmethod
    def from_case(cls, case: PreparedCase) -> _IndexedCase:
        assert case.labelmap is not None
        foreground = sample_voxels(case.labelmap, _VOXELS_PER_CLASS)
        lowest = tuple(float(channel.min()) for channel in case.image)
        return cls(case.image, case.labelmap, lowest, foreground)


def sample_voxels(labelmap: NDArray[np.integer], limit: int) -> tuple[NDArray[np.intp], ...]:
    """Return a fixed sample of the voxels of each class present, 0 left out.

    Args:
        labelmap: (D, R, W).
        limit: most voxels to return of one class.

    Returns:
        One array (M, 3) of voxel indices for each class, in the order of their values.
    """
    rng = np.random.default_rng(0)
    samples = []
    for value in np.unique(labelmap[labelmap > 0]):
        inside = np.flatnonzero(labelmap == value)
        chosen = rng.choice(inside, min(limit, inside.size), replace=False)
        samples.append(np.stack(np.unravel_index(chosen, labelmap.shape), -1))
    return tuple(samples)


class WindowDataset(IterableDataset[tuple[Tensor, Tensor]]):
    """Random augmented windows without end, different in every worker and every training process.

    Args:
        cases: prepared cases with labelmaps.
        plan: plan with the window's size and spacing.
        strength: strength of the augmentation; 0 for none.
        mirror: axes of the window that are mirrored at random.
        foreground_share: share of windows centred on a voxel of a random class.
        seed: seed of all random numbers; a resumed training passes another one.
        contrast: share of windows with the contrast of another scanner.
        deformation: frequency of rotation, scaling and deformation.

    Attributes:
        common_contrasts: None; only synthesised windows have a share of common contrasts.
    """

    common_contrasts: Tensor | None = None

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        plan: Plan,
        strength: float,
        mirror: tuple[int, ...],
        foreground_share: float,
        seed: int,
        contrast: float = 0.0,
        deformation: Deformation = "frequent",
    ) -> None:
        super().__init__()
        self.plan = plan
        self.strength = strength
        self.contrast = contrast
        self.deformation: Deformation = deformation
        self.mirror = mirror
        self.foreground_share = foreground_share
        self.seed = seed
        self._cases = [_IndexedCase.from_case(case) for case in cases]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images, float32 (C, T, H, W), with their classes, int64 (T, H, W)."""
        sequence = np.random.SeedSequence([self.seed, process_seed()])
        state = sequence.generate_state(2)
        # The augmentation library uses these two global generators. Without worker processes
        # torch's belongs to the training, which alone may seed it; nothing else uses NumPy's.
        np.random.seed(state[0])
        if get_worker_info() is not None:
            torch.manual_seed(int(state[1]))
            torch.set_num_threads(1)
        rng = np.random.default_rng(sequence)
        augmentation = Augmentation(
            self.plan.window,
            self.plan.spacing,
            self.strength,
            self.mirror,
            self.contrast,
            self.deformation,
        )
        while True:
            case = self._cases[rng.integers(len(self._cases))]
            centre = self._random_centre(case, rng)
            yield augmentation(case.image, case.labelmap, centre, case.lowest)

    def _random_centre(self, case: _IndexedCase, rng: np.random.Generator) -> tuple[int, ...]:
        """Return a window's centre in voxels; at most a tenth of the window lies outside."""
        shape, window = np.array(case.labelmap.shape), np.array(self.plan.window)
        slack = window // 10
        low = np.minimum(window // 2, shape // 2) - slack
        high = np.maximum(shape - window // 2, shape // 2) + slack
        if case.foreground and rng.random() < self.foreground_share:
            voxels = case.foreground[rng.integers(len(case.foreground))]
            voxel = voxels[rng.integers(len(voxels))]
            return tuple(int(v) for v in np.clip(voxel, low, high))
        return tuple(int(v) for v in rng.integers(low, high + 1))


def process_seed() -> int:
    """Return a number that differs between the workers, and between the processes of a training."""
    if get_worker_info() is not None:
        # Torch seeds the workers of a loader differently, and Lightning those of each process.
        return torch.initial_seed()
    parallel = distributed.is_available() and distributed.is_initialized()
    return distributed.get_rank() if parallel else 0

"""Endless training windows out of prepared cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from .augmentation import REACH, augment, build_augmentation
from .planning import Plan
from .preprocessing import Prepared


class WindowDataset(IterableDataset[tuple[Tensor, Tensor]]):
    """Random augmented windows, without end; each worker and process draws its own.

    Args:
        cases: with labels.
        plan: gives the window.
        strength, mirror: of the augmentation.
        foreground_share: share of windows centred on a voxel of a class drawn at random.
        seed: of everything that is drawn; add process and restart to it.
    """

    def __init__(
        self,
        cases: Sequence[Prepared],
        plan: Plan,
        strength: float,
        mirror: tuple[int, ...],
        foreground_share: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.cases = list(cases)
        self.plan = plan
        self.strength = strength
        self.mirror = mirror
        self.foreground_share = foreground_share
        self.seed = seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of float32 (C, T, H, W) and int64 (T, H, W)."""
        worker = get_worker_info()
        seed = self.seed + (worker.id + 1 if worker is not None else 0) * 1_000_003
        # The augmentation library draws from these two global generators. Without worker processes
        # that would be the training's own: it draws nothing else from NumPy.
        np.random.seed(seed % 2**32)
        if worker is not None:
            torch.manual_seed(seed)
            torch.set_num_threads(1)
        random = np.random.default_rng(seed)
        window = self.plan.window
        transforms = build_augmentation(window, self.plan.spacing, self.strength, self.mirror)
        size = tuple(int(np.ceil(REACH * length)) for length in window)
        while True:
            case = self.cases[random.integers(len(self.cases))]
            assert case.label is not None
            centre = self.centre(case, random)
            image = np.stack([cut(channel, centre, size, channel.min()) for channel in case.image])
            yield augment(transforms, image, cut(case.label, centre, size, 0))

    def centre(self, case: Prepared, random: np.random.Generator) -> tuple[int, ...]:
        """The middle of a window: such that it lies in the case, or hangs over by a tenth."""
        assert case.label is not None
        shape, window = np.array(case.label.shape), np.array(self.plan.window)
        slack = window // 10
        low = np.minimum(window // 2, shape // 2) - slack
        high = np.maximum(shape - window // 2, shape // 2) + slack
        if random.random() < self.foreground_share:
            present = [value for value in np.unique(case.label) if value > 0]
            if present:
                voxels = np.argwhere(case.label == random.choice(present))
                middle = voxels[random.integers(len(voxels))]
                return tuple(int(v) for v in np.clip(middle, low, high))
        return tuple(int(v) for v in random.integers(low, high + 1))


def cut(
    array: NDArray[Any], centre: Sequence[int], size: Sequence[int], fill: float
) -> NDArray[Any]:
    """The part of ``array`` of a given size around a voxel, filled where it reaches outside."""
    result = np.full(tuple(size), fill, dtype=array.dtype)
    source, target = [], []
    for middle, length, extent in zip(centre, size, array.shape, strict=True):
        start = middle - length // 2
        first, last = max(start, 0), min(start + length, extent)
        source.append(slice(first, max(first, last)))
        target.append(slice(first - start, max(first, last) - start))
    result[tuple(target)] = array[tuple(source)]
    return result

"""Endless training windows cut from prepared cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from MaskSAMCore.data.augmentation import Augmentation, AugmentationKind, Deformation
from MaskSAMCore.data.case_cache import CaseSource, StoredArrays
from MaskSAMCore.data.planning import Plan
from MaskSAMCore.data.preprocessing import PreparedCase
from MaskSAMCore.data.slice_augmentation import SliceAugmentation
from MaskSAMCore.data.window_numbers import WindowNumbers, window_seed

_VOXELS_PER_CLASS = 10_000


@dataclass(frozen=True)
class IndexedCase:
    """A prepared case with voxels of each class, on which windows are centred.

    Attributes:
        image: float32 (C, D, R, W).
        labelmap: (D, R, W).
        lowest: lowest intensity of each channel.
        foreground: for each class present, int (M, 3), at most 10,000 of its voxels.
        reference: labelmap at the resolution of the input, along the axes of the plan; None for a
            case that is not validated.
    """

    # Names of the arrays of :meth:`to_arrays`.
    ARRAYS: ClassVar[tuple[str, ...]] = ("image", "labelmap", "lowest", "voxels", "counts")

    image: NDArray[np.float32]
    labelmap: NDArray[np.integer]
    lowest: tuple[float, ...]
    foreground: tuple[NDArray[np.integer], ...]
    reference: NDArray[np.integer] | None = None

    @classmethod
    def from_case(
        cls, case: PreparedCase, reference: NDArray[np.integer] | None = None
    ) -> IndexedCase:
        """Prepare a case with a labelmap."""
        assert case.labelmap is not None
        foreground = sample_voxels(case.labelmap, _VOXELS_PER_CLASS)
        lowest = tuple(float(channel.min()) for channel in case.image)
        return cls(case.image, case.labelmap, lowest, foreground, reference)

    def open(self) -> IndexedCase:
        """Return the case itself, which is in memory."""
        return self

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the case as named arrays."""
        arrays = {
            "image": self.image,
            "labelmap": self.labelmap,
            "lowest": np.array(self.lowest, np.float64),
            **packed_voxels(self.foreground),
        }
        return arrays if self.reference is None else {**arrays, "reference": self.reference}


@dataclass(frozen=True)
class CachedCase:
    """A case in a cache.

    Attributes:
        stored: arrays of :meth:`IndexedCase.to_arrays`.
        validated: True if the case has a reference.
    """

    stored: StoredArrays
    validated: bool = False

    def open(self) -> IndexedCase:
        """Return the case with arrays mapped into memory."""
        read = self.stored.read
        return IndexedCase(
            read("image"),
            read("labelmap"),
            tuple(read("lowest").tolist()),
            unpacked_voxels(self.stored),
            read("reference") if self.validated else None,
        )


def packed_voxels(samples: Sequence[NDArray[np.integer]]) -> dict[str, NDArray[Any]]:
    """Return the result of :func:`sample_voxels` as two arrays: all voxels, and their number for
    each class."""
    voxels = np.concatenate([np.empty((0, 3), np.int32), *samples]).astype(np.int32)
    return {"voxels": voxels, "counts": np.array([len(each) for each in samples], np.int64)}


def unpacked_voxels(stored: StoredArrays) -> tuple[NDArray[np.integer], ...]:
    """Return the samples of voxels of :func:`packed_voxels`."""
    voxels, ends = stored.read("voxels"), np.cumsum(stored.read("counts"))
    return tuple(np.split(voxels, ends[:-1])) if len(ends) else ()


def sample_voxels(labelmap: NDArray[np.integer], limit: int) -> tuple[NDArray[np.intp], ...]:
    """Return a fixed sample of the voxels of each class present, except 0.

    Args:
        labelmap: (D, R, W).
        limit: largest number of voxels to return for one class.

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
    """Random augmented windows without end; each has its own random numbers.

    Args:
        cases: prepared cases with labelmaps, which each process opens for itself.
        plan: plan with the window's size and spacing.
        strength: strength of the augmentation; 0 for none.
        mirror: axes of the window that are mirrored at random.
        foreground_share: share of windows centred on a voxel of a random class.
        seed: seed of all random numbers; a resumed training passes another one.
        contrast: share of windows with the contrast of another scanner.
        deformation: frequency of rotation, scaling and deformation.
        kind: "nnunet", or "masam" for MA-SAM's own augmentation, which also mirrors; ``mirror``,
            ``contrast``, ``deformation`` and ``acquisition`` then have no effect.
        acquisition: share of windows with a shade, and share with thick slices.

    Attributes:
        numbers: numbers of the windows to prepare; all by default.
        common_contrasts: None; only synthesised windows have a share of common contrasts.
    """

    common_contrasts: Tensor | None = None

    def __init__(
        self,
        cases: Sequence[CaseSource[IndexedCase]],
        plan: Plan,
        strength: float,
        mirror: tuple[int, ...],
        foreground_share: float,
        seed: int,
        contrast: float = 0.0,
        deformation: Deformation = "frequent",
        kind: AugmentationKind = "nnunet",
        acquisition: float = 0.0,
    ) -> None:
        super().__init__()
        self.kind: AugmentationKind = kind
        self.plan = plan
        self.strength = strength
        self.contrast = contrast
        self.acquisition = acquisition
        self.deformation: Deformation = deformation
        self.mirror = mirror
        self.foreground_share = foreground_share
        self.seed = seed
        self.numbers = WindowNumbers()
        self._cases = list(cases)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images, float32 (C, T, H, W), with their classes, int64 (T, H, W)."""
        if get_worker_info() is not None:
            torch.set_num_threads(1)
        augmentation = self._augmentation()
        cases = [source.open() for source in self._cases]
        for number in self.numbers:
            seeds = window_seed(self.seed, number)
            rng = np.random.default_rng(seeds)
            case = cases[rng.integers(len(cases))]
            centre = self._random_centre(case, rng)
            # The augmentation library uses the global generators of NumPy and torch. Without worker
            # processes the training also uses torch's generator; nothing else uses NumPy's.
            first, second = seeds.generate_state(2).tolist()
            with torch.random.fork_rng(devices=[]):
                np.random.seed(first)
                torch.manual_seed(second)
                window = augmentation(case.image, case.labelmap, centre, case.lowest)
            yield window

    def _augmentation(self) -> Augmentation | SliceAugmentation:
        if self.kind == "masam":
            return SliceAugmentation(self.plan.window, self.strength)
        return Augmentation(
            self.plan.window,
            self.plan.spacing,
            self.strength,
            self.mirror,
            self.contrast,
            self.deformation,
            self.acquisition,
        )

    def _random_centre(self, case: IndexedCase, rng: np.random.Generator) -> tuple[int, ...]:
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

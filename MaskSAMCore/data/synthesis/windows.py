"""Endless training windows synthesised from labelmaps, and whole images for validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from MaskSAMCore.data.case_cache import CaseSource, StoredArrays
from MaskSAMCore.data.dataset import LabelledCase
from MaskSAMCore.data.label_scheme import LabelScheme
from MaskSAMCore.data.planning import Plan
from MaskSAMCore.data.synthesis.generator import ImageGenerator, SynthesisRanges
from MaskSAMCore.data.synthesis.labelmap import Labelmap, bounds_of
from MaskSAMCore.data.synthesis.random_source import RandomSource
from MaskSAMCore.data.window_numbers import WindowNumbers, window_seed
from MaskSAMCore.data.windows import (
    packed_voxels,
    sample_voxels,
    unpacked_voxels,
)
from MaskSAMCore.geometry import Box, Volume, apply_axes, axis_mapping, crop, invert_axes

_VOXELS_PER_CLASS = 2_000
# Voxels of background around a validation image.
_MARGIN = 8


@dataclass(frozen=True)
class IndexedLabelmap:
    """A labelmap with voxels of each class, on which windows are centred.

    Attributes:
        labelmap: label indices along the plan's axes.
        foreground: for each class present, int (M, 3), at most 2,000 of its voxels.
    """

    # Names of the arrays of :meth:`to_arrays`.
    ARRAYS: ClassVar[tuple[str, ...]] = ("indices", "spacing", "voxels", "counts")

    labelmap: Labelmap
    foreground: tuple[NDArray[np.integer], ...]

    @classmethod
    def from_case(
        cls, case: LabelledCase, scheme: LabelScheme, orientation: str
    ) -> IndexedLabelmap:
        """Prepare a case whose only channel holds label indices."""
        labelmap = Labelmap.from_volume(case.channels[0], orientation)
        classes = scheme.classes_of(labelmap.indices.numpy())
        return cls(labelmap, sample_voxels(classes, _VOXELS_PER_CLASS))

    def open(self) -> IndexedLabelmap:
        """Return the labelmap itself, which is in memory."""
        return self

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the labelmap as named arrays."""
        return {
            "indices": self.labelmap.indices.numpy(),
            "spacing": np.array(self.labelmap.spacing, np.float64),
            **packed_voxels(self.foreground),
        }


@dataclass(frozen=True)
class CachedLabelmap:
    """A labelmap in a cache.

    Attributes:
        stored: arrays of :meth:`IndexedLabelmap.to_arrays`.
    """

    stored: StoredArrays

    def open(self) -> IndexedLabelmap:
        """Return the labelmap with arrays mapped into memory."""
        indices = torch.from_numpy(self.stored.read("indices"))
        d, r, c = (float(mm) for mm in self.stored.read("spacing"))
        return IndexedLabelmap(Labelmap(indices, (d, r, c)), unpacked_voxels(self.stored))


class SynthesizedWindows(IterableDataset[tuple[Tensor, Tensor]]):
    """Synthesised windows without end; each has its own random numbers.

    Args:
        labelmaps: labelmaps to synthesise from, which each process opens for itself.
        scheme: meaning of the labels.
        plan: plan with the window's size, spacing and orientation.
        foreground_share: share of windows centred on a voxel of a random class.
        seed: seed of all random numbers; a resumed training passes another one.
        ranges: ranges of the random changes.
        device: device that generates the windows; any other than "cpu" excludes worker processes.

    Attributes:
        numbers: numbers of the windows to prepare; all by default.
        common_contrasts: float32 (1,), the share of windows with a common contrast. It is in
            shared memory, so that the training can change it while worker processes run.
    """

    def __init__(
        self,
        labelmaps: Sequence[CaseSource[IndexedLabelmap]],
        scheme: LabelScheme,
        plan: Plan,
        foreground_share: float,
        seed: int,
        ranges: SynthesisRanges | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        self.labelmaps = list(labelmaps)
        self.plan = plan
        self.foreground_share = foreground_share
        self.seed = seed
        self.numbers = WindowNumbers()
        self.device = device
        lateral = lateral_axis(plan.orientation)
        self.generator = ImageGenerator(scheme, plan.window, plan.spacing, lateral, ranges)
        share = self.generator.ranges.common_contrasts
        self.common_contrasts = torch.full((1,), share).share_memory_()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images, float32 (1, T, H, W), with their classes, int64 (T, H, W)."""
        if get_worker_info() is not None:
            torch.set_num_threads(1)
        device = torch.device(self.device)
        labelmaps = [source.open() for source in self.labelmaps]
        on_device = [source.labelmap.to(device) for source in labelmaps]
        for number in self.numbers:
            rng = RandomSource(int(window_seed(self.seed, number).generate_state(1)[0]), device)
            self.generator.ranges = replace(
                self.generator.ranges, common_contrasts=float(self.common_contrasts)
            )
            index = rng.randint(len(on_device))
            centre = self._random_centre(labelmaps[index], rng)
            yield self.generator.generate_window(on_device[index], centre, rng)

    def _random_centre(self, source: IndexedLabelmap, rng: RandomSource) -> list[float]:
        """Return a window's centre in mm; at most a tenth of the window lies outside."""
        extent = source.labelmap.extent
        size = [n * mm for n, mm in zip(self.plan.window, self.plan.spacing, strict=True)]
        low = [min(s, e) / 2 - s / 10 for s, e in zip(size, extent, strict=True)]
        high = [max(e - s / 2, e / 2) + s / 10 for s, e in zip(size, extent, strict=True)]
        if source.foreground and rng.bernoulli(self.foreground_share):
            voxels = source.foreground[rng.randint(len(source.foreground))]
            voxel = voxels[rng.randint(len(voxels))]
            spacing = source.labelmap.spacing
            middle = [(v + 0.5) * mm for v, mm in zip(voxel, spacing, strict=True)]
            return [min(max(m, a), b) for m, a, b in zip(middle, low, high, strict=True)]
        return [rng.uniform(a, b) for a, b in zip(low, high, strict=True)]


def synthesized_case(
    case: LabelledCase, scheme: LabelScheme, seed: int, ranges: SynthesisRanges | None = None
) -> LabelledCase:
    """Return a case whose image of random contrast is synthesised from its whole labelmap.

    Args:
        case: case whose only channel holds label indices.
        scheme: meaning of the labels.
        seed: seed of the image; the same seed gives the same image.
        ranges: ranges of the random changes; shape and position never change.

    Returns:
        The case on its own grid, cropped to the labels and a margin of 8 voxels.
    """
    orientation = "SAR"
    volume = case.channels[0]
    low, high = bounds_of(volume.array > 0)
    i0, j0, k0 = (float(v) for v in low[::-1] - _MARGIN)
    i1, j1, k1 = (float(v) for v in high[::-1] + _MARGIN)
    box = Box("", (i0, j0, k0), (i1, j1, k1)).clipped(volume.shape)
    volume = crop(volume, box)
    axes, flips = axis_mapping(volume.ijk_to_ras, orientation)
    d, r, c = (volume.spacing[2 - axis] for axis in axes)
    indices = torch.from_numpy(apply_axes(volume.array, axes, flips).copy())
    labelmap = Labelmap(indices, (d, r, c))
    depth, rows, columns = indices.shape
    lateral = lateral_axis(orientation)
    generator = ImageGenerator(scheme, (depth, rows, columns), labelmap.spacing, lateral, ranges)
    image = generator.generate_image(labelmap, RandomSource(seed, torch.device("cpu"))).numpy()
    array = np.ascontiguousarray(invert_axes(image, axes, flips))
    synthesized = Volume(array, volume.ijk_to_ras, case.name)
    return replace(case, channels=(synthesized,), labelmap=case.labelmap[box.slices()])


def lateral_axis(orientation: str) -> int:
    """Return the axis of a window that runs between left and right."""
    return next(axis for axis, code in enumerate(orientation) if code in "LR")

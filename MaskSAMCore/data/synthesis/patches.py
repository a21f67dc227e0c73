"""Endless training windows synthesised from label maps, and whole heads to validate on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from MaskSAMCore.data.dataset import LabelledCase
from MaskSAMCore.data.patches import process_seed, sample_voxels
from MaskSAMCore.data.planning import Plan
from MaskSAMCore.data.synthesis.deformation import LabelMap
from MaskSAMCore.data.synthesis.generator import Ranges, Synthesis
from MaskSAMCore.data.synthesis.label_scheme import LabelScheme
from MaskSAMCore.data.synthesis.random_source import Draw
from MaskSAMCore.geometry import Box, Volume, axis_mapping, crop, turn, turn_back

_VOXELS_A_CLASS = 2_000
# Voxels of background around a validation image.
MARGIN = 8


@dataclass(frozen=True)
class Source:
    """A label map, and for each class that it shows some of its voxels (M, 3)."""

    labels: LabelMap
    voxels: tuple[NDArray[np.intp], ...]

    @classmethod
    def of(cls, case: LabelledCase, scheme: LabelScheme, orientation: str) -> Source:
        """From a case whose channel holds label indices."""
        labels = label_map(case, orientation)
        classes = scheme.classes_of(labels.labels.numpy())
        return cls(labels, sample_voxels(classes, _VOXELS_A_CLASS))


def label_map(case: LabelledCase, orientation: str) -> LabelMap:
    """The label indices of a case, turned to the plan's orientation."""
    volume = case.channels[0]
    axes, flips = axis_mapping(volume.ijk_to_ras, orientation)
    a, b, c = (volume.spacing[2 - axis] for axis in axes)
    return LabelMap.of(turn(volume.array, axes, flips), (a, b, c))


def lateral_axis(orientation: str) -> int:
    """Which axis of a window runs from left to right."""
    return next(axis for axis, code in enumerate(orientation) if code in "LR")


class SynthesizedWindows(IterableDataset[tuple[Tensor, Tensor]]):
    """Synthesised windows, without end; each worker and each process draws its own.

    Args:
        sources: label maps.
        scheme: what their labels are.
        plan: gives the window.
        foreground_share: share of windows centred on a voxel of a class drawn at random.
        seed: of everything that is drawn; another one after a restart.
        ranges: what images vary in.
        device: where they are made; other than the CPU's only without worker processes.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        scheme: LabelScheme,
        plan: Plan,
        foreground_share: float,
        seed: int,
        ranges: Ranges | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        self.sources = list(sources)
        self.plan = plan
        self.foreground_share = foreground_share
        self.seed = seed
        self.device = device
        lateral = lateral_axis(plan.orientation)
        self.synthesis = Synthesis(scheme, plan.window, plan.spacing, lateral, ranges)
        # Read for each window, and written by the training: shared with worker processes.
        self.common = torch.full((1,), self.synthesis.ranges.common).share_memory_()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of float32 (1, T, H, W) and int64 (T, H, W)."""
        sequence = np.random.SeedSequence([self.seed, process_seed()])
        if get_worker_info() is not None:
            torch.set_num_threads(1)
        device = torch.device(self.device)
        draw = Draw(int(sequence.generate_state(1)[0]), device)
        maps = [source.labels.to(device) for source in self.sources]
        while True:
            self.synthesis.ranges = replace(self.synthesis.ranges, common=float(self.common))
            number = draw.whole(len(maps))
            yield self.synthesis(maps[number], self._centre(self.sources[number], draw), draw)

    def _centre(self, source: Source, draw: Draw) -> list[float]:
        """The middle of a window in mm, such that the window lies in the map or hangs over it by a
        tenth."""
        extent = source.labels.extent
        size = [n * mm for n, mm in zip(self.plan.window, self.plan.spacing, strict=True)]
        low = [min(s, e) / 2 - s / 10 for s, e in zip(size, extent, strict=True)]
        high = [max(e - s / 2, e / 2) + s / 10 for s, e in zip(size, extent, strict=True)]
        if source.voxels and draw.chance(self.foreground_share):
            voxels = source.voxels[draw.whole(len(source.voxels))]
            voxel = voxels[draw.whole(len(voxels))]
            middle = [(v + 0.5) * mm for v, mm in zip(voxel, source.labels.spacing, strict=True)]
            return [min(max(m, a), b) for m, a, b in zip(middle, low, high, strict=True)]
        return [draw.uniform(a, b) for a, b in zip(low, high, strict=True)]


def synthesized_case(
    case: LabelledCase, scheme: LabelScheme, seed: int, ranges: Ranges | None = None
) -> LabelledCase:
    """A whole label map with an image of random contrast, always the same for a seed.

    The image has the map's own grid, cropped to what is not background and a margin.
    """
    code = "SAR"
    volume, inside = case.channels[0], np.argwhere(case.channels[0].array > 0)
    low, high = inside.min(0), inside.max(0) + 1
    i, j, k = (float(v) for v in low[::-1] - MARGIN)
    p, q, r = (float(v) for v in high[::-1] + MARGIN)
    box = Box("", (i, j, k), (p, q, r)).clipped(volume.shape)
    volume = crop(volume, box)
    case = replace(case, label=case.label[box.slices()])
    axes, flips = axis_mapping(volume.ijk_to_ras, code)
    spacing = [volume.spacing[2 - axis] for axis in axes]
    labels = turn(volume.array, axes, flips)
    source = LabelMap(torch.from_numpy(labels.copy()), (spacing[0], spacing[1], spacing[2]))
    shape = source.labels.shape
    synthesis = Synthesis(
        scheme, (shape[0], shape[1], shape[2]), source.spacing, lateral_axis(code), ranges
    )
    image = synthesis.whole(source, Draw(seed, torch.device("cpu"))).numpy()
    array = np.ascontiguousarray(turn_back(image, axes, flips))
    return replace(case, channels=(Volume(array, volume.ijk_to_ras, case.name),))

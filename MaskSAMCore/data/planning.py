"""Plans: grid and intensities of a network's input, chosen from the training cases.

Spacing and normalisation follow nnU-Net's rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume, axis_mapping

# Ratio above which an axis counts as much coarser than the others.
ANISOTROPY = 3.0
# Largest number of foreground voxels in a case's fingerprint.
_FOREGROUND_SAMPLE = 10_000
# Upper limit of a plan's spacing.
LARGEST_MM = 1000.0
# Smallest overlap of neighbouring windows as a share of their size, unless a model sets another.
WINDOW_OVERLAP = 0.5


@dataclass(frozen=True)
class ChannelNormalization:
    """Normalisation of a channel's intensities.

    Attributes:
        kind: "zscore" for the mean and standard deviation of each case; "ct" for clipping to
            ``lower`` and ``upper``, then the mean and standard deviation of the training
            foreground.
        mean: mean of the training foreground, for "ct".
        std: standard deviation of the training foreground, for "ct".
        lower: lowest intensity after clipping, for "ct".
        upper: highest intensity after clipping, for "ct".
    """

    kind: Literal["zscore", "ct"] = "zscore"
    mean: float = 0.0
    std: float = 1.0
    lower: float = 0.0
    upper: float = 0.0

    @property
    def usable(self) -> bool:
        """True if the kind is known and the numbers are finite, with a positive deviation."""
        numbers = (self.mean, self.std, self.lower, self.upper)
        known = self.kind in ("zscore", "ct") and all(isinstance(n, int | float) for n in numbers)
        return known and bool(np.isfinite(numbers).all()) and self.std > 0

    @property
    def limits(self) -> tuple[float, float] | None:
        """Lowest and highest intensity after clipping; None without clipping."""
        return (self.lower, self.upper) if self.kind == "ct" else None


@dataclass(frozen=True)
class Plan:
    """Grid and intensities that a network expects.

    Attributes:
        orientation: directions of depth, rows and columns, for example "RSA" for sagittal slices
            (depth towards right, rows towards superior, columns towards anterior).
        spacing: mm along depth, rows, columns.
        window: (T, H, W) in voxels.
        normalization: normalisation of each channel.
        channels: names of the channels.
    """

    orientation: str
    spacing: tuple[float, float, float]
    window: tuple[int, int, int]
    normalization: tuple[ChannelNormalization, ...]
    channels: tuple[str, ...]

    def divided(self, parts: Sequence[float]) -> Plan:
        """Return the plan for the same windows with voxels divided into parts along each axis.

        Args:
            parts: number of parts along depth, rows, columns; fractions below 1 merge voxels.
        """
        depth, rows, columns = (mm / part for mm, part in zip(self.spacing, parts, strict=True))
        t, h, w = (round(size * part) for size, part in zip(self.window, parts, strict=True))
        return replace(self, spacing=(depth, rows, columns), window=(t, h, w))

    def to_dict(self) -> dict[str, Any]:
        """Return the plan in plain types for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Plan:
        """Build a plan from the plain types of :meth:`to_dict`.

        Raises:
            ValueError: a key is unknown or missing, or its value cannot be used.
        """
        names = {field.name for field in fields(cls)}
        if names != set(values):
            raise ValueError(f"a plan needs exactly {sorted(names)}, not {sorted(values)}")
        a, b, c = (float(v) for v in values["spacing"])
        t, h, w = (int(v) for v in values["window"])
        if not all(0 < mm < LARGEST_MM for mm in (a, b, c)):  # False for NaN
            raise ValueError("the spacing of a plan must be positive")
        if min(t, h, w) < 1:
            raise ValueError("the window of a plan must be positive")
        orientation = str(values["orientation"])
        axis_mapping(np.eye(4), orientation)
        kinds = tuple(ChannelNormalization(**v) for v in values["normalization"])
        if not kinds or not all(kind.usable for kind in kinds):
            raise ValueError("the normalization of a plan cannot be used")
        channels = tuple(str(name) for name in values["channels"])
        return cls(orientation, (a, b, c), (t, h, w), kinds, channels)


@dataclass(frozen=True)
class CaseGrid:
    """Grid of a case.

    Attributes:
        shape: voxels along K, J, I.
        spacing: mm along K, J, I.
        ijk_to_ras: (4, 4), voxel indices to RAS in mm.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    ijk_to_ras: np.ndarray

    @classmethod
    def of(cls, volume: Volume) -> CaseGrid:
        """Return the grid of a volume."""
        i, j, k = volume.spacing
        return CaseGrid(volume.shape, (k, j, i), volume.ijk_to_ras)


@dataclass(frozen=True)
class CaseFingerprint(CaseGrid):
    """Grid and foreground intensities of a case.

    Attributes:
        foreground: (C, N), a sample of foreground intensities of each channel.
        structures: size in voxels along K, J, I of the box around all labelled voxels; 0 if there
            are none.
    """

    foreground: np.ndarray
    structures: tuple[int, int, int] = (0, 0, 0)


def case_fingerprint(
    channels: Sequence[Volume], labelmap: np.ndarray, seed: int
) -> CaseFingerprint:
    """Return the fingerprint of a case.

    Args:
        channels: one volume for each channel.
        labelmap: [K, J, I], 0 for the background.
        seed: seed of the sample of foreground voxels.
    """
    grid = CaseGrid.of(channels[0])
    inside = np.flatnonzero(labelmap > 0)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(inside, min(_FOREGROUND_SAMPLE, inside.size), replace=False)
    foreground = np.stack([volume.array.reshape(-1)[chosen] for volume in channels])
    return CaseFingerprint(
        grid.shape, grid.spacing, grid.ijk_to_ras, foreground, _labelled_box(labelmap)
    )


def field_of_view(cases: Sequence[CaseFingerprint]) -> list[list[float]]:
    """Return the extents of cases in mm, for a model's card.

    Args:
        cases: fingerprints of the training cases.

    Returns:
        For right-left, anterior-posterior and superior-inferior, the smallest extent of all
        labelled structures together and the largest extent of an image.
    """
    structures, images = [], []
    for case in cases:
        axes = list(axis_mapping(case.ijk_to_ras, "RAS")[0])
        spacing = np.array(case.spacing)[axes]
        images.append(np.array(case.shape)[axes] * spacing)
        if all(case.structures):
            structures.append(np.array(case.structures)[axes] * spacing)
    smallest = np.min(structures, 0) if structures else np.zeros(3)
    ranges = np.stack([smallest, np.max(images, 0)], 1).round(1)
    return [[float(low), float(high)] for low, high in ranges]


def make_plan(
    cases: Sequence[CaseFingerprint],
    channels: Sequence[str],
    token_voxels: int,
    window: tuple[int, int, int],
    orientation: str | None = None,
    spacing: tuple[float, float, float] | None = None,
) -> Plan:
    """Return the plan for a dataset.

    Args:
        cases: fingerprints of the training cases only.
        channels: names of the channels; a channel named "CT" gets CT normalisation.
        token_voxels, window, orientation, spacing: as in :func:`plan_grid`.

    Raises:
        MaskSAMError: there are no cases.
    """
    grid = plan_grid(cases, token_voxels, window, orientation, spacing)
    foreground = [
        np.concatenate([case.foreground[c] for case in cases]) for c in range(len(channels))
    ]
    kinds = tuple(_normalization(n, f) for n, f in zip(channels, foreground, strict=True))
    return Plan(grid.orientation, grid.spacing, grid.window, kinds, tuple(channels))


@dataclass(frozen=True)
class PlannedGrid:
    """Grid that a network expects.

    Attributes:
        orientation: directions of depth, rows and columns.
        spacing: mm along depth, rows, columns.
        window: (T, H, W) in voxels.
    """

    orientation: str
    spacing: tuple[float, float, float]
    window: tuple[int, int, int]


def plan_grid(
    cases: Sequence[CaseGrid],
    token_voxels: int,
    window: tuple[int, int, int],
    orientation: str | None = None,
    spacing: tuple[float, float, float] | None = None,
) -> PlannedGrid:
    """Return the grid of the plan for a dataset.

    Args:
        cases: grids of the training cases only.
        token_voxels: edge of a token in voxels; H and W become multiples of it.
        window: the preset's (T, H, W), which shrinks to the largest case along each axis: T to its
            number of slices, H and W to whole tokens.
        orientation: required orientation; None puts depth along the coarsest axis, so that the
            slices are the acquired ones.
        spacing: required mm along depth, rows, columns; None applies nnU-Net's rule.

    Raises:
        MaskSAMError: there are no cases.
    """
    if not cases:
        raise MaskSAMError("no training case to plan from")
    orientation = orientation or _orientation(cases)
    axes = [axis_mapping(case.ijk_to_ras, orientation)[0] for case in cases]
    spacings = np.array([[c.spacing[a] for a in each] for c, each in zip(cases, axes, strict=True)])
    shapes = np.array([[c.shape[a] for a in each] for c, each in zip(cases, axes, strict=True)])
    target = target_spacing(spacings, shapes) if spacing is None else np.array(spacing)
    # Without rounding before ceil, 12 slices of 0.7 mm would become 13.
    extent = np.ceil(((shapes * spacings).max(0) / target).round(3)).astype(int)
    depth = min(window[0], int(extent[0]))
    height, width = (
        min(size, int(np.ceil(need / token_voxels)) * token_voxels)
        for size, need in zip(window[1:], extent[1:], strict=True)
    )
    a, b, c = (float(v) for v in target)
    return PlannedGrid(orientation, (a, b, c), (depth, height, width))


def summarize(
    names: Sequence[str], cases: Sequence[CaseFingerprint], channels: Sequence[str]
) -> dict[str, Any]:
    """Return the fingerprint of a dataset in plain types for JSON, with nnU-Net's statistics.

    Args:
        names: names of the cases.
        cases: fingerprints of the cases.
        channels: names of the channels.

    Returns:
        "cases": shape and spacing of each case along K, J, I; "foreground_intensities": statistics
        of each channel, None without any foreground; "field_of_view_mm": see
        :func:`field_of_view`.
    """
    intensities = {
        channel: _statistics(np.concatenate([case.foreground[index] for case in cases]))
        for index, channel in enumerate(channels)
    }
    return {
        "cases": {
            name: {"shape": [int(n) for n in c.shape], "spacing": [float(mm) for mm in c.spacing]}
            for name, c in zip(names, cases, strict=True)
        },
        "foreground_intensities": intensities,
        "field_of_view_mm": field_of_view(cases),
    }


def with_ct_window(
    plan: Plan, cases: Sequence[CaseFingerprint], window: tuple[float, float]
) -> Plan:
    """Return a plan that clips CT channels to a window in Hounsfield units.

    Mean and standard deviation are those of the clipped foreground. Other channels are unchanged.

    Args:
        plan: a plan made from the same cases.
        cases: fingerprints of the training cases.
        window: lowest and highest value in HU.
    """
    normalization = list(plan.normalization)
    for index, channel in enumerate(normalization):
        values = np.concatenate([case.foreground[index] for case in cases]).astype(np.float64)
        if channel.kind == "ct" and values.size:
            values = np.clip(values, *window)
            std = max(float(values.std()), 1e-8)
            normalization[index] = ChannelNormalization("ct", float(values.mean()), std, *window)
    return replace(plan, normalization=tuple(normalization))


def _labelled_box(labelmap: np.ndarray) -> tuple[int, int, int]:
    """Return the size along K, J, I of the box around all labelled voxels; 0 if there are none."""
    sizes = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        inside = np.flatnonzero((labelmap > 0).any(others))
        sizes.append(int(inside[-1] - inside[0] + 1) if inside.size else 0)
    k, j, i = sizes
    return k, j, i


def _statistics(values: np.ndarray) -> dict[str, float] | None:
    if not values.size:
        return None
    values = values.astype(np.float64)
    names = ("min", "percentile_00_5", "median", "percentile_99_5", "max")
    found = dict(zip(names, np.percentile(values, (0, 0.5, 50, 99.5, 100)).tolist(), strict=True))
    return {"mean": float(values.mean()), "std": float(values.std()), **found}


def target_spacing(spacings: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Return a dataset's spacing by nnU-Net's rule.

    It is the median along each axis. Only a coarsest axis with more than 3 times the spacing and
    less than a third of the size of the others gets the 10th percentile.

    Args:
        spacings: (cases, 3) in mm.
        shapes: (cases, 3) in voxels.
    """
    spacing: np.ndarray = np.median(spacings, 0)
    size = np.median(shapes, 0)
    worst = int(spacing.argmax())
    others = [axis for axis in range(3) if axis != worst]
    coarse = spacing[worst] > ANISOTROPY * spacing[others].max()
    short = size[worst] * ANISOTROPY < size[others].min()
    if coarse and short:
        finer = np.percentile(spacings[:, worst], 10)
        spacing[worst] = max(finer, spacing[others].max() + 1e-5)
    return spacing


def coarse_axis(spacing: Sequence[float]) -> int | None:
    """Return the one axis that is more than 3 times coarser than the finest, or None.

    Copies of a volume whose headers round its spacing differently have the same coarse axis.
    """
    finest, middle, worst = sorted(spacing)
    rounding = 1e-3 * worst
    if worst - ANISOTROPY * finest < rounding or worst - middle < rounding:
        return None
    return list(spacing).index(worst)


def _orientation(cases: Sequence[CaseGrid]) -> str:
    """Return an orientation with depth along the axis of the largest median spacing.

    Among equal axes, superior comes before anterior and anterior before right.
    """
    spacings = []
    for case in cases:
        axes, _ = axis_mapping(case.ijk_to_ras, "SAR")
        spacings.append([case.spacing[axis] for axis in axes])
    # Axes count as equal within a thousandth of a millimetre; argmax takes the first.
    depth = "SAR"[int(np.median(spacings, 0).round(3).argmax())]
    return depth + "".join(code for code in "SAR" if code != depth)


def _normalization(name: str, foreground: np.ndarray) -> ChannelNormalization:
    if name.upper() != "CT" or not foreground.size:
        return ChannelNormalization()
    values = foreground.astype(np.float64)
    lower, upper = np.percentile(values, (0.5, 99.5))
    std = max(float(values.std()), 1e-8)
    return ChannelNormalization("ct", float(values.mean()), std, float(lower), float(upper))

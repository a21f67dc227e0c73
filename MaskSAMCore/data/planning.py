"""The plan: how volumes reach the network, chosen from a fingerprint of the training cases.

The rules are nnU-Net's where it has one (spacing, normalisation): its users know what to expect.
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


@dataclass(frozen=True)
class ChannelNormalization:
    """How a channel's intensities are normalised.

    Attributes:
        kind: "zscore", by each case's own mean and standard deviation; or "ct", clipped to
            ``lower`` and ``upper``, then by ``mean`` and ``std`` of the training foreground.
    """

    kind: Literal["zscore", "ct"] = "zscore"
    mean: float = 0.0
    std: float = 1.0
    lower: float = 0.0
    upper: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The grid and the intensities that a network expects.

    Attributes:
        orientation: where depth, rows and columns of a window point, for example "RSA" for
            sagittal slices (depth to the right, rows to superior, columns to anterior).
        spacing: mm along depth, rows, columns.
        window: (T, H, W) voxels.
        normalization: one a channel.
        channels: names of the channels.
    """

    orientation: str
    spacing: tuple[float, float, float]
    window: tuple[int, int, int]
    normalization: tuple[ChannelNormalization, ...]
    channels: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Plan:
        """Inverse of :meth:`to_dict`; an unknown or missing key is a ValueError that names it."""
        names = {field.name for field in fields(cls)}
        if names != set(values):
            raise ValueError(f"a plan needs exactly {sorted(names)}, not {sorted(values)}")
        a, b, c = (float(v) for v in values["spacing"])
        t, h, w = (int(v) for v in values["window"])
        kinds = tuple(ChannelNormalization(**v) for v in values["normalization"])
        return cls(
            str(values["orientation"]), (a, b, c), (t, h, w), kinds, tuple(values["channels"])
        )


@dataclass(frozen=True)
class CaseFingerprint:
    """What planning needs to know of a case.

    Attributes:
        shape: voxels [K, J, I].
        spacing: mm along K, J, I.
        ijk_to_ras: 4 x 4.
        foreground: a sample of foreground intensities, one row a channel.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    ijk_to_ras: np.ndarray
    foreground: np.ndarray


def case_fingerprint(channels: Sequence[Volume], label: np.ndarray, seed: int) -> CaseFingerprint:
    """The fingerprint of a case; of the foreground at most 10,000 voxels are kept."""
    first = channels[0]
    inside = np.flatnonzero(label > 0)
    chosen = np.random.default_rng(seed).choice(inside, min(10_000, inside.size), replace=False)
    foreground = np.stack([volume.array.reshape(-1)[chosen] for volume in channels])
    i, j, k = first.spacing
    return CaseFingerprint(first.shape, (k, j, i), first.ijk_to_ras, foreground)


def make_plan(
    cases: Sequence[CaseFingerprint],
    channels: Sequence[str],
    tokens: int,
    window: tuple[int, int, int],
    orientation: str | None = None,
    spacing: tuple[float, float, float] | None = None,
) -> Plan:
    """The plan for a dataset.

    Args:
        cases: fingerprints of the training cases, and of no others.
        channels: their names; "CT" asks for CT normalisation.
        tokens: edge of a token in voxels: H and W are multiples of it.
        window: the preset's (T, H, W), made smaller along an axis where the largest case is: T to
            its slices, H and W to whole tokens.
        orientation: fixed, or None: depth is the coarsest axis, slices lie as they were acquired.
        spacing: fixed, mm along depth, rows, columns, or None.

    Raises:
        MaskSAMError: there is no case.
    """
    if not cases:
        raise MaskSAMError("no training case to plan from")
    orientation = orientation or _orientation(cases)
    turned = [axis_mapping(case.ijk_to_ras, orientation)[0] for case in cases]
    spacings = np.array(
        [[c.spacing[a] for a in axes] for c, axes in zip(cases, turned, strict=True)]
    )
    shapes = np.array([[c.shape[a] for a in axes] for c, axes in zip(cases, turned, strict=True)])
    target = target_spacing(spacings, shapes) if spacing is None else np.array(spacing)
    # Rounded first: 12 slices of 0.7 mm are 12, not 13.
    extent = np.ceil(((shapes * spacings).max(0) / target).round(3)).astype(int)
    depth = min(window[0], int(extent[0]))
    height, width = (
        min(size, int(np.ceil(need / tokens)) * tokens)
        for size, need in zip(window[1:], extent[1:], strict=True)
    )
    foreground = [
        np.concatenate([case.foreground[c] for case in cases]) for c in range(len(channels))
    ]
    kinds = tuple(_normalization(n, f) for n, f in zip(channels, foreground, strict=True))
    a, b, c = (float(v) for v in target)
    return Plan(orientation, (a, b, c), (depth, height, width), kinds, tuple(channels))


def summarize(
    names: Sequence[str], cases: Sequence[CaseFingerprint], channels: Sequence[str]
) -> dict[str, Any]:
    """The fingerprint of a dataset for people, with nnU-Net's figures, in plain types for JSON.

    Returns:
        "cases": voxels and mm of each, along K, J, I; "foreground_intensities": of each channel
        (a sample of at most 10,000 voxels a case), None where no case has foreground.
    """
    intensities = {
        channel: _figures(np.concatenate([case.foreground[index] for case in cases]))
        for index, channel in enumerate(channels)
    }
    return {
        "cases": {
            name: {"shape": [int(n) for n in c.shape], "spacing": [float(mm) for mm in c.spacing]}
            for name, c in zip(names, cases, strict=True)
        },
        "foreground_intensities": intensities,
    }


def with_ct_window(
    plan: Plan, cases: Sequence[CaseFingerprint], window: tuple[float, float]
) -> Plan:
    """The plan with CT channels clipped to a window in Hounsfield units, then normalised by the
    foreground's mean and standard deviation within it; other channels are as they were.

    Args:
        plan: of the same cases.
        cases: fingerprints of the training cases.
        window: lowest and highest value.
    """
    kinds = list(plan.normalization)
    for index, how in enumerate(kinds):
        values = np.concatenate([case.foreground[index] for case in cases]).astype(np.float64)
        if how.kind == "ct" and values.size:
            values = np.clip(values, *window)
            std = max(float(values.std()), 1e-8)
            kinds[index] = ChannelNormalization("ct", float(values.mean()), std, *window)
    return replace(plan, normalization=tuple(kinds))


def _figures(values: np.ndarray) -> dict[str, float] | None:
    if not values.size:
        return None
    values = values.astype(np.float64)
    names = ("min", "percentile_00_5", "median", "percentile_99_5", "max")
    found = dict(zip(names, np.percentile(values, (0, 0.5, 50, 99.5, 100)).tolist(), strict=True))
    return {"mean": float(values.mean()), "std": float(values.std()), **found}


def target_spacing(spacings: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """nnU-Net's rule: the median of each axis; where the coarsest axis has more than 3 times the
    spacing and less than a third of the size of the others, its 10th percentile.

    Args:
        spacings, shapes: (cases, 3).
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
    """The one axis that is more than 3 times coarser than the finest, if there is one."""
    finest, middle, worst = sorted(spacing)
    if worst <= ANISOTROPY * finest or worst - middle < 1e-3 * worst:
        return None
    return list(spacing).index(worst)


def _orientation(cases: Sequence[CaseFingerprint]) -> str:
    """Depth along the axis that is coarsest in most cases; where axes are alike, superior before
    anterior before right."""
    spacings = []
    for case in cases:
        axes, _ = axis_mapping(case.ijk_to_ras, "SAR")
        spacings.append([case.spacing[axis] for axis in axes])
    # The first of equal ones, to a thousandth of a millimetre.
    depth = "SAR"[int(np.median(spacings, 0).round(3).argmax())]
    return depth + "".join(code for code in "SAR" if code != depth)


def _normalization(name: str, foreground: np.ndarray) -> ChannelNormalization:
    if name.upper() != "CT" or not foreground.size:
        return ChannelNormalization()
    values = foreground.astype(np.float64)
    lower, upper = np.percentile(values, (0.5, 99.5))
    std = max(float(values.std()), 1e-8)
    return ChannelNormalization("ct", float(values.mean()), std, float(lower), float(upper))

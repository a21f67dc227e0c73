"""How well a labelmap agrees with a reference: overlap as nnU-Net defines it, and surfaces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Millimetres within which two surfaces count as one.
SURFACE_TOLERANCE = 1.0

OVERLAP = ("Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref")
SURFACE = ("surface_dice_1mm", "hd95_mm")


def overlap_metrics(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_]
) -> dict[str, float]:
    """nnU-Net's metrics of one class. Dice and IoU are NaN where both masks are empty."""
    tp = int(np.count_nonzero(prediction & reference))
    n_pred, n_ref = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    fp, fn = n_pred - tp, n_ref - tp
    union = tp + fp + fn
    return {
        "Dice": 2 * tp / (2 * tp + fp + fn) if union else math.nan,
        "IoU": tp / union if union else math.nan,
        "TP": tp,
        "FP": fp,
        "FN": fn,
        "TN": prediction.size - union,
        "n_pred": n_pred,
        "n_ref": n_ref,
    }


def dice_scores(
    prediction: NDArray[np.integer], reference: NDArray[np.integer], values: Sequence[int]
) -> list[float]:
    """Dice of each value of two labelmaps, in one pass; NaN where neither has it."""
    top = max(values) + 1
    same = prediction[prediction == reference]
    both, found, known = (
        np.bincount(labels[labels < top].ravel(), minlength=top)
        for labels in (same, prediction, reference)
    )
    return [
        2 * int(both[v]) / size if (size := int(found[v] + known[v])) else math.nan for v in values
    ]


def surface_metrics(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: Sequence[float]
) -> dict[str, float]:
    """Surface Dice at 1 mm and the 95 % Hausdorff distance in mm, by MONAI.

    Args:
        prediction, reference: bool, of one shape.
        spacing: mm along the arrays' axes.

    Returns:
        NaN for both where both masks are empty; where one is, 0 and infinity.

    Raises:
        ImportError: MONAI is not installed.
    """
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice

    some = prediction.any(), reference.any()
    if not any(some):
        return dict.fromkeys(SURFACE, math.nan)
    if not all(some):
        return {SURFACE[0]: 0.0, SURFACE[1]: math.inf}
    window = _around(prediction | reference)
    a, b = (torch.from_numpy(mask[window])[None, None].float() for mask in (prediction, reference))
    steps = [float(mm) for mm in spacing]
    dice = compute_surface_dice(
        a, b, [SURFACE_TOLERANCE], include_background=True, spacing=steps, use_subvoxels=True
    )
    distance = compute_hausdorff_distance(
        a, b, include_background=True, percentile=95, spacing=steps
    )
    return {SURFACE[0]: float(dice), SURFACE[1]: float(distance)}


def _around(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The part of a volume with a mask in it and two voxels more: surfaces need no others."""
    spans = []
    for axis in range(mask.ndim):
        used = np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis)))
        spans.append(slice(max(int(used[0]) - 2, 0), int(used[-1]) + 3))
    return tuple(spans)


def mean_metrics(cases: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over cases, those that are NaN left out, as nnU-Net does."""
    means = {}
    for key in cases[0] if cases else ():
        values = np.array([case[key] for case in cases], dtype=float)
        known = values[~np.isnan(values)]
        means[key] = float(known.mean()) if known.size else math.nan
    return means


def summarize(per_case: list[dict[str, Any]], labels: Sequence[str]) -> dict[str, Any]:
    """nnU-Net's ``summary.json``: every case, the mean of each label, the mean over labels.

    Args:
        per_case: each with "metrics", a mapping of label to its metrics.
        labels: the foreground's.
    """
    mean = {label: mean_metrics([case["metrics"][label] for case in per_case]) for label in labels}
    return {
        "foreground_mean": mean_metrics(list(mean.values())),
        "mean": mean,
        "metric_per_case": per_case,
    }

"""Overlap metrics as nnU-Net defines them, and surface metrics by MONAI."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Distance in mm within which two surfaces count as one.
SURFACE_TOLERANCE = 1.0

SURFACE_METRICS = ("surface_dice_1mm", "hd95_mm")


def overlap_metrics(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_]
) -> dict[str, float]:
    """Return nnU-Net's metrics of one class. Dice and IoU are NaN if both masks are empty."""
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
    """Return the Dice of several values, computed in one pass over two labelmaps.

    Args:
        prediction: labelmap.
        reference: labelmap of the same shape.
        values: labelmap values to compare.

    Returns:
        Dice of each value, in the order given; NaN for one that neither labelmap contains.
    """
    end = max(values) + 1
    same = prediction[prediction == reference]
    both, found, known = (
        np.bincount(voxels[voxels < end].ravel(), minlength=end)
        for voxels in (same, prediction, reference)
    )
    return [
        2 * int(both[v]) / size if (size := int(found[v] + known[v])) else math.nan for v in values
    ]


def surface_metrics(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: Sequence[float]
) -> dict[str, float]:
    """Return the surface Dice at 1 mm and the 95 % Hausdorff distance in mm.

    Args:
        prediction: mask, bool.
        reference: mask of the same shape, bool.
        spacing: voxel size along the arrays' axes in mm.

    Returns:
        Value of each of ``SURFACE_METRICS``: NaN if both masks are empty; 0 and infinity if only
        one is.

    Raises:
        ImportError: MONAI is not installed.
    """
    some = prediction.any(), reference.any()
    if not any(some):
        return dict.fromkeys(SURFACE_METRICS, math.nan)
    if not all(some):
        return dict(zip(SURFACE_METRICS, (0.0, math.inf), strict=True))
    import torch

    region = _bounding_region(prediction | reference)
    a, b = (torch.from_numpy(mask[region])[None, None].float() for mask in (prediction, reference))
    steps = [float(mm) for mm in spacing]
    with warnings.catch_warnings():
        # MONAI announces changes of arguments that are not used here.
        warnings.simplefilter("ignore", FutureWarning)
        from monai.metrics.hausdorff_distance import compute_hausdorff_distance
        from monai.metrics.surface_dice import compute_surface_dice

        dice = compute_surface_dice(
            a, b, [SURFACE_TOLERANCE], include_background=True, spacing=steps, use_subvoxels=True
        )
        distance = compute_hausdorff_distance(
            a, b, include_background=True, percentile=95, spacing=steps
        )
    return dict(zip(SURFACE_METRICS, (float(dice), float(distance)), strict=True))


def _bounding_region(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the bounding box of a mask with a margin of two voxels, which its surface needs."""
    spans = []
    for axis in range(mask.ndim):
        used = np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis)))
        spans.append(slice(max(int(used[0]) - 2, 0), int(used[-1]) + 3))
    return tuple(spans)


def mean_metrics(cases: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over the cases, ignoring NaN, as nnU-Net does."""
    means = {}
    for key in cases[0] if cases else ():
        values = np.array([case[key] for case in cases], dtype=float)
        known = values[~np.isnan(values)]
        means[key] = float(known.mean()) if known.size else math.nan
    return means


def summarize(per_case: list[dict[str, Any]], values: Sequence[str]) -> dict[str, Any]:
    """Return nnU-Net's summary: all cases, the mean of each class, the mean over the classes.

    Args:
        per_case: one dictionary for each case; "metrics" maps each labelmap value to its metrics.
        values: labelmap values of the foreground, as keys of "metrics".
    """
    mean = {value: mean_metrics([case["metrics"][value] for case in per_case]) for value in values}
    return {
        "foreground_mean": mean_metrics(list(mean.values())),
        "mean": mean,
        "metric_per_case": per_case,
    }

"""Evaluation of segmentations against references, with metrics as in nnU-Net."""

from MaskSAMCore.evaluation.empty_masks import EMPTY_RULES, EmptyRule
from MaskSAMCore.evaluation.evaluate import (
    class_names,
    evaluate,
    find_pairs,
    labelmaps_in,
    read_summary,
    spread,
    surfaces_available,
    without_names,
    without_prediction,
    write_summary,
)
from MaskSAMCore.evaluation.metrics import (
    SURFACE_METRICS,
    dice_scores,
    overlap_metrics,
    summarize,
    surface_metrics,
)

__all__ = [
    "EMPTY_RULES",
    "SURFACE_METRICS",
    "EmptyRule",
    "class_names",
    "dice_scores",
    "evaluate",
    "find_pairs",
    "labelmaps_in",
    "overlap_metrics",
    "read_summary",
    "spread",
    "summarize",
    "surface_metrics",
    "surfaces_available",
    "without_names",
    "without_prediction",
    "write_summary",
]

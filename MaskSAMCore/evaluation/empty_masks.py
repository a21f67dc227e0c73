"""Dice of classes that a reference lacks, as different papers and challenges count it.

If a class is in neither the reference nor the prediction, nnU-Net leaves the case out of the mean,
nnFormer and MA-SAM count 1, and TransUNet counts 0. If it is only in the prediction, all count 0
except TransUNet, which counts 1. Some test cases of Synapse lack organs, so that means under two
rules cannot be compared.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

EmptyRule = Literal["nnunet", "nnformer", "transunet"]
EMPTY_RULES: tuple[EmptyRule, ...] = get_args(EmptyRule)
# Dice and IoU of a class that the reference lacks: without and with a predicted mask.
_SCORES: dict[EmptyRule, tuple[float, float]] = {
    "nnunet": (math.nan, 0.0),
    "nnformer": (1.0, 0.0),
    "transunet": (0.0, 1.0),
}


def scored_by_rule(metrics: dict[str, float], rule: EmptyRule) -> dict[str, float]:
    """Return the metrics of a class in a case, with Dice and IoU by a rule for empty references.

    Args:
        metrics: metrics as :func:`overlap_metrics` returns them, by nnU-Net's rule.
        rule: "nnunet", "nnformer" (also MA-SAM's), or "transunet".
    """
    if metrics["n_ref"]:
        return metrics
    neither, predicted = _SCORES[rule]
    score = predicted if metrics["n_pred"] else neither
    return {**metrics, "Dice": score, "IoU": score}

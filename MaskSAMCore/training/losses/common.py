"""Loss functions shared by the networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from MaskSAMCore.modeling.layers import full_precision

# Added to the numerator and the denominator of the Dice, so that an absent class adds no loss.
_SMOOTH = 1.0


def cross_entropy_and_dice(
    logits: Tensor, labels: Tensor, background: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy, and one minus the mean Dice of the classes, over a whole batch.

    Args:
        logits: (B, K + 1, T, H, W) float32.
        labels: long (B, T, H, W), 0..K; negative ones are ignored.
        background: include class 0 in the mean Dice.
    """
    known = labels >= 0
    with full_precision(logits):
        entropy = F.cross_entropy(logits, labels.masked_fill(~known, -1), ignore_index=-1)
        probability = logits.softmax(1) * known[:, None]
        target = F.one_hot(labels.clamp(min=0), logits.shape[1]).movedim(-1, 1) * known[:, None]
        overlap = (probability * target).sum((0, 2, 3, 4))
        sizes = probability.sum((0, 2, 3, 4)) + target.sum((0, 2, 3, 4))
        dice = (2 * overlap + _SMOOTH) / (sizes + _SMOOTH)
    return entropy, 1 - dice[0 if background else 1 :].mean()


def split_shared_settings(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the loss settings that all networks shared in former ``run.json`` files.

    Args:
        values: settings with the keys "weights" and "prompts".

    Returns:
        The settings other than the prompts, flattened, and the settings of the prompts.
    """
    rest = {key: value for key, value in values.items() if key not in ("weights", "prompts")}
    return {**rest, **values["weights"]}, dict(values["prompts"])

"""Cross-entropy and Dice loss."""

from __future__ import annotations

import torch

from MaskSAMCore.training.losses.common import cross_entropy_and_dice


def test_perfect_logits_have_a_loss_of_zero_and_padding_is_ignored():
    labels = torch.randint(0, 3, (1, 2, 6, 6))
    logits = 50.0 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    entropy, dice = cross_entropy_and_dice(logits, labels)
    assert float(entropy) < 1e-6 and float(dice) < 1e-3
    padded = labels.clone()
    padded[:, 0] = -1
    wrong = logits.clone()
    wrong[:, :, 0] = logits[:, :, 0].flip(1)
    entropy, dice = cross_entropy_and_dice(wrong, padded)
    assert float(entropy) < 1e-6 and float(dice) < 1e-3
    assert float(cross_entropy_and_dice(wrong, labels)[0]) > 1

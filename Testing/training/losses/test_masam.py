"""The loss of MA-SAM and its box prompts."""

from __future__ import annotations

import pytest
import torch

from MaskSAMCore.modeling import build_model
from MaskSAMCore.training.losses.common import cross_entropy_and_dice
from MaskSAMCore.training.losses.masam import LossSettings, sample_boxes, training_loss
from Testing.helpers.networks import small_masam_config


def test_a_prompt_is_the_box_of_a_class_in_the_whole_stack():
    labels = torch.zeros(2, 5, 10, 20, dtype=torch.long)
    labels[0, 1, 2:4, 4:8] = 2
    labels[0, 3, 5:6, 10:12] = 2
    settings = LossSettings(box_share=1.0, box_jitter=0.0)
    boxes, classes = sample_boxes(labels, 2, settings, torch.Generator().manual_seed(0))
    assert classes.tolist() == [2, 0]  # The second stack has no class to put a box around.
    torch.testing.assert_close(boxes[0], torch.tensor([0.2, 0.2, 0.6, 0.6]))
    never = LossSettings(box_share=0.0)
    assert sample_boxes(labels, 2, never, None)[1].tolist() == [0, 0]


def test_prompted_and_automatic_windows_have_the_same_weight_and_their_own_labels():
    torch.manual_seed(0)
    model = build_model(small_masam_config()).eval()
    images = torch.randn(3, 1, 5, 16, 20)
    labels = torch.zeros(3, 5, 16, 20, dtype=torch.long)
    labels[0, :, :4], labels[1, :, 8:], labels[2, :, :, 10:] = 1, 2, 1
    settings = LossSettings(box_share=0.5, box_jitter=0.0)
    with torch.no_grad():
        for seed in range(4):
            loss, _ = training_loss(
                model, images, labels, settings, torch.Generator().manual_seed(seed)
            )
            boxes, classes = sample_boxes(labels, 2, settings, torch.Generator().manual_seed(seed))
            embedding = model.encode(images)
            logits = model.run_decoder(embedding)
            for b in (classes > 0).nonzero()[:, 0].tolist():
                one = type(embedding)(embedding.neck[b : b + 1])
                logits[b] = model.run_decoder(one, boxes[b : b + 1], classes[b : b + 1])[0]
            entropy, dice = cross_entropy_and_dice(logits, labels)
            assert float(loss) == pytest.approx(0.2 * float(entropy) + 0.8 * float(dice), abs=1e-5)

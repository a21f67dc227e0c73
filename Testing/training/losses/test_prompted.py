"""The loss of MaskSAM without the prompt generator."""

from __future__ import annotations

import torch

from MaskSAMCore.modeling import BoxPrompts, build_model
from MaskSAMCore.training.losses.masksam import slice_targets
from MaskSAMCore.training.losses.prompted import LossSettings, training_loss
from Testing.modeling.prompted.helpers import small_prompted_config


def example_labels() -> torch.Tensor:
    labels = torch.zeros(1, 5, 16, 20, dtype=torch.long)
    labels[0, 1:4, 4:8, 5:10] = 1
    labels[0, 2:, 10:14, 5:18] = 2
    return labels


def test_the_loss_reaches_every_trained_parameter() -> None:
    torch.manual_seed(0)
    model = build_model(small_prompted_config())
    labels = torch.cat([example_labels(), torch.zeros_like(example_labels())])
    loss, parts = training_loss(model, torch.randn(2, 1, 5, 16, 20), labels, LossSettings())
    loss.backward()
    # Without mask prompts the mask encoder is unused.
    without = {name for name, p in model.trained_parameters().items() if p.grad is None}
    assert all("mask_downscaling" in name for name in without)
    torch.testing.assert_close(loss.detach(), parts["masks"] + 0.2 * parts["classes"])


def test_a_batch_has_the_mean_of_its_windows_losses() -> None:
    torch.manual_seed(0)
    model = build_model(small_prompted_config()).eval()
    images = torch.randn(2, 1, 5, 16, 20)
    labels = torch.cat([example_labels(), torch.zeros_like(example_labels())])
    with torch.no_grad():
        one, two = (
            training_loss(model, images[i : i + 1], labels[i : i + 1], LossSettings())[0]
            for i in range(2)
        )
        whole, _ = training_loss(model, images, labels, LossSettings())
    torch.testing.assert_close(whole, (one + two) / 2)


def test_a_few_steps_on_one_window_learn_masks_and_classes_from_boxes() -> None:
    torch.manual_seed(0)
    model = build_model(small_prompted_config(stem_pyramid=True, stem_channels=(8, 8, 16)))
    labels = example_labels()
    images = (labels[:, None] > 0).float() + 0.3 * torch.randn(1, 1, 5, 16, 20)
    parameters = list(model.trained_parameters().values())
    optimizer = torch.optim.AdamW(parameters, 1e-2)
    settings = LossSettings(classification=2.0)
    for _ in range(20):
        loss, _ = training_loss(model, images, labels, settings)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    targets = slice_targets(labels, 2)
    boxes, present = targets.boxes[None].transpose(1, 2), targets.present[None].transpose(1, 2)
    prompts = BoxPrompts(boxes, torch.tensor([[False, True, True]]), present)
    with torch.no_grad():
        embedding = model.eval().encode(images)
        found = model.decode(embedding, prompts).semantic().argmax(1)
        automatic = model.decode(embedding).semantic().argmax(1)
    inside = labels > 0
    assert float((found == labels)[inside].float().mean()) > 0.7
    assert float((found == labels).float().mean()) > 0.8
    assert float((automatic == labels)[inside].float().mean()) < 0.5

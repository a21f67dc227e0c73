"""Batches whose halves are computed at the same time."""

from __future__ import annotations

import pytest
import torch

from MaskSAMCore.modeling import Network, build_model
from MaskSAMCore.presets.small import TINY
from MaskSAMCore.training.batch_halves import halve_steps
from MaskSAMCore.training.losses.masksam import generator_loss, training_loss
from MaskSAMCore.training.module import own_methods
from Testing.helpers.short_run import FROZEN, SMALL


def windows(model: Network, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 1, *model.config.window, generator=rng)
    blocks = torch.randint(0, 3, (batch, 1, 4, 4, 4), generator=rng).float()
    return images, torch.nn.functional.interpolate(blocks, model.config.window).long()[:, 0]


def network(halved: bool, changes: dict) -> Network:
    torch.manual_seed(0)
    model = build_model(TINY.network.replace(**changes)).train()
    if halved:
        halve_steps(model)
    return model


@pytest.mark.parametrize("batch", [2, 3])
def test_halves_of_a_batch_give_its_gradients(batch: int):
    """In double precision, because norms amplify the rounding of single precision."""

    def gradients(halved: bool) -> dict[str, torch.Tensor]:
        model = network(halved, SMALL).double()
        embedding = model.encode(windows(model, batch)[0].double())
        found = embedding.proposals.masks, embedding.proposals.class_tokens, embedding.features.neck
        rng = torch.Generator().manual_seed(2)
        weights = [torch.randn(x.shape, generator=rng, dtype=x.dtype) for x in found]
        sum((x * w).sum() for x, w in zip(found, weights, strict=True)).backward()
        named = model.named_parameters()
        return {name: p.grad for name, p in named if p.grad is not None}

    expected, found = gradients(False), gradients(True)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("changes", "alone"), [(SMALL, False), (FROZEN, False), (SMALL, True)])
def test_halves_of_a_batch_give_its_losses(changes: dict, alone: bool):
    def losses(halved: bool) -> tuple[list[float], set[str]]:
        model = network(halved, changes)
        images, labels = windows(model, 2)
        optimizer = torch.optim.SGD(model.trained_parameters().values(), 1e-3)
        rng, settings = torch.Generator().manual_seed(0), TINY.training.loss
        found = []
        for _ in range(3):
            if alone:
                loss, _ = generator_loss(model, images, labels, settings)
            else:
                loss, _ = training_loss(model, images, labels, settings, rng)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(float(loss.detach()))
        trained = {n for n, p in model.trained_parameters().items() if p.grad is not None}
        return found, trained

    expected, found = losses(False), losses(True)
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    assert found[1] == expected[1]


def test_one_window_and_inference_are_computed_as_a_whole():
    torch.manual_seed(0)
    model = build_model(TINY.network.replace(**SMALL))
    images, _ = windows(model, 2)
    with torch.no_grad():
        expected = model.encode(images).proposals.masks
    halve_steps(model)
    with torch.no_grad():
        assert torch.equal(model.encode(images).proposals.masks, expected)
    assert model.encode(images[:1]).proposals.masks.requires_grad
    with own_methods(model):
        assert "encode" not in model.__dict__
    assert "encode" in model.__dict__


def test_mixed_precision_reaches_both_halves():
    model = build_model(TINY.network.replace(**SMALL))
    halve_steps(model)
    images, _ = windows(model, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.encode(images).proposals.masks.dtype == torch.bfloat16
    assert model.encode(images).proposals.masks.dtype == torch.float32

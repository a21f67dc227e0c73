"""Schedule, averaged weights and compiled steps of the Lightning module."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from MaskSAMCore.modeling import build_model
from MaskSAMCore.presets.masam import MASAM_B
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.losses.masksam import LossSettings, training_loss
from MaskSAMCore.training.module import (
    AveragedWeights,
    MaskSAMModule,
    compile_steps,
    compiler_cache,
    uncompiled,
)
from Testing.helpers.networks import (
    FROZEN_SMALL_SAM,
    small_masam_config,
    small_masksam_config,
)


def test_the_decoder_joins_and_contrasts_become_random_during_the_training():
    settings = TrainSettings(generator_first=0.7, contrast_ramp=0.5, common_contrasts=0.4)
    module = MaskSAMModule(build_model(small_masksam_config()), settings, 100.0, 0)
    found = []
    for minutes in (0, 25, 50, 69, 75):
        module.minutes_before = float(minutes)
        found.append((round(module.common_contrasts, 2), module.generator_alone))
    assert found == [(1.0, True), (0.7, True), (0.4, True), (0.4, True), (0.4, False)]
    usual = MaskSAMModule(build_model(small_masksam_config()), TrainSettings(), 100.0, 0)
    assert not usual.generator_alone and usual.common_contrasts == 0


def test_the_optimizer_and_schedule_of_masam_are_the_published_ones():
    settings = MASAM_B.training
    model = build_model(small_masam_config(sam=FROZEN_SMALL_SAM))
    optimizer = MaskSAMModule(model, settings, None, 0).configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    assert settings.warm_up == 250 and settings.loss.cross_entropy == 0.2
    assert settings.loss.dice == 0.8
    module = MaskSAMModule(model, settings.replace(warm_up=0), 1e6, 0)
    module.minutes_before = 5e5
    assert module.learning_rate() == pytest.approx(8e-4 * 0.5**7, rel=1e-3)


def test_checkpoints_of_older_versions_have_trained_the_decoder_from_the_first_step():
    module = MaskSAMModule(build_model(small_masksam_config()), TrainSettings(), None, 0)
    checkpoint: dict = {}
    module.on_save_checkpoint(checkpoint)
    del checkpoint["masksam"]["joined"]
    module.on_load_checkpoint(checkpoint)
    assert module.decoder_start == 0
    assert module.restarts == 1


def test_averaged_weights_are_applied_within_a_block_only():
    layer = torch.nn.Linear(2, 1, bias=False)
    averaged = AveragedWeights(layer, decay=0.9)
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1
    averaged.update(layer)
    with averaged.applied(layer):
        inside = layer.weight.detach().clone()
    decay = 2 / 11
    torch.testing.assert_close(inside, start + 1 - decay)
    torch.testing.assert_close(layer.weight.detach(), start + 1)


def test_compiled_steps_compute_the_same_and_are_set_aside_for_whole_volumes():
    torch.manual_seed(0)
    model = build_model(small_masksam_config())
    images = torch.randn(1, 1, *model.config.window)
    labels = torch.zeros(1, *model.config.window, dtype=torch.long)
    labels[:, 1:3, 4:12, 4:12] = 1

    def loss() -> torch.Tensor:
        rng = torch.Generator().manual_seed(0)
        return training_loss(model, images, labels, LossSettings(), rng)[0]

    expected = loss()
    expected.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    compile_steps(model, backend="eager")
    found = loss()
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for p, gradient in zip(
        (p for p in model.parameters() if p.grad is not None), gradients, strict=True
    ):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-2, atol=1e-4)
    compiled = {name for name in model.training_methods if name in model.__dict__}
    assert compiled == {"encode", "run_decoder"}
    with uncompiled(model):
        assert not compiled & set(model.__dict__)
    assert compiled <= set(model.__dict__)


def interrupt(cache: Path) -> None:
    cache.mkdir()
    raise KeyboardInterrupt


def test_the_compilers_cache_is_removed_at_the_end_and_kept_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    variable = "TORCHINDUCTOR_CACHE_DIR"
    monkeypatch.delenv(variable, raising=False)
    cache = tmp_path / "cache"
    with compiler_cache(cache):
        assert os.environ[variable] == str(cache)
        cache.mkdir()
    assert not cache.exists() and variable not in os.environ
    with pytest.raises(KeyboardInterrupt), compiler_cache(cache):
        interrupt(cache)
    assert cache.exists() and variable not in os.environ
    monkeypatch.setenv(variable, str(tmp_path / "mine"))
    with compiler_cache(cache):
        assert os.environ[variable] == str(tmp_path / "mine")

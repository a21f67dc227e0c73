"""What a training can start from, and how its steps can be compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling import build_model
from MaskSAMCore.presets.small import TINY
from MaskSAMCore.training.fit import FitOptions, fit
from MaskSAMCore.training.losses.masksam import LossSettings, training_loss
from MaskSAMCore.training.module import compile_steps, uncompiled
from MaskSAMCore.training.run_folder import BEST, TrainingRecord
from Testing.helpers.generated import write_dataset
from Testing.helpers.networks import small_masksam_config
from Testing.helpers.paths import ROOT
from Testing.helpers.short_run import SHORT, SMALL


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("generated"), 3)


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "first"
    fit(FitOptions(dataset, run, TINY, device="cpu", workers=0), lambda _: None, SMALL, SHORT)
    return run


def test_a_training_starts_from_the_weights_of_another(
    dataset: Path, trained: Path, tmp_path: Path
):
    """With a learning rate of 0 they stay what they were."""
    options = FitOptions(
        dataset, tmp_path / "run", TINY, device="cpu", workers=0, seed=5, weights=trained
    )
    fit(options, lambda _: None, SMALL, {**SHORT, "learning_rate": 0.0})
    before, after = load_file(trained / BEST), load_file(tmp_path / "run" / BEST)
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value)
    assert TrainingRecord.load(tmp_path / "run").facts["started_from"] == "first"


def test_weights_of_another_network_are_refused(dataset: Path, trained: Path, tmp_path: Path):
    wider = {**SMALL, "head_channels": 40}
    options = FitOptions(dataset, tmp_path / "run", TINY, device="cpu", workers=0, weights=trained)
    with pytest.raises(MaskSAMError, match=r"weights of another network: generator\.box_head"):
        fit(options, lambda _: None, wider, SHORT)
    empty = FitOptions(dataset, tmp_path / "other", TINY, device="cpu", workers=0, weights=tmp_path)
    with pytest.raises(MaskSAMError, match="holds no weights to start from"):
        fit(empty, lambda _: None, SMALL, SHORT)
    assert not (tmp_path / "run").exists() and not (tmp_path / "other").exists()


def test_a_damaged_file_of_weights_is_refused(dataset: Path, tmp_path: Path):
    (tmp_path / "weights.safetensors").write_bytes(b"no weights at all")
    options = FitOptions(dataset, tmp_path / "run", TINY, device="cpu", workers=0, weights=tmp_path)
    with pytest.raises(MaskSAMError, match=r"weights\.safetensors cannot be read"):
        fit(options, lambda _: None, SMALL, SHORT)


def test_compiled_steps_compute_the_same_and_step_aside_for_whole_volumes():
    torch.manual_seed(0)
    model = build_model(small_masksam_config())
    images = torch.randn(1, 1, *model.config.window)
    labels = torch.zeros(1, *model.config.window, dtype=torch.long)
    labels[:, 1:3, 4:12, 4:12] = 1

    def loss() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return training_loss(model, images, labels, LossSettings(), generator)[0]

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


def test_a_machine_that_cannot_compile_is_told_what_to_do(dataset: Path, tmp_path: Path):
    """In a process of its own, whose compiler is not there."""
    program = (
        "import sys; from pathlib import Path\n"
        "from MaskSAMCore.errors import MaskSAMError\n"
        "from MaskSAMCore.presets.small import TINY\n"
        "from MaskSAMCore.training.fit import FitOptions, fit\n"
        "from Testing.helpers.short_run import SHORT, SMALL\n"
        "options = FitOptions(Path(sys.argv[1]), Path(sys.argv[2]), TINY, device='cpu', workers=0,"
        " compiled=True)\n"
        "try: fit(options, lambda _: None, SMALL, SHORT)\n"
        "except MaskSAMError as error: print(error)\n"
    )
    environment = {
        **os.environ,
        "CXX": str(tmp_path / "no-compiler"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", program, str(dataset), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=True,
    )
    assert "cannot be compiled here" in done.stdout
    assert "train without --compile" in done.stdout

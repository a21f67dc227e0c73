"""Whole trainings: results, files, several processes, seeds and failures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
from safetensors.torch import load_file
from torch.testing import assert_close

from MaskSAMCore.cli.train import Report
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.presets.masam import MASAM_TINY
from MaskSAMCore.presets.small import COMPACT_DECODER, TINY
from MaskSAMCore.research.presets import UNET
from MaskSAMCore.training import fit as training
from MaskSAMCore.training.fit import FitOptions, fit
from MaskSAMCore.training.module import MaskSAMModule
from MaskSAMCore.training.preset import Preset
from MaskSAMCore.training.run_folder import BEST, CASES, TrainingRecord
from Testing.helpers.short_run import (
    QUICK,
    SHORT,
    SMALL,
    VALUES,
    checkpoint,
    dice_of,
    logged_losses,
)

# With this learning rate the loss soon becomes infinite or NaN.
DIVERGING = {**SHORT, "learning_rate": 1e30, "warm_up": 0}


def test_training_reaches_a_dice_that_an_untrained_model_cannot(trained: Path, dataset: Path):
    assert dice_of(trained, dataset) > 0.8
    assert dice_of(trained, dataset, trained=False) < 0.4
    validation = json.loads((trained / "validation.json").read_text(encoding="utf-8"))
    assert validation["dice"] > 0.8
    assert set(validation["largest_component"]) <= set(VALUES.values())


def test_a_run_writes_its_record_its_logs_and_its_curves(trained: Path):
    record = TrainingRecord.load(trained)
    assert record.classes == tuple(VALUES)
    assert record.values == tuple(VALUES.values())
    assert record.seed == 0
    assert record.settings.iterations == QUICK["iterations"]
    assert set(record.split) == {"train", "val"}
    losses = logged_losses(trained)
    assert losses[-1] < losses[0]
    assert list((trained / "logs/tensorboard").rglob("events.out.tfevents.*"))
    assert (trained / "curves.png").stat().st_size > 5000
    assert not list(trained.glob("*.part"))


def test_a_run_writes_the_statistics_of_its_training_cases(trained: Path):
    statistics = json.loads((trained / "fingerprint.json").read_text(encoding="utf-8"))
    assert set(statistics["cases"]) == set(TrainingRecord.load(trained).split["train"])
    assert statistics["foreground_intensities"]["MR0"]["max"] > 100


def test_a_folder_named_cases_is_kept_whether_a_training_fails_or_not(
    dataset: Path, tmp_path: Path
):
    data = Path(shutil.copytree(dataset, tmp_path / "cases"))
    before = sorted(data.rglob("*"))
    options = FitOptions(tmp_path / "none", tmp_path, TINY, device="cpu", workers=0)
    with pytest.raises(MaskSAMError, match="none"):
        fit(options, lambda _: None, SMALL, SHORT)
    assert sorted(data.rglob("*")) == before
    options = dataclasses.replace(options, dataset=data)
    fit(options, lambda _: None, SMALL, {**SHORT, "iterations": 1})
    assert sorted(data.rglob("*")) == before and not (tmp_path / CASES).exists()


LATE_DECODER = dataclasses.replace(UNET, training=UNET.training.replace(generator_first=0.5))
LATE_LONE_DECODER = dataclasses.replace(
    COMPACT_DECODER, training=COMPACT_DECODER.training.replace(generator_first=0.5)
)


@pytest.mark.parametrize(
    ("preset", "more", "network", "message"),
    [
        (LATE_LONE_DECODER, {"weights": Path()}, {}, "no prompt generator to train first"),
        (TINY, {}, {"adapter_ratio": 0.0}, "the network of preset 'tiny' cannot be built: "),
        (TINY, {"accumulate": 3}, {}, "choose a --batch that is a multiple of 3"),
        (
            LATE_DECODER,
            {},
            {},
            "'unet' has no prompt generator to train first",
        ),
        (UNET, {"gradient_checkpointing": True}, {}, "leave --gradient-checkpointing out"),
    ],
)
def test_a_training_that_cannot_make_a_step_is_refused_before_any_case_is_read(
    preset: Preset,
    more: dict[str, Any],
    network: dict[str, Any],
    message: str,
    dataset: Path,
    tmp_path: Path,
):
    lines: list[str] = []
    with pytest.raises(MaskSAMError, match=message) as error:
        fit(FitOptions(dataset, tmp_path / "run", preset, **more), lines.append, network)
    assert ("checkpointing" in str(error.value)) == ("gradient_checkpointing" in more)
    assert not lines and not (tmp_path / "run").exists()


def test_fewer_queries_than_classes_are_refused_before_any_run(dataset: Path, tmp_path: Path):
    options = FitOptions(dataset, tmp_path / "run", TINY, device="cpu", workers=0)
    message = "queries must be at least 3, one for each class and one for the background, not 2"
    with pytest.raises(MaskSAMError, match=message):
        fit(options, lambda _: None, {**SMALL, "queries": 2}, SHORT)
    assert not (tmp_path / "run").exists()


def test_windows_of_a_single_token_are_refused_before_any_run(dataset: Path, tmp_path: Path):
    options = FitOptions(dataset, tmp_path / "run", TINY, spacing=(500, 500, 500), device="cpu")
    with pytest.raises(MaskSAMError, match="a window of 1 x 4 x 4 voxels is a single token"):
        fit(options, lambda _: None, SMALL, SHORT)
    assert not (tmp_path / "run").exists()


def test_a_training_that_cannot_begin_leaves_no_cases_in_a_folder_that_existed(
    trained: Path, dataset: Path, tmp_path: Path
):
    (tmp_path / "mine.txt").write_text("mine")
    # The weights are of a network with other widths.
    options = FitOptions(dataset, tmp_path, TINY, device="cpu", workers=0, weights=trained)
    with pytest.raises(MaskSAMError, match="holds the weights of another network"):
        fit(options, lambda _: None, {**SMALL, "head_channels": 16}, SHORT)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_existing_run_is_neither_overwritten_nor_resumed_from_nothing(
    trained: Path, dataset: Path, tmp_path: Path
):
    with pytest.raises(MaskSAMError, match="already holds a training: add --resume"):
        fit(FitOptions(dataset, trained, TINY))
    with pytest.raises(MaskSAMError, match="holds no training to resume"):
        fit(FitOptions(dataset, tmp_path / "none", resume=True))


def test_a_loss_that_is_not_finite_ends_the_training_with_one_line(dataset: Path, tmp_path: Path):
    options = FitOptions(dataset, tmp_path / "run", TINY, device="cpu", workers=0)
    with pytest.raises(MaskSAMError, match=r"the loss is not finite at iteration [1-5]") as report:
        fit(options, lambda _: None, SMALL, DIVERGING)
    assert "\n" not in str(report.value)


def test_a_killed_process_that_prepares_windows_ends_the_training_with_one_line(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def step(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(MaskSAMModule, "training_step", step)
    options = FitOptions(dataset, tmp_path / "run", TINY, device="cpu", workers=0)
    with pytest.raises(MaskSAMError, match="continue with --resume and fewer --workers"):
        fit(options, lambda _: None, SMALL, QUICK)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_case_damaged_during_the_training_ends_it_with_one_line(
    workers: int, dataset: Path, tmp_path: Path
):
    run = tmp_path / "run"

    def damage(line: str) -> None:
        if "trained parameters" in line:
            for path in (run / CASES).glob("*/voxels.npy"):
                path.unlink()

    options = FitOptions(dataset, run, TINY, device="cpu", workers=workers)
    with pytest.raises(MaskSAMError, match=r"^\S+voxels\.npy is missing or damaged: ") as report:
        fit(options, damage, SMALL, SHORT)
    assert "\n" not in str(report.value)


def test_the_same_seed_gives_the_same_losses_and_another_one_others(dataset: Path, tmp_path: Path):
    def losses(name: str, seed: int) -> list[float]:
        run = tmp_path / name
        options = FitOptions(dataset, run, TINY, device="cpu", workers=0, seed=seed)
        fit(options, lambda _: None, SMALL, SHORT)
        return logged_losses(run)

    first = losses("one", 3)
    assert first
    assert first == losses("two", 3)
    assert first != losses("three", 4)


def test_a_training_starts_from_the_weights_of_another(
    dataset: Path, trained: Path, tmp_path: Path
):
    run = tmp_path / "run"
    options = FitOptions(dataset, run, TINY, device="cpu", workers=0, seed=5, weights=trained)
    # With a learning rate of 0 the initial weights do not change.
    fit(options, lambda _: None, SMALL, {**SHORT, "learning_rate": 0.0, "iterations": 1})
    before, after = load_file(trained / BEST), load_file(run / BEST)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert_close(after[name], value)
    assert TrainingRecord.load(run).facts["started_from"] == trained.name


def test_a_training_whose_initial_weights_do_not_fit_leaves_no_folder(
    dataset: Path, trained: Path, tmp_path: Path
):
    options = FitOptions(dataset, tmp_path / "run", TINY, device="cpu", workers=0, weights=trained)
    with pytest.raises(MaskSAMError, match=r"weights of another network: generator\.box_head"):
        fit(options, lambda _: None, {**SMALL, "head_channels": 40}, SHORT)
    assert not (tmp_path / "run").exists()


def test_a_decoder_that_is_trained_alone_keeps_the_encoder_and_the_prompt_generator(
    dataset: Path, trained: Path, tmp_path: Path
):
    run = tmp_path / "run"
    boxes = {"mask_prompt": "box", "box_kinds": True, "generator_maps": True}
    preset = dataclasses.replace(COMPACT_DECODER, network=TINY.network.replace(**boxes))
    options = FitOptions(dataset, run, preset, device="cpu", workers=0, weights=trained)
    fit(options, lambda _: None, SMALL, SHORT)
    before, after = load_file(trained / BEST), load_file(run / BEST)
    changed = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert changed and all(
        name.startswith(("decoder.", "sam.mask_decoder.", "sam.prompt_encoder."))
        for name in changed
    )
    assert after["decoder.from_fine.weight"].any()


def digest(tensors: Iterable[torch.Tensor]) -> str:
    """Return a hash of the values of tensors."""
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(tensor.detach().numpy().tobytes())
    return whole.hexdigest()


class DigestingModule(MaskSAMModule):
    """Module that writes hashes of a process's last windows and weights to a folder."""

    folder: Path
    images: str

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        self.images = digest([batch[0]])
        return super().training_step(batch, index)

    def on_train_end(self) -> None:
        values = {
            "steps": self.global_step,
            "images": self.images,
            "weights": digest(self.model.trained_parameters().values()),
            "averages": digest(self.averaged.values.values()),
        }
        path = self.folder / f"rank{self.global_rank}.json"
        path.write_text(json.dumps(values), encoding="utf-8")


def test_two_processes_train_together_and_keep_the_same_weights(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    """Processes train on different windows: weights agree only if gradients are averaged."""

    def digesting(*arguments: Any) -> DigestingModule:
        module = DigestingModule(*arguments)
        module.folder = tmp_path
        return module

    monkeypatch.setattr(training, "MaskSAMModule", digesting)
    run = tmp_path / "run"
    options = FitOptions(dataset, run, TINY, device="cpu", devices=2, workers=0)
    fit(options, Report(time.monotonic()), SMALL, SHORT)
    assert "on 2 x cpu" in capfd.readouterr().out
    first, second = (
        json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)
    )
    assert first["steps"] == second["steps"] == SHORT["iterations"]
    assert first["images"] != second["images"]
    assert first["weights"] == second["weights"]
    assert first["averages"] == second["averages"]
    assert (run / BEST).is_file()
    assert checkpoint(run)["global_step"] == SHORT["iterations"]


def test_an_error_in_one_of_two_processes_is_one_line_and_leaves_no_temporary_files(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    options = FitOptions(dataset, tmp_path / "run", TINY, device="cpu", devices=2, workers=0)
    with pytest.raises(MaskSAMError, match="the loss is not finite at iteration") as report:
        fit(options, str, SMALL, DIVERGING)
    assert "\n" not in str(report.value)
    assert not list(temporary.iterdir())


def test_the_error_on_a_machine_without_a_compiler_advises_against_compile(
    dataset: Path, tmp_path: Path
):
    run = tmp_path / "run"
    options = FitOptions(dataset, run, MASAM_TINY, device="cpu", workers=0, compiled=True)
    sam = dataclasses.replace(SMALL["sam"], depth=1, global_attn_indexes=(0,))
    network = {"window": (5, 28, 32), "sam": sam, "rank": 4, "adapter_dim": 16}
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, str(tmp_path / "no-compiler"))}),
        pytest.raises(MaskSAMError, match=r"cannot be compiled here .* train without --compile"),
    ):
        fit(options, lambda _: None, network, SHORT)

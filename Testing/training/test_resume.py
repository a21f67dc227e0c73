"""Resumed trainings keep their seed, budget, dataset and SAM, also after a kill."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from MaskSAMCore.data.splits import Fold
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import sha256
from MaskSAMCore.modeling import build_model
from MaskSAMCore.presets import find_preset
from MaskSAMCore.presets.small import TINY
from MaskSAMCore.training.checkpoint import CHECKPOINTS, newest_checkpoint
from MaskSAMCore.training.fit import FitOptions, fit
from MaskSAMCore.training.overrides import change_preset
from MaskSAMCore.training.run_folder import BEST, LAST, RUN_FILE, TrainingRecord
from Testing.helpers.paths import ROOT
from Testing.helpers.short_run import (
    FROZEN,
    QUICK,
    SHORT,
    SMALL,
    ShortRun,
    checkpoint,
    logged_losses,
)


@pytest.fixture
def copied(short: ShortRun, tmp_path: Path) -> Path:
    return Path(shutil.copytree(short.run, tmp_path / "run"))


def resume(short: ShortRun, run: Path, **changes: object) -> list[str]:
    """Resume a run and return the lines that it reports."""
    lines: list[str] = []
    options = FitOptions(short.dataset, run, device="cpu", workers=0, resume=True)
    fit(dataclasses.replace(options, **changes), lines.append)
    return lines


def test_a_killed_training_continues_from_its_checkpoint(dataset: Path, tmp_path: Path):
    run, script = tmp_path / "run", tmp_path / "go.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from MaskSAMCore.presets.small import TINY\n"
        "from MaskSAMCore.training.fit import FitOptions, fit\n"
        "from Testing.helpers.short_run import QUICK, SMALL\n"
        "if __name__ == '__main__':\n"
        "    fit(FitOptions(Path(sys.argv[1]), Path(sys.argv[2]), TINY, device='cpu', workers=0,"
        " checkpoint_seconds=0), config_changes=SMALL,"
        " settings_changes={**QUICK, 'iterations': 100000})\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(script), str(dataset), str(run)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 600
        while not all((run / name).is_file() for name in CHECKPOINTS):
            assert process.poll() is None, "the training ended by itself"
            if time.monotonic() > deadline:
                pytest.fail("no checkpoint was written")
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    before = checkpoint(run)
    reached = before["global_step"]
    assert reached > 0
    # The run's own record says 100000 iterations; this time budget ends it after one step.
    budget = before["masksam"]["minutes"] + 1e-6
    fit(FitOptions(dataset, run, device="cpu", workers=0, resume=True, max_minutes=budget))
    after = checkpoint(run)
    assert after["global_step"] > reached
    assert after["masksam"]["restarts"] == 1
    assert after["masksam"]["averaged"]["steps"] == after["global_step"]
    assert (run / BEST).is_file()


def test_a_run_stopped_before_its_first_checkpoint_starts_again_with_its_own_seed(
    short: ShortRun, copied: Path
):
    for name in CHECKPOINTS:
        (copied / name).unlink(missing_ok=True)
    resume(short, copied, seed=77)
    assert logged_losses(copied, 0)
    assert logged_losses(copied, 1) == logged_losses(copied, 0)


def test_a_run_stopped_before_its_first_checkpoint_starts_again_from_the_weights_of_its_model(
    short: ShortRun, tmp_path: Path
):
    run = tmp_path / "run"
    options = FitOptions(
        short.dataset, run, TINY, device="cpu", workers=0, weights=short.run, stop_after=0.0
    )
    fit(options, str, SMALL, {**SHORT, "learning_rate": 0.0})
    for path in run.glob("*.ckpt"):
        path.unlink()
    record = (run / RUN_FILE).read_bytes()
    message = r"stopped before its first checkpoint: give the --from of its first command again"
    with pytest.raises(MaskSAMError, match=rf"{message} \('run'\)"):
        resume(short, run)
    assert (run / RUN_FILE).read_bytes() == record
    resume(short, run, weights=short.run)
    before, after = load_file(short.run / BEST), load_file(run / BEST)
    for name, value in before.items():
        assert_close(after[name], value)
    # With a checkpoint the option may be left out.
    resume(short, run)


def test_a_run_whose_checkpoints_are_damaged_is_not_trained_anew(short: ShortRun, copied: Path):
    for path in copied.glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(MaskSAMError, match="cannot be read: restore a copy"):
        resume(short, copied)


def test_a_budget_given_on_resuming_is_kept_for_the_next_resume(short: ShortRun, copied: Path):
    assert TrainingRecord.load(copied).facts["max_minutes"] is None
    # This budget is used up already: the training ends after one step.
    lines = resume(short, copied, max_minutes=0.001)
    assert any("seed 5, 0.001 minutes" in line for line in lines)
    assert TrainingRecord.load(copied).facts["max_minutes"] == 0.001
    assert any("seed 5, 0.001 minutes" in line for line in resume(short, copied))


def test_options_that_the_run_was_not_begun_with_are_refused(short: ShortRun, copied: Path):
    split = {"train": ["case_01", "case_02"], "val": ["case_00"]}
    file = copied.parent / "splits.json"
    file.write_text(json.dumps(split), encoding="utf-8")
    record = (copied / RUN_FILE).read_bytes()
    for changes, option in (
        ({"preset": find_preset("compact")}, "--preset tiny --recipe ours: give these again"),
        ({"preset": change_preset(TINY, ["queries=6"])}, "another --set"),
        ({"orientation": "RSA"}, "another --orientation"),
        ({"spacing": (2.0, 1.0, 1.0)}, "another --spacing"),
        ({"patch": (8, 16, 16)}, "another --patch"),
        ({"weights": copied}, "another --from"),
        ({"fold": Fold(1)}, "another --fold"),
        ({"splits": file}, "another --splits"),
    ):
        with pytest.raises(MaskSAMError, match=f"run was begun with {option}"):
            resume(short, copied, **changes)
    options = FitOptions(short.dataset, copied, device="cpu", workers=0, resume=True)
    with pytest.raises(MaskSAMError, match="run was begun with another --learning-rate: leave"):
        fit(options, lambda _: None, settings_changes={"learning_rate": 0.123})
    assert (copied / RUN_FILE).read_bytes() == record


def test_options_of_the_first_command_may_be_repeated(dataset: Path, tmp_path: Path):
    split = {"train": ["case_01", "case_02"], "val": ["case_00"]}
    file = tmp_path / "splits.json"
    file.write_text(json.dumps(split), encoding="utf-8")
    preset = change_preset(TINY, ["loss.semantic=0.5"])
    options = FitOptions(
        dataset,
        tmp_path / "run",
        preset,
        splits=file,
        orientation="RSA",
        spacing=(2.0, 1.0, 1.0),
        device="cpu",
        workers=0,
    )
    settings = {**QUICK, "iterations": 1}
    for again in (False, True):
        fit(dataclasses.replace(options, resume=again), str, SMALL, settings)
    assert checkpoint(tmp_path / "run")["masksam"]["restarts"] == 1


def test_another_dataset_is_refused_before_it_is_read(short: ShortRun, copied: Path):
    with pytest.raises(MaskSAMError, match="was trained on 'data', not on 'other'"):
        resume(short, copied, dataset=copied.parent / "other")


def test_a_dataset_that_was_moved_is_found_where_the_training_was_resumed(
    short: ShortRun, copied: Path, tmp_path: Path
):
    moved = shutil.copytree(short.dataset, tmp_path / "moved" / short.dataset.name)
    resume(short, copied, dataset=moved)
    assert TrainingRecord.load(copied).folder == str(moved)


def test_a_dataset_whose_classes_have_changed_is_refused(short: ShortRun, copied: Path):
    data = Path(shutil.copytree(short.dataset, copied.parent / "data"))
    description = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    description["labels"] = {"background": 0, "Bright": 10, "Darkest": 300}
    (data / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(MaskSAMError, match="the run was started with Bright, Dark"):
        resume(short, copied, dataset=data)
    description["labels"] = {"background": 0, "Bright": 10, "Dark": 301}
    (data / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(MaskSAMError, match="the values 10, 301, but the run was started with 10"):
        resume(short, copied, dataset=data)


def test_worse_weights_after_a_resume_do_not_replace_the_best_ones(short: ShortRun, copied: Path):
    path = copied / "validation.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, "dice": 0.99}), encoding="utf-8")
    # The checkpoint is older than the validation, as after a kill.
    reached = newest_checkpoint(copied)
    assert reached is not None
    state = checkpoint(copied)
    state["masksam"]["best_dice"] = -1.0
    torch.save(state, reached.path)
    before = (copied / BEST).read_bytes()
    resume(short, copied, max_minutes=0.001)
    assert (copied / BEST).read_bytes() == before
    assert (copied / LAST).read_bytes() != before
    assert json.loads(path.read_text(encoding="utf-8"))["dice"] == 0.99


def test_a_run_beside_a_frozen_sam_continues_with_the_same_sam_only(
    short: ShortRun, tmp_path: Path
):
    model = build_model(dataclasses.replace(TINY.network, num_classes=2, **FROZEN))
    right, wrong = tmp_path / "sam.pth", tmp_path / "other.pth"
    torch.save(model.sam.state_dict(), right)
    torch.save({name: value + 1 for name, value in model.sam.state_dict().items()}, wrong)
    run = tmp_path / "run"
    options = FitOptions(short.dataset, run, TINY, device="cpu", workers=0, sam_checkpoint=right)
    fit(options, lambda _: None, FROZEN, {**SHORT, "iterations": 1})
    assert TrainingRecord.load(run).facts["sam_sha256"] == sha256(right)
    again = dataclasses.replace(options, resume=True)
    with pytest.raises(MaskSAMError, match=f"{sha256(wrong)}.* must be {sha256(right)}"):
        fit(dataclasses.replace(again, sam_checkpoint=wrong))
    # Records of older versions lack the SHA-256: they take any SAM that fits, and note it.
    values = json.loads((run / RUN_FILE).read_text(encoding="utf-8"))
    del values["facts"]["sam_sha256"]
    (run / RUN_FILE).write_text(json.dumps(values), encoding="utf-8")
    fit(dataclasses.replace(again, max_minutes=0.001), lambda _: None)
    assert TrainingRecord.load(run).facts["sam_sha256"] == sha256(right)

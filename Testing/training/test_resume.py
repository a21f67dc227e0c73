"""Going on with a run: its own seed, budget, dataset and SAM, and never worse weights."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from datetime import timedelta
from pathlib import Path

import lightning
import pytest
import torch

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import sha256
from MaskSAMCore.modeling import build_model
from MaskSAMCore.modeling.masksam.config import MaskSAMConfig
from MaskSAMCore.modeling.sam.build import build_sam
from MaskSAMCore.presets.small import TINY
from MaskSAMCore.training.callbacks import (
    CHECKPOINTS,
    BestWeightsSaver,
    ResumableCheckpoints,
    Validation,
    newest_checkpoint,
)
from MaskSAMCore.training.devices import strategy
from MaskSAMCore.training.fit import FitOptions, fit
from MaskSAMCore.training.module import MaskSAMModule
from MaskSAMCore.training.run_folder import BEST, LAST, RUN_FILE, TrainingRecord, best_dice
from MaskSAMCore.training.validation import Scores
from Testing.helpers.networks import small_masksam_config
from Testing.helpers.short_run import FROZEN, SHORT, SMALL, write_gapped_dataset


@dataclasses.dataclass
class Short:
    """A run with seed 5, and how far the newest checkpoint was at each validation."""

    dataset: Path
    run: Path
    checkpoints: list[int]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Short:
    folder = tmp_path_factory.mktemp("short")
    made = Short(write_gapped_dataset(folder / "data"), folder / "run", [])

    def report(line: str) -> None:
        if line.startswith("validation Dice"):
            found = newest_checkpoint(made.run)
            step = torch.load(found, weights_only=True)["global_step"] if found else 0
            made.checkpoints.append(step)

    options = FitOptions(
        made.dataset,
        made.run,
        TINY,
        device="cpu",
        workers=0,
        seed=5,
        checkpoint_seconds=1e9,
        validation_minutes=1e-6,
    )
    fit(options, report, SMALL, SHORT)
    return made


@pytest.fixture
def copied(short: Short, tmp_path: Path) -> Path:
    return Path(shutil.copytree(short.run, tmp_path / "run"))


def go_on(short: Short, run: Path, **changes: object) -> list[str]:
    lines: list[str] = []
    options = FitOptions(short.dataset, run, device="cpu", workers=0, resume=True)
    fit(dataclasses.replace(options, **changes), lines.append)
    return lines


def losses(run: Path, part: int) -> list[str]:
    path = run / f"logs/csv/version_{part}/metrics.csv"
    with path.open(newline="", encoding="utf-8") as stream:
        return [row["loss"] for row in csv.DictReader(stream) if row.get("loss")]


def test_a_checkpoint_is_written_before_each_validation(short: Short):
    # The last validation comes after the end, and its checkpoint with it.
    assert short.checkpoints == [1, 2, 3, 4, 5, 5]


def test_processes_wait_for_each_other_through_long_validations():
    assert strategy("cpu", 2)._timeout > timedelta(hours=12)
    assert strategy("cpu", 1) == "auto"


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_again_with_its_own_seed(
    short: Short, copied: Path
):
    for slot in CHECKPOINTS:
        (copied / slot).unlink(missing_ok=True)
    go_on(short, copied, seed=77)
    assert losses(copied, 0)
    assert losses(copied, 1) == losses(copied, 0)


def test_a_budget_given_on_resuming_is_kept_and_the_next_resume_has_it(short: Short, copied: Path):
    assert TrainingRecord.load(copied).facts["max_minutes"] is None
    # Long over: one step, and the end.
    lines = go_on(short, copied, max_minutes=0.001)
    assert any("seed 5, 0.001 minutes" in line for line in lines)
    assert TrainingRecord.load(copied).facts["max_minutes"] == 0.001
    assert any("seed 5, 0.001 minutes" in line for line in go_on(short, copied))


def test_another_dataset_is_refused_before_it_is_read(short: Short, copied: Path):
    with pytest.raises(MaskSAMError, match="was trained on 'data', not on 'other'"):
        go_on(short, copied, dataset=copied.parent / "other")


def test_a_dataset_whose_classes_were_changed_is_refused(short: Short, copied: Path):
    data = Path(shutil.copytree(short.dataset, copied.parent / "data"))
    description = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    description["labels"] = {"background": 0, "Bright": 10, "Darkest": 300}
    (data / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(MaskSAMError, match="the run was started with Bright, Dark"):
        go_on(short, copied, dataset=data)


def test_worse_weights_after_a_resume_leave_the_best_ones(short: Short, copied: Path):
    path = copied / "validation.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, "dice": 0.99}), encoding="utf-8")
    # The checkpoint knows of no validation yet, as after a kill.
    checkpoint = newest_checkpoint(copied)
    state = torch.load(checkpoint, weights_only=True)
    state["masksam"]["best_dice"] = -1.0
    torch.save(state, checkpoint)
    before = (copied / BEST).read_bytes()
    go_on(short, copied, max_minutes=0.001)
    assert (copied / BEST).read_bytes() == before
    assert (copied / LAST).read_bytes() != before
    assert json.loads(path.read_text(encoding="utf-8"))["dice"] == 0.99


def test_a_worse_validation_leaves_the_best_weights_also_after_a_kill(tmp_path: Path):
    """The kill comes right after a validation, before any later checkpoint knows of it."""

    def validate(dice: float, module: MaskSAMModule) -> bytes:
        validation = Validation(
            1,
            lambda *_: Scores({"One": dice}),
            BestWeightsSaver(tmp_path, lambda _: None),
            ResumableCheckpoints(tmp_path, 1),
        )
        with torch.no_grad():
            module.averaged.values["decoder.class_head.bias"].add_(1)
        trainer = lightning.Trainer(accelerator="cpu", devices=1, logger=False, barebones=True)
        validation.run(trainer, module)
        return (tmp_path / BEST).read_bytes()

    def module() -> MaskSAMModule:
        return MaskSAMModule(build_model(small_masksam_config()), TINY.training, None, 0)

    first = module()
    start = {"averaged": first.averaged.state_dict(), "minutes": 0, "restarts": 0, "best_dice": -1}
    weak = validate(0.3, first)
    strong = validate(0.6, first)
    assert strong != weak
    assert validate(0.5, first) == strong
    resumed = module()
    resumed.best_dice = best_dice(tmp_path)
    resumed.on_load_checkpoint({"masksam": start})
    assert validate(0.4, resumed) == strong
    assert validate(0.7, resumed) != strong
    # A kill between the weights and validation.json: the weights' own note counts.
    (tmp_path / "validation.json").unlink()
    assert best_dice(tmp_path) == pytest.approx(0.7)


def test_a_run_beside_a_frozen_sam_goes_on_with_the_same_weights_only(short: Short, tmp_path: Path):
    shape = MaskSAMConfig(num_classes=2, upsampling=1, stem_pyramid=True, **FROZEN)
    right, wrong = tmp_path / "sam.pth", tmp_path / "other.pth"
    torch.save(build_sam(shape.sam, shape.grid).state_dict(), right)
    torch.save(build_sam(shape.sam, shape.grid).state_dict(), wrong)
    run = tmp_path / "run"
    options = FitOptions(short.dataset, run, TINY, device="cpu", workers=0, sam_checkpoint=right)
    fit(options, lambda _: None, FROZEN, {**SHORT, "iterations": 1})
    assert TrainingRecord.load(run).facts["sam_sha256"] == sha256(right)
    again = dataclasses.replace(options, resume=True)
    with pytest.raises(MaskSAMError, match=f"{sha256(wrong)}.* must be {sha256(right)}"):
        fit(dataclasses.replace(again, sam_checkpoint=wrong))
    # A record from before the SAM was written down goes on with what it is given, and notes it.
    values = json.loads((run / RUN_FILE).read_text(encoding="utf-8"))
    del values["facts"]["sam_sha256"]
    (run / RUN_FILE).write_text(json.dumps(values), encoding="utf-8")
    fit(dataclasses.replace(again, max_minutes=0.001), lambda _: None)
    assert TrainingRecord.load(run).facts["sam_sha256"] == sha256(right)

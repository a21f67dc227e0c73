"""Checkpoints, validations and progress reports during a training."""

from __future__ import annotations

import time
from pathlib import Path

import lightning
import pytest
import torch

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling import build_model
from MaskSAMCore.presets.small import TINY
from MaskSAMCore.training.callbacks import (
    BestWeightsSaver,
    ResumableCheckpoints,
    Validation,
    format_duration,
)
from MaskSAMCore.training.module import MaskSAMModule
from MaskSAMCore.training.plots import draw_curves
from MaskSAMCore.training.run_folder import BEST, best_dice
from MaskSAMCore.training.validation import Scores
from Testing.helpers.networks import small_masksam_config
from Testing.helpers.short_run import SHORT, ShortRun, validated_steps


def test_a_checkpoint_is_written_before_each_validation(short: ShortRun):
    steps = validated_steps(short.run)
    # The last step is validated once, at the end of the training.
    assert steps == sorted(set(steps)) and steps[-1] == SHORT["iterations"]
    assert len(steps) > 1 and short.checkpoint_steps == steps


def test_classes_with_dollar_signs_in_their_names_have_curves(tmp_path: Path):
    logs = tmp_path / "logs" / "csv" / "version_0"
    logs.mkdir(parents=True)
    values = {"loss": 2.0, "minutes": 1.0, "val_dice": 0.5, "val_dice_$x_$": 0.5}
    lines = [",".join(values), ",".join(map(str, values.values()))]
    (logs / "metrics.csv").write_text("\n".join(lines), encoding="utf-8")
    assert draw_curves(tmp_path).is_file()


class Clock:
    """Clock whose seconds a test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


class Unsaved:
    """Saver of weights and checkpoints that writes nothing."""

    def save(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("share", "minutes", "validations"), [(0.1, 4.5, 4), (0.5, 0.5, 20), (1, 5, 3)]
)
def test_validations_take_their_share_of_the_time(
    share: float, minutes: float, validations: int, monkeypatch: pytest.MonkeyPatch
):
    """A training of 20 minutes with steps of 1 s, whose validation takes 30 s."""
    clock, seconds = Clock(), []
    monkeypatch.setattr(time, "monotonic", clock.monotonic)

    def evaluate(*_: object) -> Scores:
        seconds.append(30.0)
        clock.seconds += seconds[-1]
        return Scores({"One": 0.5})

    validation = Validation(share, minutes, evaluate, Unsaved(), Unsaved())
    trainer = lightning.Trainer(accelerator="cpu", devices=1, logger=False, barebones=True)
    module = MaskSAMModule(build_model(small_masksam_config()), TINY.training, 20, 0)
    while module.progress < 1:
        clock.seconds += 1
        validation.on_train_batch_end(trainer, module)
    validation.on_train_end(trainer, module)
    assert len(seconds) == validations
    assert sum(seconds) <= share * clock.seconds


def test_progress_is_reported_with_the_loss_the_best_dice_and_the_time_left(short: ShortRun):
    lines = [line for line in short.lines if "iteration" in line and "left" in line]
    assert len(lines) == SHORT["iterations"]
    assert "loss" in lines[-1] and "best validation Dice" in lines[-1]


def test_durations_are_written_in_words():
    seconds = (None, 45, 720, 11_100)
    expected = ["unknown time", "45 s", "12 min", "3 h 05 min"]
    assert [format_duration(each) for each in seconds] == expected


def test_a_worse_validation_keeps_the_best_weights_also_after_a_kill(tmp_path: Path):
    """The process is killed right after a validation that no checkpoint contains."""

    def validate(dice: float, module: MaskSAMModule) -> bytes:
        validation = Validation(
            0.1,
            1,
            lambda model, device: Scores({"One": dice}),
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
    # A kill may also leave weights without validation.json; the weights' metadata then counts.
    (tmp_path / "validation.json").unlink()
    assert best_dice(tmp_path) == pytest.approx(0.7)


def test_a_checkpoint_that_cannot_be_written_is_one_line_and_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trainer = lightning.Trainer(accelerator="cpu", devices=1, logger=False, barebones=True)

    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trainer, "save_checkpoint", full)
    with pytest.raises(MaskSAMError, match="free disk space, then continue with --resume"):
        ResumableCheckpoints(tmp_path, 1).save(trainer)
    assert list(tmp_path.iterdir()) == []

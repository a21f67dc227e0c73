"""Cross-validation: a training for each fold, resumed where it was stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.presets.small import TINY
from MaskSAMCore.training.fit import FitOptions
from MaskSAMCore.training.folds import fit_folds, fold_run, is_finished
from MaskSAMCore.training.overrides import change_preset
from MaskSAMCore.training.run_folder import BEST, LAST, TrainingRecord
from Testing.helpers.generated import write_dataset
from Testing.helpers.short_run import QUICK, SMALL, checkpoint

SETTINGS = {**QUICK, "iterations": 1}


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> tuple[FitOptions, list[str]]:
    """Train two folds for one iteration each; return their options and the reported lines."""
    folder = tmp_path_factory.mktemp("folds")
    data = write_dataset(folder / "data", cases=4)
    lines: list[str] = []
    options = FitOptions(data, folder / "runs", TINY, device="cpu", workers=0)
    fit_folds(options, 2, lines.append, SMALL, SETTINGS)
    return options, lines


def resumed(options: FitOptions, run: Path, count: int = 2) -> list[str]:
    """Resume the folds in a folder and return the lines that they report."""
    lines: list[str] = []
    changed = dataclasses.replace(options, run=run, resume=True)
    fit_folds(changed, count, lines.append, SMALL, SETTINGS)
    return lines


def test_every_case_is_validated_in_one_fold(crossed: tuple[FitOptions, list[str]]):
    options, lines = crossed
    records = [TrainingRecord.load(fold_run(options.run, index)) for index in range(2)]
    assert [record.facts["fold"] for record in records] == [0, 1]
    validated = [name for record in records for name in record.split["val"]]
    assert sorted(validated) == [f"case_{n:02d}" for n in range(4)]
    assert lines[-1].startswith("validation Dice over 2 folds: mean 0.")


def test_a_stopped_cross_validation_continues_with_the_fold_that_is_missing(
    crossed: tuple[FitOptions, list[str]], tmp_path: Path
):
    options, _ = crossed
    run = Path(shutil.copytree(options.run, tmp_path / "runs"))
    shutil.rmtree(fold_run(run, 1))
    kept = (fold_run(run, 0) / BEST).read_bytes()
    lines = resumed(options, run)
    assert any(line.startswith("fold 0 is finished: best validation Dice") for line in lines)
    assert (fold_run(run, 0) / BEST).read_bytes() == kept
    assert checkpoint(fold_run(run, 1))["global_step"] == 1


def test_a_fold_whose_last_validation_was_killed_is_not_finished(
    crossed: tuple[FitOptions, list[str]], tmp_path: Path
):
    run = Path(shutil.copytree(fold_run(crossed[0].run, 0), tmp_path / "run"))
    assert is_finished(run)
    weights = load_file(run / LAST)
    save_file(weights, run / LAST, {"val_dice": "0.5", "iteration": "0"})
    assert not is_finished(run)
    (run / LAST).unlink()
    assert not is_finished(run)


def test_a_cross_validation_is_not_begun_twice_or_resumed_with_other_options(
    crossed: tuple[FitOptions, list[str]],
):
    options, _ = crossed
    with pytest.raises(MaskSAMError, match="fold_0 already holds a training: add --resume"):
        fit_folds(options, 2, lambda _: None, SMALL, SETTINGS)
    other = dataclasses.replace(options, resume=True, seed=3)
    with pytest.raises(MaskSAMError, match="begun with --preset tiny --seed 0"):
        fit_folds(other, 2, lambda _: None, SMALL, SETTINGS)
    settings = {**SETTINGS, "learning_rate": 1e-4}
    with pytest.raises(MaskSAMError, match="begun with other hyperparameters"):
        fit_folds(dataclasses.replace(options, resume=True), 2, lambda _: None, SMALL, settings)


def test_folds_of_other_cases_or_options_are_never_mixed(
    crossed: tuple[FitOptions, list[str]], tmp_path: Path
):
    options, _ = crossed
    run = Path(shutil.copytree(options.run, tmp_path / "runs"))
    shutil.rmtree(fold_run(run, 1))
    other = shutil.copytree(options.dataset, tmp_path / "other")
    file = tmp_path / "splits_final.json"
    names = [f"case_{n:02d}" for n in range(4)]
    folds = [{"train": names[:2], "val": names[2:]}, {"train": names[2:], "val": names[:2]}]
    file.write_text(json.dumps(folds), encoding="utf-8")
    queries = change_preset(TINY, ["queries=6"])
    for changes, count, message in (
        ({}, 4, "fold_0 was begun with other cases: give the dataset, --folds and --splits"),
        ({"splits": file}, 2, "fold_0 was begun with other cases"),
        ({"dataset": Path(other)}, 2, "fold_0 was begun with other cases"),
        ({"orientation": "RSA"}, 2, "fold_0 was begun with another --orientation"),
        ({"spacing": (2.0, 1.0, 1.0)}, 2, "fold_0 was begun with another --spacing"),
        ({"patch": (8, 16, 16)}, 2, "fold_0 was begun with another --patch"),
        ({"weights": fold_run(run, 0)}, 2, "fold_0 was begun with another --from"),
        ({"preset": queries}, 2, "fold_0 was begun with another --set"),
    ):
        with pytest.raises(MaskSAMError, match=message):
            resumed(dataclasses.replace(options, **changes), run, count)
    assert not fold_run(run, 1).exists()


def test_a_run_trains_the_fold_of_its_split_file(
    crossed: tuple[FitOptions, list[str]], tmp_path: Path
):
    options, _ = crossed
    folds = [
        {"train": ["case_00"], "val": ["case_01"]},
        {"train": ["case_02"], "val": ["case_03"]},
        {"train": ["case_03"], "val": ["case_00"]},
    ]
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps(folds), encoding="utf-8")
    changed = dataclasses.replace(options, run=tmp_path / "runs", splits=file)
    with pytest.raises(MaskSAMError, match=r"has the folds 0 to 2.*--folds 3"):
        fit_folds(changed, 2, lambda _: None, SMALL, SETTINGS)
    file.write_text(json.dumps(folds[:2]), encoding="utf-8")
    fit_folds(changed, 2, lambda _: None, SMALL, SETTINGS)
    assert TrainingRecord.load(fold_run(changed.run, 1)).split == folds[1]


def test_a_cross_validation_that_is_stopped_begins_no_further_fold(
    crossed: tuple[FitOptions, list[str]], tmp_path: Path
):
    options = dataclasses.replace(crossed[0], run=tmp_path / "runs", stop_after=0.0)
    lines: list[str] = []
    fit_folds(options, 2, lines.append, SMALL, {**SETTINGS, "iterations": 2})
    assert lines[-1] == "stopped at iteration 1: continue with --resume"
    assert not fold_run(options.run, 1).exists()


def test_further_folds_have_the_budget_of_the_one_that_is_continued(
    crossed: tuple[FitOptions, list[str]], tmp_path: Path
):
    """Without it they would train for all iterations of the preset."""
    settings = {**QUICK, "iterations": 50}
    options = dataclasses.replace(crossed[0], run=tmp_path / "runs", stop_after=0.0)
    fit_folds(options, 2, str, SMALL, settings)
    begun = fold_run(options.run, 0)
    # This budget is used up already: each fold ends after one step.
    TrainingRecord.load(begun).with_facts(max_minutes=1e-4).save(begun)
    fit_folds(dataclasses.replace(options, stop_after=None, resume=True), 2, str, SMALL, settings)
    assert TrainingRecord.load(fold_run(options.run, 1)).max_minutes == 1e-4


def test_validations_of_further_folds_may_be_as_frequent_as_the_user_likes(
    crossed: tuple[FitOptions, list[str]], tmp_path: Path
):
    run = Path(shutil.copytree(crossed[0].run, tmp_path / "runs"))
    shutil.rmtree(fold_run(run, 1))
    resumed(dataclasses.replace(crossed[0], validation_minutes=3.0), run)
    found = [TrainingRecord.load(fold_run(run, index)).settings for index in range(2)]
    assert [settings.validation_minutes for settings in found] == [4.0, 3.0]


def test_ctrl_c_in_the_last_validation_of_a_fold_begins_no_further_fold(
    crossed: tuple[FitOptions, list[str]], tmp_path: Path
):
    options = dataclasses.replace(crossed[0], run=tmp_path / "runs")

    def press(line: str) -> None:
        if line.startswith("validation Dice"):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit_folds(options, 2, press, SMALL, SETTINGS)
    assert is_finished(fold_run(options.run, 0)) and not fold_run(options.run, 1).exists()
    assert any("fold 0 is finished" in line for line in resumed(options, options.run))
    assert is_finished(fold_run(options.run, 1))

"""Comparisons from end to end on generated volumes: stages, results, and continuation."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from MaskSAMCore.cli import main
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io import read_volume
from MaskSAMCore.io.standard_streams import print_line
from MaskSAMCore.presets.small import TINY
from MaskSAMCore.research.comparison import stage
from MaskSAMCore.research.comparison.compare import CompareOptions, compare, run_process
from MaskSAMCore.training.fit import FitOptions, fit
from MaskSAMCore.training.module import MaskSAMModule
from Testing.cli.helpers import without_reader
from Testing.helpers.generated import change_description
from Testing.helpers.short_run import QUICK, SMALL, VALUES, checkpoint, write_gapped_dataset

# With fewer iterations, no network finds both classes.
VERY_QUICK = {**QUICK, "iterations": 40, "learning_rate": 6e-3, "warm_up": 5, "ema": 0.9}


def run_here(job_file: Path) -> int:
    """Run a stage in the test's own process, which has already imported PyTorch."""
    return stage.main([str(job_file)])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_gapped_dataset(tmp_path_factory.mktemp("gapped") / "data", 6)
    names = [f"case_{n:02d}" for n in range(6)]
    split = {"train": names[:3], "val": names[3:4], "test": names[4:]}
    (folder / "splits.json").write_text(json.dumps(split), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "run"
    splits = dataset / "splits.json"
    options = FitOptions(dataset, run, TINY, splits=splits, device="cpu", workers=0)
    fit(options, lambda _: None, SMALL, VERY_QUICK)
    return run


@pytest.fixture(scope="module")
def compared(
    dataset: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CompareOptions, list[str]]:
    """Return the options and reported lines of a comparison of a given run, a new training, a
    checkpoint that is not installed, and a training that fails."""
    output = tmp_path_factory.mktemp("compared") / "out"
    options = CompareOptions(
        dataset,
        output,
        systems=("mine", "mine-box", "mine-boxes", "masam", "sam-boxes", "acdc"),
        splits=dataset / "splits.json",
        max_minutes=0.02,
        device="cpu",
        workers=0,
        runs={"mine": trained},
        command="masksam compare …",
    )
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKSAM_HOME", str(output.parent / "home"))
        compare(options, lines.append, run_here)
    return options, lines


def read_table(output: Path) -> dict[str, dict[str, str]]:
    """Return the lines of ``comparison.csv`` by system."""
    with (output / "comparison.csv").open(encoding="utf-8") as stream:
        return {line["system"]: line for line in csv.DictReader(stream)}


def test_every_system_has_a_row_and_a_failure_stops_no_other(compared):
    options, lines = compared
    found = read_table(options.output)
    assert list(found) == list(options.systems)
    for name in ("mine", "mine-box", "mine-boxes", "masam"):
        assert found[name]["problem"] == ""
        assert 0 <= float(found[name]["dice mean"]) <= 1
        assert float(found[name]["seconds a volume"]) > 0
        assert float(found[name]["peak memory bytes"]) > 2**20
        assert 0 < float(found[name]["tunable"]) <= float(found[name]["total"])
    assert "'sam_vit_b' is not installed" in found["sam-boxes"]["problem"]
    assert "give its official weights" in found["acdc"]["problem"]
    assert sum("is left out" in line for line in lines) == 2


def test_held_out_cases_are_evaluated_in_the_values_of_the_dataset(compared, dataset: Path):
    options, _ = compared
    folder = options.output / "systems" / "mine" / "predictions"
    assert sorted(p.name for p in folder.iterdir()) == ["case_04.nii.gz", "case_05.nii.gz"]
    values = np.unique(read_volume(folder / "case_04.nii.gz").array)
    assert set(values.tolist()) == {0, *VALUES.values()}
    text = (options.output / "comparison.md").read_text(encoding="utf-8")
    assert "2 test cases" in text and "chose its best weights on" not in text
    with (options.output / "cases.csv").open(encoding="utf-8") as stream:
        cases = list(csv.DictReader(stream))
    mean = np.mean([float(case["mine"]) for case in cases])
    assert float(read_table(options.output)["mine"]["dice mean"]) == pytest.approx(mean)
    summary = json.loads((options.output / "systems/mine/summary.json").read_text())
    found = [summary["mean"][str(value)]["Dice"] for value in VALUES.values()]
    assert float(read_table(options.output)["mine"]["dice Bright"]) == pytest.approx(found[0])


def test_a_system_with_boxes_stays_inside_those_of_the_reference(compared, dataset: Path):
    options, _ = compared
    root = options.output / "systems"
    changed = 0
    for case in ("case_04", "case_05"):
        truth = read_volume(dataset / f"labelsTr/{case}.nii.gz").array
        automatic = read_volume(root / f"mine/predictions/{case}.nii.gz").array
        for value in VALUES.values():
            k, j, i = np.nonzero(truth == value)
            for system in ("mine-box", "mine-boxes"):
                found = read_volume(root / f"{system}/predictions/{case}.nii.gz").array
                mask = found == value
                assert mask.any()
                outside = mask.copy()
                outside[k.min() : k.max() + 1, j.min() : j.max() + 1, i.min() : i.max() + 1] = False
                assert not outside.any()
                changed += int((mask != (automatic == value)).sum())
    assert changed > 0


def test_only_missing_predictions_are_made_again(compared, dataset: Path):
    options, _ = compared
    files = sorted((options.output / "systems").rglob("*.nii.gz"))
    before = [path.stat().st_mtime_ns for path in files]
    files[0].unlink()
    fewer = dataclasses.replace(options, systems=("masam", "mine"))
    lines: list[str] = []
    # The stage runs in its own process, as in every real comparison.
    rows = compare(fewer, lines.append)
    assert not any(line.startswith("training") for line in lines)
    after = [path.stat().st_mtime_ns for path in files]
    assert [a == b for a, b in zip(after, before, strict=True)].count(False) == 1
    assert [row.problem for row in rows] == ["", ""]


def test_other_terms_and_training_cases_of_a_given_run_are_refused(
    compared, dataset: Path, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    options, _ = compared
    common = ["compare", str(dataset), "--systems", "mine", "--run", f"mine={trained}"]
    common += ["--device", "cpu", "--max-minutes", "0.02"]
    split = ["--splits", str(dataset / "splits.json")]
    other = tmp_path / "other.json"
    names = json.loads((dataset / "splits.json").read_text())
    other.write_text(
        json.dumps({**names, "train": names["val"], "val": names["train"], "test": []})
    )
    for more, message in (
        ([*split, "-o", str(options.output), "--seed", "4"], "a comparison with another seed"),
        (["--splits", str(other), "-o", str(tmp_path / "a")], "trained on cases of the comparison"),
        ([*split, "-o", str(tmp_path / "b"), "--run", "mine"], "does not have the form --run NAME"),
    ):
        assert main([*common, *more]) == 2
        error = capfd.readouterr().err.strip()
        assert error.startswith("masksam: error: ") and message in error
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("changed", [{"Brightest": 10, "Dark": 300}, {"Bright": 10, "Dark": 301}])
def test_a_given_run_with_other_names_or_values_of_classes_is_refused(
    changed: dict[str, int], dataset: Path, trained: Path, tmp_path: Path
):
    data = Path(shutil.copytree(dataset, tmp_path / "data"))
    change_description(data, labels={"background": 0, **changed})
    options = CompareOptions(
        data, tmp_path / "out", systems=("mine",), device="cpu", runs={"mine": trained}
    )
    found = ", ".join(f"{name} \\({value}\\)" for name, value in changed.items())
    message = rf"classes Bright \(10\), Dark \(300\), but the dataset has {found}"
    with pytest.raises(MaskSAMError, match=message):
        compare(options, lambda _: None, run_here)
    assert not options.output.exists()


def test_a_comparison_of_labelmaps_without_images_is_refused_before_any_training(
    dataset: Path, tmp_path: Path
):
    maps = Path(shutil.copytree(dataset, tmp_path / "maps"))
    shutil.rmtree(maps / "imagesTr")
    options = CompareOptions(maps, tmp_path / "out", systems=("masksam",), device="cpu")
    with pytest.raises(MaskSAMError, match="maps has only labelmaps"):
        compare(options, lambda _: None, run_here)
    assert not options.output.exists()


def test_a_name_stands_for_one_preset(compared, tmp_path: Path):
    options, _ = compared
    output = Path(shutil.copytree(options.output, tmp_path / "out"))
    other = dataclasses.replace(
        options, output=output, systems=("masam",), runs={}, presets={"masam": "tiny"}
    )
    with pytest.raises(MaskSAMError, match="has 'masam' with the preset masam_tiny, not tiny"):
        compare(other, lambda _: None, run_here)


def test_cases_are_segmented_again_with_other_weights_of_a_given_run(
    compared, dataset: Path, tmp_path: Path
):
    options, _ = compared
    output = Path(shutil.copytree(options.output, tmp_path / "out"))
    run, splits = tmp_path / "run", dataset / "splits.json"
    fit(
        FitOptions(dataset, run, TINY, splits=splits, device="cpu", workers=0, seed=3),
        lambda _: None,
        SMALL,
        {**VERY_QUICK, "iterations": 1},
    )
    changed = dataclasses.replace(options, output=output, systems=("mine",), runs={"mine": run})
    before = read_table(output)["mine"]["dice mean"]
    for again in (True, False):
        lines: list[str] = []
        compare(changed, lines.append, run_here)
        assert any(line.startswith("segmenting") for line in lines) == again
        assert read_table(output)["mine"]["dice mean"] != before
        assert read_table(output)["mine"]["network"] == str(run)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break in another way there")
def test_a_comparison_goes_on_when_the_reader_of_its_lines_has_ended(
    compared, tmp_path: Path, trained: Path
):
    """As in ``masksam compare ... | head``."""
    options, _ = compared
    changed = dataclasses.replace(options, output=tmp_path / "out", systems=("mine",))
    with without_reader("stdout"):
        compare(changed, print_line, run_here)
    assert read_table(changed.output)["mine"]["problem"] == ""


def test_a_given_run_that_was_validated_on_test_cases_is_noted(
    compared, dataset: Path, tmp_path: Path, trained: Path
):
    options, _ = compared
    names = json.loads((dataset / "splits.json").read_text())
    splits = tmp_path / "splits.json"
    # The run chose its weights on case_03.
    splits.write_text(json.dumps({**names, "val": names["test"], "test": names["val"]}))
    changed = dataclasses.replace(
        options, output=tmp_path / "out", systems=("mine",), splits=splits
    )
    compare(changed, lambda _: None, run_here)
    text = (tmp_path / "out/comparison.md").read_text(encoding="utf-8")
    assert "1 test cases" in text and "chose its best weights on" in text


def test_a_given_run_that_was_trained_on_other_cases_of_a_patient_is_refused(
    compared, dataset: Path, tmp_path: Path
):
    options, _ = compared
    data = Path(shutil.copytree(dataset, tmp_path / "data"))
    change_description(data, patients={"anna": ["case_00", "case_04"]})
    changed = dataclasses.replace(
        options,
        dataset=data,
        output=tmp_path / "out",
        systems=("mine",),
        splits=tmp_path / "splits.json",
    )
    split = {"train": ["case_01"], "val": ["case_02"], "test": ["case_04"]}
    changed.splits.write_text(json.dumps(split))
    message = "the run 'mine': 1 patient has cases .* 'case_00' in the training and 'case_04'"
    with pytest.raises(MaskSAMError, match=message):
        compare(changed, lambda _: None, run_here)


def test_a_comparison_without_any_result_is_an_error(dataset: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MASKSAM_HOME", str(tmp_path / "home"))
    options = CompareOptions(dataset, tmp_path / "out", systems=("medsam-boxes",), device="cpu")
    with pytest.raises(MaskSAMError, match="no system could be evaluated: 'medsam' is not inst"):
        compare(options, lambda _: None, run_here)


def test_a_training_that_a_signal_stops_is_continued_by_the_same_command(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    options = CompareOptions(
        dataset,
        tmp_path / "out",
        systems=("ablation_b1",),
        splits=dataset / "splits.json",
        max_minutes=None,
        iterations=3,
        device="cpu",
        workers=0,
    )
    plain = MaskSAMModule.training_step

    def step(self: MaskSAMModule, *arguments: object) -> torch.Tensor:
        signal.raise_signal(signal.SIGTERM)
        return plain(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(MaskSAMModule, "training_step", step)
        with pytest.raises(MaskSAMError, match=r"its training was stopped: the same command"):
            compare(options, lambda _: None, run_here)
    compare(options, lambda _: None, run_here)
    assert read_table(options.output)["ablation_b1"]["problem"] == ""
    assert checkpoint(options.output / "runs" / "ablation_b1")["global_step"] == 3


@pytest.mark.skipif(sys.platform == "win32", reason="a script of the shell stands for the stage")
@pytest.mark.parametrize("presses", [1, 2])
def test_a_stage_saves_its_work_when_its_comparison_is_stopped(
    presses: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    script = tmp_path / "stage"
    script.write_text(
        f"#!/bin/sh\ntrap 'sleep 0.5; touch {tmp_path}/saved; exit 0' TERM\n"
        f"touch {tmp_path}/started\nwhile :; do sleep 0.05; done\n",
        encoding="utf-8",
    )
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))
    plain, waits = subprocess.Popen.wait, []

    def wait(self: subprocess.Popen, timeout: float | None = None) -> int:
        waits.append(timeout)
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        if len(waits) <= presses:
            raise KeyboardInterrupt
        return plain(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    with pytest.raises(KeyboardInterrupt):
        run_process(tmp_path / "job.json")
    assert (tmp_path / "saved").exists() == (presses == 1)


def test_a_killed_comparison_is_continued(dataset: Path, tmp_path: Path):
    """The process of the comparison and that of its training are really killed."""
    output = tmp_path / "out"
    command = [sys.executable, "-m", "MaskSAMCore.cli", "compare", str(dataset), "-o", str(output)]
    command += ["--systems", "ablation_b1", "--splits", str(dataset / "splits.json")]
    command += ["--max-minutes", "0.05", "--device", "cpu", "--workers", "0"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
    run = output / "runs" / "ablation_b1"
    deadline = time.monotonic() + 300
    while not (run / "run.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (run / "run.json").exists() and not (output / "comparison.md").exists()
    options = CompareOptions(
        dataset,
        output,
        systems=("ablation_b1",),
        splits=dataset / "splits.json",
        max_minutes=0.05,
        device="cpu",
        workers=0,
    )
    compare(options, lambda _: None, run_here)
    assert read_table(output)["ablation_b1"]["problem"] == ""

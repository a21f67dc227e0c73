"""A comparison for real: trainings and systems in processes of their own, on generated volumes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.cli import main
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io import read_volume
from MaskSAMCore.research.comparison.compare import CompareOptions, compare
from MaskSAMCore.training.fit import FitOptions, fit
from Testing.helpers.short_run import QUICK, SMALL, VALUES, write_gapped_dataset


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
    options = FitOptions(dataset, run, splits=dataset / "splits.json", device="cpu", workers=0)
    fit(options, lambda _: None, SMALL, {**QUICK, "iterations": 90})
    return run


@pytest.fixture(scope="module")
def compared(
    dataset: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CompareOptions, list[str]]:
    """A system that was trained, one that is trained, one whose checkpoint is not there, and one
    whose training must fail."""
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
    home = os.environ.get("MASKSAM_HOME")
    os.environ["MASKSAM_HOME"] = str(output.parent / "home")
    lines: list[str] = []
    try:
        compare(options, lines.append)
    finally:
        if home is None:
            del os.environ["MASKSAM_HOME"]
        else:
            os.environ["MASKSAM_HOME"] = home
    return options, lines


def table(output: Path) -> dict[str, dict[str, str]]:
    with (output / "comparison.csv").open(encoding="utf-8") as stream:
        return {line["system"]: line for line in csv.DictReader(stream)}


def test_every_system_has_a_line_and_one_that_fails_loses_no_other(compared):
    options, lines = compared
    found = table(options.output)
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


def test_it_measures_held_out_cases_in_the_datasets_own_values(compared, dataset: Path):
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
    assert float(table(options.output)["mine"]["dice mean"]) == pytest.approx(mean)
    summary = json.loads((options.output / "systems/mine/summary.json").read_text())
    found = [summary["mean"][str(value)]["Dice"] for value in VALUES.values()]
    assert float(table(options.output)["mine"]["dice Bright"]) == pytest.approx(found[0])


def test_a_system_with_boxes_keeps_to_those_of_the_reference(compared, dataset: Path):
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


def test_what_is_done_is_not_done_again(compared, dataset: Path):
    options, _ = compared
    files = sorted((options.output / "systems").rglob("*.nii.gz"))
    before = [path.stat().st_mtime_ns for path in files]
    files[0].unlink()
    few = CompareOptions(**{**vars(options), "systems": ("masam", "mine"), "runs": options.runs})
    lines: list[str] = []
    rows = compare(few, lines.append)
    assert not any(line.startswith("training") for line in lines)
    after = [path.stat().st_mtime_ns for path in files]
    assert [a == b for a, b in zip(after, before, strict=True)].count(False) == 1
    assert [row.problem for row in rows] == ["", ""]


def test_other_terms_and_cases_that_a_run_has_seen_are_refused(
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
        (["--splits", str(other), "-o", str(tmp_path / "a")], "trained on cases that it would be"),
        ([*split, "-o", str(tmp_path / "b"), "--run", "mine"], "does not have the form --run NAME"),
    ):
        assert main([*common, *more]) == 2
        error = capfd.readouterr().err.strip()
        assert error.startswith("masksam: error: ") and message in error
    assert not (tmp_path / "a").exists()


def test_nothing_measured_is_an_error(dataset: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MASKSAM_HOME", str(tmp_path / "home"))
    options = CompareOptions(dataset, tmp_path / "out", systems=("medsam-boxes",), device="cpu")
    with pytest.raises(MaskSAMError, match="no system could be measured: 'medsam' is not inst"):
        compare(options, lambda _: None)


def test_a_comparison_that_is_killed_goes_on(dataset: Path, tmp_path: Path):
    """The process that trains and the one that waits for it, killed for real."""
    output = tmp_path / "out"
    command = [sys.executable, "-m", "MaskSAMCore.cli", "compare", str(dataset), "-o", str(output)]
    command += ["--systems", "ablation_b1", "--splits", str(dataset / "splits.json")]
    command += ["--max-minutes", "0.1", "--device", "cpu", "--workers", "0"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
    run = output / "runs" / "ablation_b1"
    deadline = time.monotonic() + 300
    while not (run / "run.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (run / "run.json").exists() and not (output / "comparison.md").exists()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert table(output)["ablation_b1"]["problem"] == ""

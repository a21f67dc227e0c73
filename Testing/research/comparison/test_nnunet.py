"""nnU-Net as a system: its commands, their environment, and the files they leave.

The commands are stand-ins that record their calls; the tests do not depend on nnU-Net itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io import read_volume
from MaskSAMCore.research.comparison.compare import CompareOptions, compare
from MaskSAMCore.research.comparison.folder import Folder, read_record
from MaskSAMCore.research.comparison.nnunet import segment, train
from MaskSAMCore.research.comparison.stage import Job, main
from MaskSAMCore.research.comparison.systems import System, Training
from Testing.helpers.paths import ROOT
from Testing.helpers.short_run import VALUES, write_gapped_dataset
from Testing.helpers.time_limits import LONG
from Testing.helpers.worker_tools import has_ended

# Every stand-in records its arguments and environment. As nnU-Net's own commands would, the one for
# training writes the facts of the trainer, and the one for prediction a labelmap for each image.
COMMAND = """#!{python}
import json, os, shutil, sys
from pathlib import Path
name = Path(sys.argv[0]).name
keys = [key for key in os.environ if key.startswith(("nnUNet", "MASKSAM_M", "MASKSAM_I"))]
call = [name, sys.argv[1:], {{key: os.environ[key] for key in keys}}]
with open("{calls}", "a") as stream:
    stream.write(json.dumps(call) + chr(10))
if "{failing}" == name:
    print("something else"); print("RuntimeError: no memory")
    print("RuntimeError: One or more background workers are no longer alive"); sys.exit(3)
if name == "nnUNetv2_plan_and_preprocess":
    (Path(os.environ["nnUNet_preprocessed"]) / "Dataset001_Compared").mkdir()
if name == "nnUNetv2_train":
    model = "MaskSAMBudgetTrainer__nnUNetPlans__3d_fullres/fold_0"
    folder = Path(os.environ["nnUNet_results"]) / "Dataset001_Compared" / model
    folder.mkdir(parents=True)
    facts = {{"tunable": 31e6, "iterations": 250, "minutes": 0.5, "version": "2.8"}}
    (folder / "masksam.json").write_text(json.dumps(facts))
if name == "nnUNetv2_predict":
    images, found = (Path(sys.argv[sys.argv.index(key) + 1]) for key in ("-i", "-o"))
    found.mkdir()
    for path in images.glob("*_0000.nii.gz"):
        case = path.name.removesuffix("_0000.nii.gz")
        shutil.copy(Path("{labels}") / (case + ".nii.gz"), found / (case + ".nii.gz"))
"""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = write_gapped_dataset(tmp_path / "data", 4)
    split = {"train": ["case_00", "case_01"], "val": ["case_02"], "test": ["case_03"]}
    (folder / "splits.json").write_text(json.dumps(split), encoding="utf-8")
    return folder


def install(tmp_path: Path, dataset: Path, patch: pytest.MonkeyPatch, failing: str = "") -> Path:
    """Put the stand-ins on PATH and return the file with their calls."""
    folder, calls = tmp_path / "bin", tmp_path / "calls.txt"
    folder.mkdir()
    text = COMMAND.format(
        python=sys.executable, calls=calls, labels=dataset / "labelsTr", failing=failing
    )
    for name in ("nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_predict"):
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
    patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return calls


def job_of(tmp_path: Path, dataset: Path) -> Job:
    split, cache = dataset / "splits.json", tmp_path / "cache"
    training = Training("nnunet", "nnunet")
    return Job(
        "train", tmp_path / "out", dataset, split, cache, ("case_03",), "cpu", training, workers=2
    )


def test_it_plans_trains_and_segments_with_its_own_commands(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = install(tmp_path, dataset, monkeypatch)
    options = CompareOptions(
        dataset, tmp_path / "out", ("nnunet",), dataset / "splits.json", max_minutes=7, device="cpu"
    )
    (row,) = compare(options, lambda _: None, lambda job_file: main([str(job_file)]))
    assert row.problem == "" and row.mean == pytest.approx(1.0)
    assert (row.network, row.tunable, row.iterations, row.minutes) == ("nnunet", 31e6, 250, 0.5)
    found = [json.loads(line) for line in calls.read_text(encoding="utf-8").splitlines()]
    assert [name for name, _, _ in found] == [
        "nnUNetv2_plan_and_preprocess",
        "nnUNetv2_train",
        "nnUNetv2_predict",
    ]
    _, arguments, environment = found[1]
    assert arguments == [
        "1", "3d_fullres", "0", "-tr", "MaskSAMBudgetTrainer", "-device", "cpu",
    ]  # fmt: skip
    assert environment["MASKSAM_MINUTES"] == "7" and "MASKSAM_ITERATIONS" not in environment
    trainers = Path(environment["nnUNet_extTrainer"])
    assert "class MaskSAMBudgetTrainer" in (trainers / "budget_trainer.py").read_text()
    run = tmp_path / "out" / "runs" / "nnunet"
    assert environment["nnUNet_results"] == str(run / "results")
    raw = run / "raw" / "Dataset001_Compared"
    # nnU-Net never sees the test cases while it plans and trains.
    labels = sorted(path.name for path in (raw / "labelsTr").iterdir())
    assert labels == ["case_00.nii.gz", "case_01.nii.gz", "case_02.nii.gz"]
    description = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    assert description["labels"] == {"background": 0, **VALUES}
    assert description["numTraining"] == 3
    folds = json.loads((run / "preprocessed/Dataset001_Compared/splits_final.json").read_text())
    assert folds == [{"train": ["case_00", "case_01"], "val": ["case_02"]}]
    predicted = Folder(tmp_path / "out").predictions("nnunet") / "case_03.nii.gz"
    truth = read_volume(dataset / "labelsTr/case_03.nii.gz")
    assert np.array_equal(read_volume(predicted).array, truth.array)


def test_each_of_several_seeds_has_a_folder_and_finished_ones_are_not_repeated(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = install(tmp_path, dataset, monkeypatch)
    output = tmp_path / "out"
    options = CompareOptions(
        dataset,
        output,
        ("nnunet",),
        dataset / "splits.json",
        max_minutes=None,
        iterations=300,
        device="cpu",
        seeds=(0, 1),
    )
    for seeds, commands in (((0, 1), 6), ((0, 1, 5), 9)):
        (row,) = compare(
            replace(options, seeds=seeds), lambda _: None, lambda job_file: main([str(job_file)])
        )
        assert list(row.seeds) == list(seeds) and row.spread == 0
        assert len(calls.read_text(encoding="utf-8").splitlines()) == commands
    assert (output / "seed_5/systems/nnunet/predictions/case_03.nii.gz").is_file()
    assert not (output / "runs").exists()
    lines = (output / "seeds.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[:2] for line in lines[1:]] == [["nnunet", s] for s in "015"]
    text = (output / "comparison.md").read_text(encoding="utf-8")
    assert "- budget: 300 iterations of training each" in text and "- seeds: 0, 1, 5" in text


def test_a_budget_of_iterations_and_a_training_that_was_stopped(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = install(tmp_path, dataset, monkeypatch)
    job = replace(job_of(tmp_path, dataset), iterations=300, max_minutes=None)
    rest = tmp_path / "out" / "runs" / "nnunet" / "rest"
    rest.mkdir(parents=True)
    train(job)
    assert not rest.exists()
    environment = json.loads(calls.read_text(encoding="utf-8").splitlines()[1])[2]
    assert environment["MASKSAM_ITERATIONS"] == "300" and "MASKSAM_MINUTES" not in environment
    assert environment["nnUNet_n_proc_DA"] == "2"
    system = System("nnunet", "nnunet", "", "none")
    segment(replace(job, stage="segment", system=system))
    facts = read_record(Folder(tmp_path / "out").facts("nnunet"))
    assert list(facts["seconds"]) == ["case_03"] and facts["total"] == facts["tunable"] == 31e6


def test_a_missing_package_and_a_failed_command_are_one_line(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path, dataset)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path / "empty"))
        patch.setattr(sys, "executable", str(tmp_path / "empty" / "python"))
        with pytest.raises(MaskSAMError, match=r"nnU-Net is not installed .* pip install nnunetv2"):
            train(job)
    assert not (tmp_path / "out").exists()
    install(tmp_path, dataset, monkeypatch, failing="nnUNetv2_train")
    message = r"nnUNetv2_train failed with status 3: RuntimeError: no memory \(see .*log.txt\)$"
    with pytest.raises(MaskSAMError, match=message):
        train(job)


# Stand-in that trains for ever in two processes, and records their IDs.
ENDLESS = """#!{python}
import os, subprocess, sys, time
from pathlib import Path
if sys.argv[1:] != ["helper"]:
    helper = subprocess.Popen([sys.executable, __file__, "helper"])
    Path("{pids}.part").write_text(f"{{os.getpid()}} {{helper.pid}}")
    os.replace("{pids}.part", "{pids}")
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there Ctrl-C reaches all processes by itself")
@pytest.mark.parametrize("of_terminal", [False, True])
def test_no_process_of_nnunet_outlives_a_comparison_that_is_stopped(
    of_terminal: bool, tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, dataset, monkeypatch)
    pids = tmp_path / "pids"
    program = tmp_path / "bin" / "nnUNetv2_plan_and_preprocess"
    program.write_text(ENDLESS.format(python=sys.executable, pids=pids), encoding="utf-8")
    options = ["--systems", "nnunet", "--splits", str(dataset / "splits.json"), "--device", "cpu"]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "MaskSAMCore.cli", "compare", str(dataset)),
            *("-o", str(tmp_path / "out"), *options),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = time.monotonic() + LONG
    while not pids.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    found = [psutil.Process(int(pid)) for pid in pids.read_text().split()]
    try:
        if of_terminal:  # Ctrl-C reaches the comparison and its stage.
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGTERM)
        printed = process.communicate(timeout=LONG)[1]
        assert process.returncode == 130
        assert printed == "masksam: error: stopped; nothing was half-written\n"
        while not all(map(has_ended, found)) and time.monotonic() < limit:
            time.sleep(0.05)
        assert all(map(has_ended, found))
    finally:
        for one in found:
            if not has_ended(one):
                one.kill()

"""``masksam train``: mistakes that are reported before anything is read or written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from MaskSAMCore.cli import main
from MaskSAMCore.cli.train import Report
from Testing.cli.helpers import error_of, without_reader, without_space
from Testing.helpers.generated import write_dataset


def test_a_folder_that_is_not_a_dataset_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    for folder in ("none", "."):
        arguments = ["train", str(tmp_path / folder), "-o", str(tmp_path / "run")]
        assert "dataset" in error_of(capfd, arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "nonsense"], "unknown preset 'nonsense': choose one of tiny, compact"),
        (
            ["--preset", "compact_decoder"],
            "'compact_decoder' trains the decoder alone: give the model with",
        ),
        (["--preset", "acdc"], "adapts a frozen SAM: give its official weights with --sam-check"),
        (["--preset", "acdc", "--sam-checkpoint", "absent.pth"], "cannot be read"),
        (["--preset", "acdc", "--sam-checkpoint", "bad.pth"], "not a readable SAM checkpoint"),
        (["--preset", "acdc", "--sam-checkpoint", "another.pth"], "does not fit"),
        (["--spacing", "10,1.5"], "--spacing must be mm along depth, rows and columns"),
        (["--spacing", "10,1.5,nan"], "the spacing must be between 0 and 1000 mm"),
        (["--patch", "4,256,big"], "--patch must be voxels along depth, rows and columns"),
        (["--patch", "8,50,64"], "rows and columns that are multiples of 4"),
        (["--fold", "1", "--folds", "5"], "--fold trains one fold and --folds all"),
        (["--orientation", "RRA"], "orientation 'RRA' must name"),
        (["--set", "batch=4", "--batch", "2"], "--batch and --set batch give the same setting"),
        (["--set", "spacing=2,1,1", "--spacing", "2,1,1"], "--spacing and --set spacing give"),
        (["--set", "window=8,48,48", "--patch", "8,64,64"], "--patch and --set window give"),
        (
            ["--set", "validation_share=0.5", "--validation-share", "0.2"],
            "--validation-share and --set validation_share give",
        ),
        (["--plan", "--resume"], "--plan is for a new training: give the run's --preset"),
        (["--preview", "2", "--resume"], "--preview is for a new training: give the run's --pre"),
        (["--plan"], "masksam: error: none is not a dataset folder"),
        (["--device", "warp"], "device 'warp' is not available"),
    ],
)
def test_a_wrong_option_is_reported_before_the_dataset_is_read(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    """The dataset does not exist, but the error names the option."""
    monkeypatch.chdir(tmp_path)
    Path("bad.pth").write_bytes(b"no checkpoint at all")
    torch.save({"some.weight": torch.ones(3)}, "another.pth")
    assert message in error_of(capfd, ["train", "none", "-o", "run", *options])
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "option",
    [
        "--seed=-1",
        "--seed=99999999999",
        "--augmentation=inf",
        "--max-minutes=inf",
        "--max-minutes=nan",
        "--stop-after=inf",
        "--validation-minutes=inf",
        "--learning-rate=inf",
        "--tflops=inf",
        "--batch=99999999999999999999",
        "--folds=99999999999999999999",
        "--workers=99999999999999999999",
        "--devices=99999999999999999999",
    ],
)
def test_numbers_out_of_range_are_refused(
    option: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    assert option.split("=")[0] in error_of(capfd, ["train", str(tmp_path), "-o", str(run), option])
    assert not run.exists()


@pytest.mark.parametrize("options", [["--stop-after", "0", "--batch", "1"], ["--preview", "1"]])
def test_folds_that_never_began_leave_no_folder(options: list[str], tmp_path: Path):
    dataset, runs = write_dataset(tmp_path / "data", cases=4), tmp_path / "runs"
    arguments = ["train", str(dataset), "-o", str(runs), "--folds", "3", "--device", "cpu"]
    assert main([*arguments, "--workers", "0", *options]) == 0
    begun = [] if "--preview" in options else ["fold_0"]
    assert sorted(path.name for path in runs.glob("fold_*")) == begun


def test_a_training_starts_from_a_model_by_its_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """The bundled model is found; that its weights do not fit the dataset is another error."""
    dataset, run = write_dataset(tmp_path / "data", cases=4), tmp_path / "run"
    arguments = ["train", str(dataset), "-o", str(run), "--device", "cpu", "--from", "hippocampus"]
    assert "hippocampus holds the weights of another network" in error_of(capfd, arguments)
    arguments[-1] = "hippocampi"
    assert "no model named 'hippocampi': choose brain, hippocampus" in error_of(capfd, arguments)
    assert not run.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break in another way there")
def test_a_training_goes_on_when_the_reader_of_its_lines_has_ended():
    """As in ``masksam train ... | head``."""
    report = Report(0.0)
    with without_reader("stdout"):
        report("first")
        report("second")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_training_goes_on_when_the_disk_of_its_log_is_full():
    """As in ``masksam train ... > log.txt``, with the run on another disk."""
    report = Report(0.0)
    with without_space("stdout"):
        report("first")
        report("second")

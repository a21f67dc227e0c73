"""``masksam pretrain``: mistakes that are reported in one line and leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.cli import main
from Testing.cli.helpers import error_of
from Testing.helpers.generated import write_image
from Testing.research.promptable_sam.helpers import write_labelmap


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a training needs labelmaps: give their files"),
        (["absent.nii.gz"], "absent.nii.gz"),
        (["empty"], "empty has no labelmap"),
        (["image.nii.gz"], "give a labelmap, not an image"),
        (["map.nii.gz", "--validation", "image.nii.gz"], "give a labelmap, not an image"),
        (["map.nii.gz", "--device", "warp"], "device 'warp' is not available"),
        (["map.nii.gz", "--batch", "0"], "--batch"),
        (["map.nii.gz", "--max-minutes", "0"], "--max-minutes"),
        (["map.nii.gz", "--max-minutes", "9", "--iterations", "9"], "two budgets: choose one"),
        (["map.nii.gz", "--validation", "map.nii.gz"], "would be trained on and validate, such as"),
        (["--resume"], "run holds no training of a SAM"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    write_labelmap(Path("map.nii.gz"))
    Path("empty").mkdir()
    noise = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    write_image(noise, Path("image.nii.gz"))
    assert message in error_of(capfd, ["pretrain", *arguments, "-o", "run"])
    assert not Path("run").exists()


def test_the_output_may_not_lie_among_the_label_maps(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    write_labelmap(tmp_path / "map.nii.gz")
    arguments = ["pretrain", str(tmp_path), "-o", str(tmp_path / "run")]
    assert "would lie among the input files" in error_of(capfd, arguments)
    assert not (tmp_path / "run").exists()


def test_the_help_says_that_it_is_research(capfd: pytest.CaptureFixture[str]):
    assert main(["pretrain", "--help"]) == 0
    assert "This is research" in capfd.readouterr().out

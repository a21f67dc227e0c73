"""``masksam compare``: options that exclude one another, and an absent package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from Testing.cli.helpers import error_of
from Testing.helpers.generated import write_dataset


def test_compare_names_the_package_to_install_where_the_research_code_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """The 3D Slicer extension does not include the research code."""
    monkeypatch.setitem(sys.modules, "MaskSAMCore.research.comparison.compare", None)
    error = error_of(capfd, ["compare", str(tmp_path), "-o", str(tmp_path / "out")])
    assert "not part of the 3D Slicer extension: install the Python package masksam[train]" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--iterations", "9", "--max-minutes", "1"], "are two budgets: choose one"),
        (["--seed", "1", "--seeds", "0,1"], "--seed is one seed and --seeds several"),
        (["--seeds", "0,0"], "--seeds must be different whole numbers, such as 0,1,2, not '0,0'"),
        (["--seeds", "0,-1"], "--seeds must be different whole numbers"),
        (["--seeds", "a"], "--seeds must be different whole numbers"),
        (["--systems", "unet", "--set", "queries=3"], "preset 'unet' has no setting 'queries'"),
        (
            ["--systems", "nnunet", "--set", "batch=4"],
            "no system is trained with one: leave it out",
        ),
        (["--systems", "unet", "--orientation", "RRA"], "orientation 'RRA' must name one of R/L"),
        (
            ["--systems", "unet", "--orientation", "RSA", "--set", "orientation=SAR"],
            "--orientation and --set orientation are the same",
        ),
        (["--systems", "unet", "--set", "iterations=2"], "the budget: give --iterations"),
        (["--systems", "unet", "--iterations", "3", "--set", "iterations=2"], "give --iterations"),
    ],
)
def test_options_that_cannot_be_used_are_one_line_and_leave_nothing(
    options: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = write_dataset(tmp_path / "data", 4)
    error = error_of(capfd, ["compare", str(dataset), "-o", str(tmp_path / "out"), *options])
    assert message in error
    assert not (tmp_path / "out").exists()

"""``masksam evaluate``: the table, the summary file, and references without a prediction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from MaskSAMCore.cli import main
from Testing.cli.helpers import error_of
from Testing.helpers.generated import generated_case, write_image


@pytest.fixture
def labelmap(tmp_path: Path) -> Path:
    path = tmp_path / "label.nii.gz"
    write_image(generated_case(0)[1], path)
    return path


def test_evaluate_prints_and_writes_a_summary(
    labelmap: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    summary = tmp_path / "summary.json"
    assert main(["evaluate", str(labelmap), str(labelmap), "-o", str(summary)]) == 0
    assert "Dice" in capfd.readouterr().out
    assert json.loads(summary.read_text(encoding="utf-8"))["foreground_mean"]["Dice"] == 1


def test_an_existing_summary_is_kept_without_overwrite(
    labelmap: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    summary = tmp_path / "new" / "summary.json"
    arguments = ["evaluate", str(labelmap), str(labelmap), "-o", str(summary)]
    assert main(arguments) == 0
    summary.write_bytes(b"precious")
    assert "--overwrite" in error_of(capfd, arguments)
    assert summary.read_bytes() == b"precious"
    assert main([*arguments, "--overwrite"]) == 0
    assert b"Dice" in summary.read_bytes()


def test_references_without_a_prediction_are_named_and_the_option_all_refuses_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    for name in ("predictions/a", "references/a", "references/b", "references/c"):
        write_image(generated_case(0)[1], tmp_path / f"{name}.nii.gz")
    arguments = ["evaluate", str(tmp_path / "predictions"), str(tmp_path / "references")]
    assert main(arguments) == 0
    printed = capfd.readouterr()
    assert "2 references have no prediction (b, c)" in printed.err
    assert "1 case(s)" in printed.out
    error = error_of(capfd, [*arguments, "--all", "-o", str(tmp_path / "summary.json")])
    assert "2 references have no prediction" in error
    assert not (tmp_path / "summary.json").exists()
    for name in "bc":
        write_image(generated_case(0)[1], tmp_path / "predictions" / f"{name}.nii.gz")
    assert main([*arguments, "--all"]) == 0
    assert "no prediction" not in capfd.readouterr().err

"""``masksam convert``: archives of the papers' datasets."""

from __future__ import annotations

from pathlib import Path

import pytest

from MaskSAMCore.cli import main
from Testing.cli.helpers import error_of
from Testing.research.conversion.helpers import decathlon, write_folder, write_zip


def test_an_archive_becomes_a_dataset_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    source = write_zip(tmp_path / "Task09_Toy.zip", decathlon())
    assert main(["convert", "msd", str(source), str(tmp_path / "new" / "Toy")]) == 0
    shown = capfd.readouterr()
    assert shown.out.strip().endswith(
        "Toy: cases: 2 training and validation, 1 test without labels"
    )
    assert "Copying 5 files of 3 cases" in shown.err
    assert (tmp_path / "new/Toy/dataset.json").is_file()


def test_the_source_is_never_replaced_or_added_to(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    source = write_folder(tmp_path / "source", decathlon())
    before = sorted(tmp_path.rglob("*"))
    for target in (source, source / "new"):
        arguments = ["convert", "msd", str(source), str(target), "--overwrite"]
        assert "input" in error_of(capfd, arguments)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_dataset_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert "'acdc'" in error_of(capfd, ["convert", "nonsense", str(tmp_path), str(tmp_path / "a")])


def test_an_incomplete_archive_leaves_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    files = decathlon()
    files.pop("Task09_Toy/labelsTr/toy_003.nii.gz")
    source = write_zip(tmp_path / "a.zip", files)
    message = error_of(capfd, ["convert", "msd", str(source), str(tmp_path / "new" / "Toy")])
    assert "lacks 1 of 2 labelled cases (./labelsTr/toy_003.nii.gz)" in message
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]

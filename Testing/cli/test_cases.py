"""Cases, found in the paths of a command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.cli.cases import find_cases
from MaskSAMCore.errors import MaskSAMError
from Testing.helpers.generated import write_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a/x", "b/x", "a/y_0000", "b/y_0000"):
        write_image(np.zeros((2, 3, 4), np.float32), tmp_path / f"{name}.nii.gz")
    return tmp_path


def test_two_cases_of_one_name_are_refused(folder: Path):
    a, b, out = folder / "a", folder / "b", folder / "out"
    with pytest.raises(MaskSAMError, match="two cases are named 'x'"):
        find_cases([a / "x.nii.gz", b / "x.nii.gz"], out, 1, "mha")
    with pytest.raises(MaskSAMError, match="two cases are named 'y'"):
        find_cases([a / "y_0000.nii.gz", b / "y_0000.nii.gz"], out, 2, "mha")


def test_files_of_one_name_in_two_folders_can_be_the_channels_of_a_case(folder: Path):
    paths = (folder / "b" / "x.nii.gz", folder / "a" / "x.nii.gz")
    found = find_cases(paths, folder / "out", 2, "mha")
    assert [case.channels for case in found] == [paths]


def test_a_case_with_too_few_channels_is_refused(folder: Path):
    with pytest.raises(MaskSAMError, match=r"'y' has 1 image\(s\), but this model takes 2"):
        find_cases([folder / "a" / "y_0000.nii.gz"], folder / "out", 2, "mha")


def test_a_dot_in_a_folders_name_does_not_make_it_a_file(folder: Path):
    found = find_cases([folder / "a" / "x.nii.gz"], folder / "at-1.5mm", 1, "mha")
    assert found[0].output == folder / "at-1.5mm" / "x.mha"

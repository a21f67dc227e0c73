from __future__ import annotations

from pathlib import Path

import pytest

from MaskSAMCore.io import read_volume
from Testing.helpers.input_cases import InputCase, check
from Testing.io import dicom_cases, input_tables, nifti_cases, nrrd_cases

CASES = [*nifti_cases.CASES, *nrrd_cases.CASES, *dicom_cases.CASES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_each_kind_of_input_has_the_outcome_of_the_table(case: InputCase, tmp_path: Path) -> None:
    check(case, tmp_path, read_volume)


def test_the_documented_table_is_the_tested_one() -> None:
    assert input_tables.PAGE.read_text(encoding="utf-8") == input_tables.page()

"""Training, validation and test cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from MaskSAMCore.data.dataset import Dataset, open_dataset
from MaskSAMCore.data.splits import held_out_cases, split_cases
from MaskSAMCore.errors import MaskSAMError
from Testing.helpers.generated import write_dataset
from Testing.helpers.json_documents import changed, read_or_refuse


def test_the_default_split_is_the_first_fold_of_nnunet(tmp_path: Path):
    dataset = open_dataset(write_dataset(tmp_path, cases=6))
    # scikit-learn's KFold(5, shuffle=True, random_state=12345) gives this fold of six cases.
    assert split_cases(dataset, None) == {
        "train": ["case_00", "case_01", "case_02", "case_04"],
        "val": ["case_03", "case_05"],
    }


def test_two_cases_can_be_split_and_one_cannot(tmp_path: Path):
    dataset = open_dataset(write_dataset(tmp_path / "two", cases=2))
    assert len(split_cases(dataset, None)["val"]) == 1
    with pytest.raises(MaskSAMError, match="at least two"):
        split_cases(open_dataset(write_dataset(tmp_path / "one", cases=1)), None)


def test_a_given_split_file_precedes_the_first_fold_of_the_dataset(tmp_path: Path):
    folder = write_dataset(tmp_path / "data", cases=6)
    dataset = open_dataset(folder)
    file = tmp_path / "splits.json"
    file.write_text(json.dumps({"train": ["case_00"], "val": ["case_01"], "test": ["case_02"]}))
    folds = [
        {"train": ["case_03"], "val": ["case_04"]},
        {"train": ["case_04"], "val": ["case_05"]},
    ]
    (folder / "splits_final.json").write_text(json.dumps(folds))
    assert split_cases(dataset, file) == {"train": ["case_00"], "val": ["case_01"]}
    assert held_out_cases(dataset, file) == ["case_02"]
    assert split_cases(dataset, None) == folds[0]
    assert held_out_cases(dataset, None) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["case_00"]}, "needs lists"),
        ([["case_00"]], "needs lists"),
        ([], "needs lists"),
        ("case_00", "needs lists"),
        ({"train": ["case_00"], "val": ["nobody"]}, "not in the dataset"),
        ({"train": ["case_00"], "val": ["case_00"]}, "both train and val"),
        ({"train": ["case_00"], "val": ["case_01"], "test": ["case_00"]}, "both train and test"),
        ({"train": [], "val": ["case_00"]}, "empty"),
    ],
)
def test_an_unusable_split_is_refused(tmp_path: Path, content: Any, message: str):
    dataset = open_dataset(write_dataset(tmp_path / "data", cases=2))
    file = tmp_path / "splits.json"
    file.write_text(json.dumps(content))
    with pytest.raises(MaskSAMError, match=message):
        split_cases(dataset, file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": "case_00", "val": ["case_01"]}, "needs lists"),
        ({"train": {"case_00": 1}, "val": ["case_01"]}, "needs lists"),
        ({"train": [["case_00"]], "val": ["case_01"]}, "needs lists"),
        ({"train": ["case_00", "case_00"], "val": ["case_01"]}, "twice"),
    ],
)
def test_lists_of_another_kind_are_refused(tmp_path: Path, content: Any, message: str):
    dataset = open_dataset(write_dataset(tmp_path / "data", cases=2))
    file = tmp_path / "splits.json"
    file.write_text(json.dumps(content), encoding="utf-8-sig")
    with pytest.raises(MaskSAMError, match=message):
        split_cases(dataset, file)


@pytest.fixture(scope="module")
def two_cases(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_dataset(tmp_path_factory.mktemp("data"), cases=2))


@settings(max_examples=40, deadline=None)
@given(document=changed([{"train": ["case_00"], "val": ["case_01"], "test": []}]))
def test_any_split_file_is_read_or_refused(document: Any, two_cases: Dataset):
    path = two_cases.folder / "splits.json"
    read_or_refuse(document, path, lambda path: split_cases(two_cases, path))
    read_or_refuse(document, path, lambda path: held_out_cases(two_cases, path))

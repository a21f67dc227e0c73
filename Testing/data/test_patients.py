"""Cases of one patient lie on one side of a split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MaskSAMCore.data.dataset import Dataset, open_dataset
from MaskSAMCore.data.patients import parted_lookalikes, patients_by_name
from MaskSAMCore.data.splits import FOLDS, Fold, find_split
from MaskSAMCore.errors import MaskSAMError
from Testing.helpers.generated import change_description

FRAMES = [f"patient{n:03d}_frame{frame:02d}" for n in range(1, 21) for frame in (1, 12)]


def named_dataset(folder: Path, names: list[str], **description: object) -> Dataset:
    """Return a dataset of empty files with the given case names."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for name in names:
        (folder / "imagesTr" / f"{name}_0000.nii.gz").touch()
        (folder / "labelsTr" / f"{name}.nii.gz").touch()
    values = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "a": 1},
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps({**values, **description}), encoding="utf-8")
    return open_dataset(folder)


def sides_of(dataset: Dataset, fold: Fold | None = None) -> dict[str, list[str]]:
    split, problems = find_split(dataset, None, fold)
    assert not problems
    return split


def test_the_two_frames_of_a_patient_are_validated_together_in_every_fold(tmp_path: Path):
    dataset = named_dataset(tmp_path, FRAMES)
    validated = []
    for index in range(FOLDS):
        split = sides_of(dataset, Fold(index))
        patients = [{name[:10] for name in split[side]} for side in ("train", "val")]
        assert not patients[0] & patients[1]
        validated += split["val"]
    assert sorted(validated) == sorted(FRAMES)
    assert "note: 40 cases are of 20 patients, as their names tell" in dataset.notes


def test_folds_of_unrelated_cases_are_those_of_nnunet(tmp_path: Path):
    dataset = named_dataset(tmp_path, [f"img{n:02d}" for n in range(10)])
    # scikit-learn's KFold(5, shuffle=True, random_state=12345) gives these folds of ten cases.
    held_out = [[0, 7], [3, 9], [4, 6], [1, 8], [2, 5]]
    for index, numbers in enumerate(held_out):
        expected = [f"img{n:02d}" for n in numbers]
        assert sides_of(dataset, Fold(index))["val"] == expected


def test_dataset_json_says_which_cases_share_a_patient(tmp_path: Path):
    names = ["anna", "bert", "carl", "dora"]
    dataset = named_dataset(tmp_path, names, patients={"x": ["anna", "dora"]})
    for index in range(3):
        split = sides_of(dataset, Fold(index, 3))
        assert {"anna", "dora"} <= set(split["train"]) or {"anna", "dora"} == set(split["val"])
    assert not dataset.notes


def test_an_empty_list_of_patients_keeps_names_from_being_read(tmp_path: Path):
    dataset = named_dataset(tmp_path, FRAMES, patients={})
    assert len(set(dataset.patients.values())) == len(FRAMES)


@pytest.mark.parametrize(
    ("patients", "message"),
    [
        (["anna"], "must map patients to lists"),
        ({"x": "anna"}, "must map patients to lists"),
        ({"x": ["anna", "nobody"]}, "not in the dataset: .'nobody'"),
        ({"x": ["anna"], "y": ["anna"]}, "the case 'anna' twice"),
    ],
)
def test_unusable_lists_of_patients_are_refused(tmp_path: Path, patients: object, message: str):
    with pytest.raises(MaskSAMError, match=message):
        named_dataset(tmp_path, ["anna", "bert"], patients=patients)


def test_a_split_file_that_parts_a_patient_is_refused_unless_the_dataset_allows_it(tmp_path: Path):
    dataset = named_dataset(tmp_path / "data", FRAMES)
    file = tmp_path / "splits.json"
    file.write_text(json.dumps({"train": FRAMES[1:], "val": FRAMES[:1]}), encoding="utf-8")
    (problem,) = find_split(dataset, file)[1]
    assert "1 patient has cases on two sides of the split" in problem
    assert "'patient001_frame12' in train and 'patient001_frame01' in val" in problem
    change_description(dataset.folder, patients={})
    assert not find_split(open_dataset(dataset.folder), file)[1]


def test_a_held_out_frame_of_a_training_patient_is_refused(tmp_path: Path):
    dataset = named_dataset(tmp_path / "data", FRAMES)
    file = tmp_path / "splits.json"
    split = {"train": FRAMES[1:10], "val": FRAMES[10:12], "test": FRAMES[:1]}
    file.write_text(json.dumps(split), encoding="utf-8")
    assert any("in test" in problem for problem in find_split(dataset, file)[1])


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"], ["sub-01", "sub-01", "sub-02"]),
        (["p1_ED", "p1_ES", "p2_ED", "p2_ES"], ["p1", "p1", "p2", "p2"]),
        (["p1.visit2", "p1", "p2.visit1"], ["p1", "p1", "p2"]),
        (["scan_001", "scan_002", "scan_003"], None),
        (["ct2_scan1", "ct2_scan2", "ct2_scan3"], None),
        (["amos_0001", "amos_0002", "img0001"], None),
        (["BraTS20_Training_001", "BraTS20_Training_002"], None),
    ],
)
def test_names_tell_patients_by_words_that_count_images(
    names: list[str], patients: list[str] | None
):
    assert list(patients_by_name(names).values()) == (names if patients is None else patients)


def test_names_that_look_like_images_of_one_patient_are_noted_where_the_split_parts_them():
    names = [f"subject{n:02d}_{side}" for n in range(6) for side in "ab"]
    own = {name: name for name in names}
    parted = {"train": names[1:], "val": names[:1]}
    assert "'subject00_a' and 'subject00_b' look like" in parted_lookalikes(parted, own)
    kept = {"train": names[2:], "val": names[:2]}
    assert parted_lookalikes(kept, own) == ""
    told = {name: name[:9] for name in names}
    assert parted_lookalikes(kept, told) == ""


@pytest.mark.parametrize(
    "names",
    [
        [f"hippocampus_{n:03d}" for n in range(9)],
        [f"BraTS20_Training_{n:03d}" for n in range(9)],
        [f"RUNMC_{n:02d}" for n in range(9)],
        [f"img{n:04d}" for n in range(9)],
        [f"TCGA_CS_{n}_19960909" for n in range(4941, 4950)],
    ],
)
def test_ordinary_names_are_not_noted(names: list[str]):
    assert parted_lookalikes({"train": names[1:], "val": names[:1]}, {}) == ""


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=12), unique=True, min_size=2, max_size=8))
def test_any_names_have_patients(names: list[str]):
    assert set(patients_by_name(names)) == set(names)
    parted_lookalikes({"train": names[1:], "val": names[:1]}, {})

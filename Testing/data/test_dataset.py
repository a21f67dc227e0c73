"""nnU-Net dataset folders: read as they are, all problems in one report, nnU-Net's folds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from MaskSAMCore.data import preprocess
from MaskSAMCore.data.dataset import Dataset, load_cases, open_dataset
from MaskSAMCore.data.planning import case_fingerprint, make_plan
from MaskSAMCore.data.splits import split_cases
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.training.data import prepare_material
from Testing.helpers.generated import generated_case, write_dataset, write_image
from Testing.helpers.paths import SHARED_DATA


def describe(folder: Path, **changes: Any) -> None:
    """Changes ``dataset.json``; None removes a key."""
    path = folder / "dataset.json"
    description = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in description.items() if v is not None}))


def names_of(dataset: Dataset) -> list[str]:
    return [case.name for case in dataset.cases]


def test_a_dataset_folder_is_read_as_it_is(tmp_path: Path):
    dataset = open_dataset(write_dataset(tmp_path, cases=3, channels=2))
    assert dataset.channels == ("MR0", "MR1")
    assert dataset.classes == ("Bright", "Dark")
    assert names_of(dataset) == ["case_00", "case_01", "case_02"]
    case = load_cases(dataset, ["case_01"])[0]
    assert len(case.channels) == 2
    assert set(np.unique(case.label)) == {0, 1, 2}
    assert case.channels[0].spacing == pytest.approx((1, 1, 2))


def test_all_problems_come_in_one_report_before_work_begins(tmp_path: Path):
    folder = write_dataset(tmp_path, cases=8)
    (folder / "imagesTr/case_00_0000.nii.gz").unlink()
    (folder / "imagesTr/case_01_0000.nii.gz").write_bytes(b"no image at all")
    image, label = generated_case(2)
    write_image(image[:-1], folder / "imagesTr/case_02_0000.nii.gz")
    write_image(label + 3, folder / "labelsTr/case_03.nii.gz")
    write_image(label * 0.5, folder / "labelsTr/case_04.nii.gz")
    (folder / "labelsTr/case_05.nii.gz").unlink()
    moved = sitk.ReadImage(str(folder / "labelsTr/case_06.nii.gz"))
    moved.SetOrigin((12.0, -7.0, 3.5))
    sitk.WriteImage(moved, str(folder / "labelsTr/case_06.nii.gz"))
    dataset = open_dataset(folder)
    with pytest.raises(MaskSAMError, match=r"8 problem.*nothing was started") as report:
        load_cases(dataset, names_of(dataset))
    message = str(report.value)
    for part in (
        "imagesTr/case_00_0000.nii.gz is missing",
        "case_01_0000.nii.gz",
        "labelsTr/case_02.nii.gz is not on the grid of case_02_0000.nii.gz",
        "labelsTr/case_03.nii.gz holds labels [3, 4, 5] that are in no class",
        "labelsTr/case_04.nii.gz holds values that are no integers",
        "labelsTr/case_05.nii.gz is missing",
        "labelsTr/case_06.nii.gz is not on the grid of case_06_0000.nii.gz",
    ):
        assert part in message
    assert "case_07" not in message
    assert "\n" not in message


def test_a_long_report_is_complete(tmp_path: Path):
    folder = write_dataset(tmp_path, cases=24)
    for path in (folder / "imagesTr").iterdir():
        path.unlink()
    dataset = open_dataset(folder)
    with pytest.raises(MaskSAMError, match="24 problem") as report:
        load_cases(dataset, names_of(dataset))
    for name in names_of(dataset):
        assert f"imagesTr/{name}_0000.nii.gz is missing" in str(report.value)


def test_problems_of_the_description_the_split_and_the_cases_are_told_together(tmp_path: Path):
    folder = write_dataset(tmp_path / "data", cases=4)
    describe(folder, labels={"background": 0, "a": [1, 2]})
    (folder / "imagesTr/case_03_0000.nii.gz").unlink()
    file = tmp_path / "splits.json"
    split = {"train": ["case_00", "case_01", "nobody"], "val": ["case_01", "case_03", "noone"]}
    file.write_text(json.dumps(split))
    with pytest.raises(MaskSAMError, match=r"4 problem.*nothing was started") as report:
        prepare_material(folder, file, "tiny", lambda _: None)
    for part in (
        "regions are not supported",
        "['case_01'] stand on both sides (train and val)",
        "not in the dataset: ['nobody', 'noone']",
        "imagesTr/case_03_0000.nii.gz is missing",
    ):
        assert part in str(report.value)


def test_another_number_of_cases_than_announced_is_noted_but_no_problem(tmp_path: Path):
    folder = write_dataset(tmp_path, cases=3)
    assert open_dataset(folder).notes == ()
    describe(folder, numTraining=7)
    (note,) = open_dataset(folder).notes
    assert "numTraining 7, labelsTr holds 3 cases" in note
    lines: list[str] = []
    prepare_material(folder, None, "tiny", lines.append)
    assert note in lines


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "'labels' is missing"),
        ({"labels": {"background": 0}}, "1 to 255 classes"),
        ({"labels": {f"class {n}": n for n in range(257)}}, "1 to 255 classes"),
        ({"labels": {"background": 0, "a": [1, 2]}}, "regions are not supported"),
        ({"labels": {"background": 0, "a": 1, "ignore": 2}}, "'ignore', which is not supported"),
        ({"labels": {"a": 1}}, "from 0"),
        ({"channel_names": {"1": "MR"}}, "channel_names"),
        ({"file_ending": "nii"}, "file_ending"),
        ({"labels": None, "file_ending": None}, "'file_ending' is missing.*'labels' is missing"),
        ({"labels": {"background": 0, "a": 70000}}, "no larger than 65535"),
        ({"channel_names": {}}, "names no channel"),
    ],
)
def test_a_wrong_dataset_json_is_told_in_words(tmp_path: Path, change: dict, message: str):
    folder = write_dataset(tmp_path, cases=2)
    describe(folder, **change)
    with pytest.raises(MaskSAMError, match=message):
        open_dataset(folder)


def test_a_folder_that_is_no_dataset_says_so(tmp_path: Path):
    with pytest.raises(MaskSAMError, match="no dataset folder"):
        open_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(MaskSAMError, match="cannot be read as JSON"):
        open_dataset(tmp_path)


def test_label_values_of_a_dataset_become_consecutive_classes(tmp_path: Path):
    folder = write_dataset(tmp_path, cases=2)
    _, label = generated_case(0)
    write_image(label.astype(np.float32) * 10, folder / "labelsTr/case_00.nii.gz")
    write_image(label * np.uint8(10), folder / "labelsTr/case_01.nii.gz", spacing=(1, 1, 2))
    describe(folder, labels={"Dark": 20, "background": 0, "Bright": 10, "Nowhere": 999})
    dataset = open_dataset(folder)
    assert dataset.classes == ("Bright", "Dark", "Nowhere")
    np.testing.assert_array_equal(load_cases(dataset, ["case_00"])[0].label, label)


def test_hidden_files_of_an_archive_from_macos_are_no_cases(tmp_path: Path):
    folder = write_dataset(tmp_path, cases=2)
    (folder / "labelsTr/._case_00.nii.gz").write_bytes(b"resource fork")
    (folder / "imagesTr/._case_00_0000.nii.gz").write_bytes(b"resource fork")
    assert names_of(open_dataset(folder)) == ["case_00", "case_01"]


def test_a_case_that_is_not_there_is_named(tmp_path: Path):
    dataset = open_dataset(write_dataset(tmp_path, cases=2))
    with pytest.raises(MaskSAMError, match="no case nobody"):
        load_cases(dataset, ["case_00", "nobody"])


# Splits


def test_without_a_file_the_folds_are_nnunets(tmp_path: Path):
    dataset = open_dataset(write_dataset(tmp_path, cases=6))
    # KFold(5, shuffle=True, random_state=12345) of scikit-learn on six cases.
    assert split_cases(dataset, None)["val"] == ["case_03", "case_05"]
    assert split_cases(dataset, None, 1)["val"] == ["case_04"]
    validated = [name for fold in range(5) for name in split_cases(dataset, None, fold)["val"]]
    assert sorted(validated) == names_of(dataset)
    for fold in range(5):
        split = split_cases(dataset, None, fold)
        assert sorted(split["train"] + split["val"]) == names_of(dataset)
    with pytest.raises(MaskSAMError, match="no fold 5: choose 0 to 4"):
        split_cases(dataset, None, 5)


def test_few_cases_make_few_folds_and_one_makes_none(tmp_path: Path):
    dataset = open_dataset(write_dataset(tmp_path / "two", cases=2))
    assert len(split_cases(dataset, None)["val"]) == 1
    with pytest.raises(MaskSAMError, match="at least two"):
        split_cases(open_dataset(write_dataset(tmp_path / "one", cases=1)), None)


def test_splits_come_from_a_file_where_there_is_one(tmp_path: Path):
    folder = write_dataset(tmp_path / "data", cases=6)
    dataset = open_dataset(folder)
    file = tmp_path / "splits.json"
    file.write_text(json.dumps({"train": ["case_00"], "val": ["case_01"], "test": ["case_02"]}))
    assert split_cases(dataset, file) == {"train": ["case_00"], "val": ["case_01"]}
    folds = [
        {"train": ["case_03"], "val": ["case_04"]},
        {"train": ["case_04"], "val": ["case_05"]},
    ]
    (folder / "splits_final.json").write_text(json.dumps(folds))
    assert split_cases(dataset, None)["train"] == ["case_03"]
    assert split_cases(dataset, None, 1)["val"] == ["case_05"]
    with pytest.raises(MaskSAMError, match="no fold 2: choose 0 to 1"):
        split_cases(dataset, None, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["case_00"]}, "needs lists"),
        ([["case_00"]], "needs lists"),
        ("case_00", "needs lists"),
        ({"train": ["case_00"], "val": ["nobody"]}, "not in the dataset"),
        ({"train": ["case_00"], "val": ["case_00"]}, "both sides"),
        ({"train": ["case_00"], "val": ["case_01"], "test": ["case_00"]}, "train and test"),
        ({"train": [], "val": ["case_00"]}, "empty"),
    ],
)
def test_a_wrong_split_is_refused(tmp_path: Path, content: Any, message: str):
    dataset = open_dataset(write_dataset(tmp_path / "data", cases=2))
    file = tmp_path / "splits.json"
    file.write_text(json.dumps(content))
    with pytest.raises(MaskSAMError, match=message):
        split_cases(dataset, file)


def test_the_hippocampus_data_are_planned_from_their_training_cases():
    folder = SHARED_DATA / "Dataset004_Hippocampus"
    if not folder.is_dir():
        pytest.skip("the hippocampus data are not beside this checkout")
    dataset = open_dataset(folder)
    split = split_cases(dataset, folder / "splits.json")
    assert (len(split["train"]), len(split["val"])) == (165, 18)
    cases = load_cases(dataset, split["train"][:8])
    prints = [case_fingerprint(c.channels, c.label, n) for n, c in enumerate(cases)]
    plan = make_plan(prints, dataset.channels, 4, (16, 40, 56), "RSA")
    assert plan.spacing == pytest.approx((1, 1, 1))
    assert plan.window == (16, 40, 52)
    for case in cases:
        prepared = preprocess(case.channels, plan, case.label)
        assert prepared.label is not None
        assert prepared.image.shape[1:] == prepared.label.shape
        assert abs(float(prepared.image.mean())) < 0.5
        # Depth towards right, rows superior, columns anterior: the head lies before the body.
        head, body = (np.argwhere(prepared.label == value).mean(0) for value in (1, 2))
        assert head[2] > body[2]

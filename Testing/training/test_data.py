"""Preparation of a dataset for training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MaskSAMCore.data.case_cache import CaseCache
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.presets.small import TINY
from MaskSAMCore.training.data import prepare_training_data
from MaskSAMCore.training.overrides import change_preset
from Testing.helpers.generated import change_description, write_dataset


def test_one_report_names_the_problems_of_description_split_and_cases(tmp_path: Path):
    folder = write_dataset(tmp_path / "data", cases=4)
    change_description(folder, labels={"background": 0, "a": [1, 2]})
    (folder / "imagesTr/case_03_0000.nii.gz").unlink()
    file = tmp_path / "splits.json"
    split = {"train": ["case_00", "case_01", "nobody"], "val": ["case_01", "case_03", "noone"]}
    file.write_text(json.dumps(split))
    with pytest.raises(MaskSAMError, match=r"4 problem.*nothing was started") as report:
        prepare_training_data(folder, file, TINY, lambda _: None, CaseCache(tmp_path / "cases"))
    for part in (
        "regions are not supported",
        "['case_01'] are in both train and val",
        "not in the dataset: ['nobody', 'noone']",
        "imagesTr/case_03_0000.nii.gz is missing",
    ):
        assert part in str(report.value)


def test_notes_on_the_dataset_are_reported(tmp_path: Path):
    folder = write_dataset(tmp_path, cases=3)
    change_description(folder, numTraining=7)
    lines: list[str] = []
    prepare_training_data(folder, None, TINY, lines.append, CaseCache(tmp_path / "cases"))
    assert any("numTraining 7" in line for line in lines)


@pytest.mark.parametrize(
    ("orientation", "settings", "noted"),
    [("RSA", [], True), ("SAR", [], False), ("RSA", ["mirror=[]"], False)],
)
def test_mirrored_sides_are_noted(
    orientation: str, settings: list[str], noted: bool, tmp_path: Path
):
    folder = write_dataset(tmp_path, cases=3)
    change_description(folder, labels={"background": 0, "left body": 1, "right body": 2})
    # Windows of the preset are mirrored along depth.
    preset = change_preset(TINY, [f"orientation={orientation}", *settings])
    lines: list[str] = []
    prepare_training_data(folder, None, preset, lines.append, CaseCache(tmp_path / "cases"))
    note = "windows are mirrored from left to right"
    assert any(note in line and "--set mirror=[]" in line for line in lines) == noted


def test_all_unreadable_images_are_named_in_one_line(tmp_path: Path):
    folder = write_dataset(tmp_path / "bad", cases=4)
    (folder / "imagesTr/case_00_0000.nii.gz").unlink()
    (folder / "imagesTr/case_01_0000.nii.gz").write_bytes(b"damaged")
    with pytest.raises(MaskSAMError, match=r"2 problem\(s\)") as report:
        prepare_training_data(folder, None, TINY, lambda _: None, CaseCache(tmp_path / "cases"))
    message = str(report.value)
    assert "case_00_0000.nii.gz is missing" in message
    assert "case_01_0000.nii.gz" in message
    assert "\n" not in message


def without_classes(folder: Path, names: list[str], values: tuple[int, ...]) -> None:
    """Remove values from the labelmaps of some cases."""
    for name in names:
        path = folder / "labelsTr" / f"{name}.nii.gz"
        image = sitk.ReadImage(str(path))
        array = sitk.GetArrayFromImage(image)
        array[np.isin(array, values)] = 0
        emptied = sitk.GetImageFromArray(array)
        emptied.CopyInformation(image)
        sitk.WriteImage(emptied, str(path))


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        (["case_00", "case_01", "case_02"], "no case has a voxel of 'Bright', 'Dark'"),
        (["case_00", "case_01"], "no training case has a voxel of"),
        (["case_02"], "no validation case has a voxel of"),
    ],
)
def test_a_dataset_without_labelled_voxels_is_refused(
    cases: list[str], message: str, tmp_path: Path
):
    folder = write_dataset(tmp_path / "data", cases=3)
    file = tmp_path / "splits.json"
    file.write_text(json.dumps({"train": ["case_00", "case_01"], "val": ["case_02"]}))
    without_classes(folder, cases, (1, 2))
    with pytest.raises(MaskSAMError, match=message):
        prepare_training_data(folder, file, TINY, lambda _: None, CaseCache(tmp_path / "cases"))


def test_a_class_that_no_training_case_has_is_reported(tmp_path: Path):
    folder = write_dataset(tmp_path / "data", cases=3)
    file = tmp_path / "splits.json"
    file.write_text(json.dumps({"train": ["case_00", "case_01"], "val": ["case_02"]}))
    lines: list[str] = []
    without_classes(folder, ["case_00"], (2,))
    prepare_training_data(folder, file, TINY, lines.append, CaseCache(tmp_path / "cases"))
    assert not any("cannot be learned" in line for line in lines)
    without_classes(folder, ["case_01"], (2,))
    prepare_training_data(folder, file, TINY, lines.append, CaseCache(tmp_path / "cases"))
    assert any("no training case has a voxel of 'Dark', which" in line for line in lines)

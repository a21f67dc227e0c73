"""Reading of nnU-Net dataset folders, with all problems in one report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings

from MaskSAMCore.data.dataset import Dataset, examine_dataset, load_cases, open_dataset
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import reorient
from Testing.helpers.generated import (
    change_description,
    generated_case,
    write_dataset,
    write_image,
)
from Testing.helpers.json_documents import changed, read_or_refuse
from Testing.helpers.labelled_heads import DESCRIPTION, LABELS, head, write_labelmaps


def names_of(dataset: Dataset) -> list[str]:
    return [case.name for case in dataset.cases]


def test_a_dataset_has_the_channels_classes_and_cases_of_its_folder(tmp_path: Path):
    dataset = open_dataset(write_dataset(tmp_path, cases=3, channels=2))
    assert dataset.channels == ("MR0", "MR1")
    assert dataset.classes == ("Bright", "Dark")
    assert names_of(dataset) == ["case_00", "case_01", "case_02"]
    case = load_cases(dataset, ["case_01"])[0]
    assert len(case.channels) == 2
    assert set(np.unique(case.labelmap)) == {0, 1, 2}
    assert case.channels[0].spacing == pytest.approx((1, 1, 2))


def test_one_report_names_the_problems_of_all_cases(tmp_path: Path):
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
        "labelsTr/case_03.nii.gz has values [3, 4, 5] that are in no class",
        "labelsTr/case_04.nii.gz has values that are not integers",
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


def test_a_number_of_cases_that_differs_from_the_announced_one_is_noted(tmp_path: Path):
    folder = write_dataset(tmp_path, cases=3)
    assert open_dataset(folder).notes == ()
    change_description(folder, numTraining=7)
    (note,) = open_dataset(folder).notes
    assert "numTraining 7, labelsTr has 3 cases" in note


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
def test_each_problem_of_dataset_json_has_a_message(
    tmp_path: Path, change: dict[str, Any], message: str
):
    folder = write_dataset(tmp_path, cases=2)
    change_description(folder, **change)
    with pytest.raises(MaskSAMError, match=message):
        open_dataset(folder)


def test_a_folder_without_a_readable_dataset_json_is_refused(tmp_path: Path):
    with pytest.raises(MaskSAMError, match="not a dataset folder"):
        open_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(MaskSAMError, match="cannot be read as JSON"):
        open_dataset(tmp_path)


def test_values_with_gaps_become_consecutive_class_indices(tmp_path: Path):
    folder = write_dataset(tmp_path, cases=2)
    _, label = generated_case(0)
    write_image(label.astype(np.float32) * 10, folder / "labelsTr/case_00.nii.gz")
    write_image(label * np.uint8(10), folder / "labelsTr/case_01.nii.gz", spacing=(1, 1, 2))
    change_description(folder, labels={"Dark": 20, "background": 0, "Bright": 10, "Nowhere": 999})
    dataset = open_dataset(folder)
    assert dataset.classes == ("Bright", "Dark", "Nowhere")
    np.testing.assert_array_equal(load_cases(dataset, ["case_00"])[0].labelmap, label)


def test_hidden_files_of_a_macos_archive_are_ignored(tmp_path: Path):
    folder = write_dataset(tmp_path, cases=2)
    (folder / "labelsTr/._case_00.nii.gz").write_bytes(b"resource fork")
    (folder / "imagesTr/._case_00_0000.nii.gz").write_bytes(b"resource fork")
    assert names_of(open_dataset(folder)) == ["case_00", "case_01"]


@pytest.mark.parametrize("has_images", [True, False])
def test_labelmaps_with_other_endings_are_noted(has_images: bool, tmp_path: Path):
    if has_images:
        folder = write_dataset(tmp_path, cases=2)
        (folder / "imagesTr" / "case_01_0000.nii.gz").unlink()
    else:
        folder = write_labelmaps(tmp_path, 2, DESCRIPTION)
    assert not any("left out" in note for note in open_dataset(folder).notes)
    first, second = sorted((folder / "labelsTr").iterdir())
    other = second.name.replace(".nii.gz", ".NII.GZ")
    second.rename(second.with_name(other))
    (folder / "labelsTr" / "read me.txt").write_text("no labelmap")
    dataset = open_dataset(folder)
    assert [case.labelmap for case in dataset.cases] == [first]
    (note,) = (note for note in dataset.notes if "left out" in note)
    assert note.startswith("note: 1 file(s) of labelsTr") and note.endswith(f".nii.gz: {other}")


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize("has_images", [True, False])
def test_files_that_were_not_downloaded_are_reported(has_images: bool, tmp_path: Path):
    """DataLad and git-annex leave links without a target."""
    if has_images:
        folder = write_dataset(tmp_path, cases=2)
    else:
        folder = write_labelmaps(tmp_path, 2, DESCRIPTION)
    linked = [sorted(part.iterdir())[1] for part in folder.iterdir() if part.is_dir()]
    for path in linked:
        path.unlink()
        path.symlink_to(tmp_path / ".git" / "annex" / "objects" / path.name)
    dataset = open_dataset(folder)
    with pytest.raises(MaskSAMError) as report:
        load_cases(dataset, names_of(dataset))
    for path in linked:
        assert f"{path.parent.name}/{path.name} links to a file that is missing" in str(
            report.value
        )


def test_an_unknown_case_is_named_in_the_error(tmp_path: Path):
    dataset = open_dataset(write_dataset(tmp_path, cases=2))
    with pytest.raises(MaskSAMError, match="no case nobody"):
        load_cases(dataset, ["case_00", "nobody"])


def test_a_labelmap_dataset_has_all_labels_as_a_channel_and_the_classes(tmp_path: Path):
    dataset = open_dataset(write_labelmaps(tmp_path, 2, DESCRIPTION))
    assert dataset.classes == ("left side", "middle", "right side") and dataset.scheme is not None
    for number, case in enumerate(load_cases(dataset, ["head_00", "head_01"])):
        indices = reorient(case.channels[0], "SAR").array
        np.testing.assert_array_equal(np.array(dataset.scheme.values)[indices], head(number))
        assert set(np.unique(case.labelmap)) == {0, 1, 2, 3}


def test_a_targets_file_replaces_a_missing_dataset_json(tmp_path: Path):
    folder = write_labelmaps(tmp_path / "maps", 2)
    with pytest.raises(MaskSAMError, match=r"no dataset.json: write one .* or give .* --targets"):
        open_dataset(folder)
    file = tmp_path / "labels.json"
    file.write_text(json.dumps(DESCRIPTION), encoding="utf-8")
    dataset, problems = examine_dataset(folder, file)
    assert not problems and len(dataset.cases) == 2
    (note,) = dataset.notes
    assert "no images: 3 classes are learned on images synthesised from 6 labels" in note


def test_a_targets_file_for_a_dataset_with_images_is_refused(tmp_path: Path):
    folder = write_dataset(tmp_path / "images", 2)
    with pytest.raises(MaskSAMError, match="--targets is for labelmaps without images"):
        examine_dataset(folder, tmp_path / "labels.json")


def test_a_dataset_with_an_empty_image_folder_is_not_a_labelmap_dataset(tmp_path: Path):
    folder = write_dataset(tmp_path, 2)
    for path in (folder / "imagesTr").iterdir():
        path.unlink()
    dataset = open_dataset(folder)
    assert dataset.scheme is None
    with pytest.raises(MaskSAMError, match="is missing"):
        load_cases(dataset, ["case_00"])


def test_missing_labelmaps_and_unknown_values_are_reported(tmp_path: Path):
    folder = tmp_path / "none"
    (folder / "labelsTr").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(DESCRIPTION), encoding="utf-8")
    with pytest.raises(MaskSAMError, match="no labelmap: labelsTr has no"):
        open_dataset(folder)
    fewer = {name: value for name, value in LABELS.items() if name != "skin"}
    other = write_labelmaps(tmp_path / "few", 1, {"labels": fewer})
    with pytest.raises(MaskSAMError, match=r"has values \[90\] that are in no class"):
        load_cases(open_dataset(other), ["head_00"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"background": 0, "a": "²"}}, "regions are not supported"),
        ({"labels": {"background": 0, "a": "9" * 5000}}, "regions are not supported"),
        ({"file_ending": ".nii/../x"}, "file_ending"),
        ({"file_ending": ".\0"}, "file_ending"),
    ],
)
def test_odd_values_of_dataset_json_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
):
    folder = write_dataset(tmp_path, cases=2)
    change_description(folder, **change)
    with pytest.raises(MaskSAMError, match=message):
        open_dataset(folder)


def test_dataset_json_with_a_byte_order_mark_is_read(tmp_path: Path):
    folder = write_dataset(tmp_path, cases=2)
    path = folder / "dataset.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert names_of(open_dataset(folder)) == ["case_00", "case_01"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a dataset with images and a dataset of labelmaps alone."""
    base = tmp_path_factory.mktemp("any")
    return write_dataset(base / "images", 1), write_labelmaps(base / "labelmaps", 1)


_IMAGES = {
    "channel_names": {"0": "MR"},
    "labels": {"background": 0, "Bright": 1, "Dark": 2},
    "numTraining": 1,
    "file_ending": ".nii.gz",
    "name": "Generated",
}


@settings(max_examples=30, deadline=None)
@given(document=changed(_IMAGES))
def test_any_dataset_json_is_read_or_refused(document: Any, folders: tuple[Path, Path]):
    read_or_refuse(document, folders[0] / "dataset.json", lambda path: open_dataset(path.parent))


@settings(max_examples=30, deadline=None)
@given(document=changed(DESCRIPTION))
def test_any_targets_file_is_read_or_refused(document: Any, folders: tuple[Path, Path]):
    path = folders[1] / "targets.json"
    read_or_refuse(document, path, lambda path: examine_dataset(folders[1], path))

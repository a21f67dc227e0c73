"""Cases, found in the paths of a command line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.cohort.case import Case, ImageSource
from MaskSAMCore.cohort.cases import find_cases
from MaskSAMCore.cohort.record import CaseRecord
from MaskSAMCore.cohort.shard import Shard
from MaskSAMCore.cohort.table import TABLE_NAME, CaseTable
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
    found = find_cases(paths, folder / "out", 2, "mha").cases
    assert [case.paths for case in found] == [paths]


def test_a_case_with_too_few_channels_is_refused(folder: Path):
    with pytest.raises(MaskSAMError, match=r"'y' has 1 image\(s\), but this model takes 2"):
        find_cases([folder / "a" / "y_0000.nii.gz"], folder / "out", 2, "mha")


def test_a_dot_in_a_folders_name_does_not_make_it_a_file(folder: Path):
    found = find_cases([folder / "a" / "x.nii.gz"], folder / "at-1.5mm", 1, "mha").cases
    assert found[0].output == folder / "at-1.5mm" / "x.mha"


def in_folder(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / "in" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder / "in"


@pytest.mark.parametrize(
    ("names", "cases"),
    [
        (["amos_0001", "amos_0004"], ["amos_0001", "amos_0004"]),
        (["_0000"], ["_0000"]),
        (["OAS1_0042"], ["OAS1_0042"]),
        (["a_0000", "b_0000"], ["a", "b"]),
        (["a_0000", "b"], ["a", "b"]),
        (["x_0000", "x_0003"], ["x_0000", "x_0003"]),
        (["x_0001", "x"], ["x", "x_0001"]),
        (["a.img", "b 1 .5", "._a", "c_00001"], ["a.img", "b 1 .5", "c_00001"]),
    ],
)
def test_with_one_channel_only_0000_is_no_part_of_a_name(
    names: list[str], cases: list[str], tmp_path: Path
):
    found = find_cases([in_folder(tmp_path, *names)], tmp_path / "out", 1, "mha").cases
    assert sorted(case.name for case in found) == cases
    assert all(case.output.name == f"{case.name}.mha" for case in found)


@pytest.mark.parametrize("names", [["x_0000", "x_0001"], ["x", "x_0000"]])
def test_what_may_be_two_channels_is_refused_with_one_channel(names: list[str], tmp_path: Path):
    with pytest.raises(MaskSAMError, match=r"'x' has 2 image\(s\), but this model takes 1"):
        find_cases([in_folder(tmp_path, *names)], tmp_path / "out", 1, "mha")


def test_a_named_file_keeps_its_name_with_one_channel(tmp_path: Path):
    path = in_folder(tmp_path, "x_0000") / "x_0000.nii.gz"
    assert find_cases([path], tmp_path / "out", 1, "mha").cases[0].name == "x_0000"


@pytest.mark.parametrize("names", [["amos_0001", "amos_0002"], ["a", "b"], ["a_0000", "b_0001"]])
def test_two_cases_in_a_folder_are_not_the_channels_of_one(names: list[str], tmp_path: Path):
    with pytest.raises(MaskSAMError, match="this model takes 2"):
        find_cases([in_folder(tmp_path, *names)], tmp_path / "out", 2, "mha")


def test_numbers_decide_the_order_of_channels(tmp_path: Path):
    images = in_folder(tmp_path, "x_0000", "x_0001", "y_0000", "y_0001")
    named = [images / "x_0001.nii.gz", images / "x_0000.nii.gz"]
    (case,) = find_cases(named, tmp_path / "out", 2, "mha").cases
    assert case.name == "x"
    assert case.paths == (named[1], named[0])
    found = find_cases([images], tmp_path / "out", 2, "mha").cases
    assert [case.name for case in found] == ["x", "y"]
    assert [path.name for path in found[1].paths] == ["y_0000.nii.gz", "y_0001.nii.gz"]


def test_dots_in_the_names_of_dicom_folders_are_part_of_the_case(tmp_path: Path):
    for name in ("1.2.840.1", "1.2.840.2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "slice").write_bytes(b"DICM")
    found = find_cases(
        [tmp_path / "1.2.840.1", tmp_path / "1.2.840.2"], tmp_path / "o", 1, "mha"
    ).cases
    assert [case.name for case in found] == ["1.2.840.1", "1.2.840.2"]


def test_folders_in_a_folder_are_repeated_in_the_output(tmp_path: Path):
    in_folder(tmp_path, "a", "site/b_0000", "site/deep/a", ".hidden/c", "__MACOSX/d")
    found = find_cases([tmp_path / "in"], tmp_path / "out", 1, "mha")
    assert {case.name: case.output.relative_to(tmp_path).as_posix() for case in found.cases} == {
        "a": "out/a.mha",
        "site/b": "out/site/b.mha",
        "site/deep/a": "out/site/deep/a.mha",
    }
    assert found.folders == (tmp_path / "in",)


def test_results_inside_the_folder_of_cases_are_no_cases(tmp_path: Path):
    images = in_folder(tmp_path, "a", "out/a", "out/deep/b")
    cases = find_cases([images], images / "out", 1, "nii.gz").cases
    assert [case.name for case in cases] == ["a"]


@pytest.mark.parametrize("shard", [None, Shard(2, 10)])
def test_results_of_another_run_inside_the_folder_of_cases_are_skipped_and_named(
    shard: Shard | None, tmp_path: Path
):
    images = in_folder(tmp_path, "a", "brain/a", "brain/deep/b", "site/b")
    with CaseTable(images / "brain" / TABLE_NAME, ["x"], shard) as table:
        table.add(CaseRecord("a", "done"))
    # A table of another program does not mark its folder as results.
    (images / "site" / TABLE_NAME).write_text("case,age\nb,61\n", encoding="utf-8")
    found = find_cases([images], tmp_path / "out", 1, "nii.gz")
    assert [case.name for case in found.cases] == ["a", "site/b"]
    assert [(one.name, one.failed) for one in found.left_out] == [("brain", False)]
    assert f"{images / 'brain'} has the results of another run" in found.left_out[0].reason
    # A folder of results is read if it is given itself.
    cases = find_cases([images / "brain"], tmp_path / "out", 1, "nii.gz").cases
    assert [case.name for case in cases] == ["a", "deep/b"]


def test_a_folder_that_links_to_itself_is_read_once(tmp_path: Path):
    images = in_folder(tmp_path, "a", "site/b")
    (images / "site" / "again").symlink_to(images, target_is_directory=True)
    cases = find_cases([images], tmp_path / "out", 1, "nii.gz").cases
    assert [case.name for case in cases] == ["a", "site/b"]


def test_a_case_with_too_few_channels_does_not_stop_the_others(tmp_path: Path):
    images = in_folder(tmp_path, "x_0000", "x_0001", "y_0000", "deep/x_0000")
    found = find_cases([images], tmp_path / "out", 2, "mha")
    assert [case.name for case in found.cases] == ["x"]
    assert [one.name for one in found.left_out] == ["y", "deep/x"]
    assert all(one.failed and "takes 2" in one.reason for one in found.left_out)


def test_results_in_the_folder_of_the_images_are_refused(tmp_path: Path):
    images = in_folder(tmp_path, "a")
    with pytest.raises(MaskSAMError, match=r"is the input folder.*another folder"):
        find_cases([images], tmp_path / "out" / ".." / images.name, 1, "nii.gz")
    # An image file that is given may lie in the output folder: the next run is given the same
    # file and does not take the result for an image.
    (case,) = find_cases([images / "a.nii.gz"], images, 1, "seg.nrrd").cases
    assert case.output == images / "a.seg.nrrd"


def test_a_case_is_outdated_if_a_file_of_its_images_is_newer_than_its_labelmap(tmp_path: Path):
    image, series, output = tmp_path / "a.nii.gz", tmp_path / "series", tmp_path / "out.nii.gz"
    series.mkdir()
    slices = [series / "1.dcm", series / "2.dcm"]
    for path in (image, *slices, output):
        path.touch()
        os.utime(path, (1000, 1000))
    case = Case("a", (ImageSource(image), ImageSource(series)), output)
    few = Case("a", (ImageSource(series, (slices[0],)),), output)
    assert not case.is_outdated
    os.utime(slices[1], (1001, 1001))
    assert case.is_outdated
    assert not few.is_outdated
    for path in (image, output):
        path.unlink()
        assert not case.is_outdated
        path.touch()
        os.utime(path, (1000, 1000))

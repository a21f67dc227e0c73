"""Trees of DICOM studies: a case for each series, except localizers and derived series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.cohort.cases import FoundCases, find_cases
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io import read_volume
from Testing.helpers.dicom import oblique_matrix, stored_values, write_slices

ORIGINAL = ("ORIGINAL", "PRIMARY", "M")
LOCALIZER = ("ORIGINAL", "PRIMARY", "LOCALIZER")
DERIVED = ("DERIVED", "SECONDARY", "MPR")


def write_series(
    folder: Path,
    uid: str,
    description: str = "T1",
    image_type: Sequence[str] = ORIGINAL,
    patient: str = "P1",
    name: str = "IM{:03}",
) -> list[Path]:
    def change(header, k):
        header.SeriesDescription = description
        header.SeriesNumber = uid.rsplit(".")[-1]
        header.ImageType = list(image_type)
        header.PatientID = patient

    return write_slices(folder, stored_values(), oblique_matrix(), change, series=uid, name=name)


def found_in(tree: Path) -> FoundCases:
    return find_cases([tree], tree.parent / "out", 1, "nii.gz")


def test_each_series_is_a_case_at_its_place_in_the_tree(tmp_path: Path):
    tree = tmp_path / "tree"
    write_series(tree / "anna" / "t1", "1.2.1")
    write_series(tree / "anna" / "both", "1.2.2", "T1 / mprage", name="A{:03}")
    write_series(tree / "anna" / "both", "1.2.3", "T2", name="B{:03}")
    (tree / "anna" / "report.txt").write_text("no image")
    found = found_in(tree)
    assert [case.name for case in found.cases] == [
        "anna/both/2_T1-mprage",
        "anna/both/3_T2",
        "anna/t1",
    ]
    assert found.cases[0].output == tmp_path / "out" / "anna" / "both" / "2_T1-mprage.nii.gz"
    for case in found.cases:
        (image,) = case.images
        volume = read_volume(image.path, image.files)
        np.testing.assert_array_equal(volume.array, stored_values())
        np.testing.assert_allclose(volume.ijk_to_ras, oblique_matrix(), atol=1e-4)


@pytest.mark.parametrize(
    ("character_set", "description"),
    [("ISO_IR 192", "größe"), ("ISO_IR 100", "größe"), (["", "ISO 2022 IR 87"], "頭部_本")],
)
def test_the_name_of_a_series_is_read_by_its_character_set(
    character_set: str | list[str], description: str, tmp_path: Path
):
    def change(header, k):
        header.SpecificCharacterSet = character_set
        header.SeriesDescription = description

    write_slices(tmp_path / "tree", stored_values(), oblique_matrix(), change)
    write_series(tmp_path / "tree", "1.2.2", name="B{:03}")
    assert [case.name for case in found_in(tmp_path / "tree").cases] == ["2_T1", description]


def test_localizers_and_derived_series_are_left_out_and_told(tmp_path: Path):
    tree = tmp_path / "tree"
    write_series(tree / "t1", "1.2.1")
    write_series(tree / "scout", "1.2.2", image_type=LOCALIZER)
    write_series(tree / "mpr", "1.2.3", image_type=DERIVED)
    found = found_in(tree)
    assert [case.name for case in found.cases] == ["t1"]
    reasons = {one.name: one.reason for one in found.left_out if not one.failed}
    assert "scout is a localizer" in reasons["scout"]
    assert "mpr is derived from other images" in reasons["mpr"]


def test_the_folder_of_one_series_is_a_case_whatever_its_type(tmp_path: Path):
    write_series(tmp_path / "mpr", "1.2.3", image_type=DERIVED)
    found = found_in(tmp_path / "mpr")
    assert [(case.name, case.paths) for case in found.cases] == [("mpr", (tmp_path / "mpr",))]
    assert not found.folders


def test_a_tree_without_a_scan_is_refused(tmp_path: Path):
    write_series(tmp_path / "tree" / "scout", "1.2.2", image_type=LOCALIZER)
    with pytest.raises(MaskSAMError, match="no case can be segmented, such as 'scout'"):
        found_in(tmp_path / "tree")


def test_a_series_in_several_folders_is_one_case(tmp_path: Path):
    tree = tmp_path / "tree"
    for path in write_series(tree / "anna" / "one", "1.2.1")[::2]:
        (tree / "anna" / "two").mkdir(exist_ok=True)
        path.rename(tree / "anna" / "two" / path.name)
    (case,) = found_in(tree).cases
    assert case.name == "anna"
    (image,) = case.images
    np.testing.assert_array_equal(read_volume(image.path, image.files).array, stored_values())


def test_patients_with_one_uid_are_separate_cases(tmp_path: Path):
    for name in ("anna", "bert"):
        write_series(tmp_path / "tree" / name, "1.2.1", patient=name)
    assert [case.name for case in found_in(tmp_path / "tree").cases] == ["anna", "bert"]


def test_a_damaged_slice_fails_its_series_and_no_other(tmp_path: Path):
    tree = tmp_path / "tree"
    write_series(tree / "good", "1.2.1")
    write_series(tree / "bad", "1.2.2")[2].write_bytes(b"")
    found = found_in(tree)
    assert [case.name for case in found.cases] == ["good"]
    assert [(one.name, one.failed) for one in found.left_out] == [("bad", True)]
    assert "IM002 is an empty file" in found.left_out[0].reason


def test_a_damaged_slice_among_several_series_is_told_with_each(tmp_path: Path):
    tree = tmp_path / "tree"
    write_series(tree / "both", "1.2.1", name="A{:03}")
    write_series(tree / "both", "1.2.2", name="B{:03}")
    (tree / "both" / "A099").write_bytes(b"")
    found = found_in(tree)
    assert [case.name for case in found.cases] == ["both/1_T1", "both/2_T1"]
    assert all("may lack slices" in note for case in found.cases for note in case.notes)
    assert [one.name for one in found.left_out] == ["both"]
    assert "A099 is an empty file" in found.left_out[0].reason


def test_empty_files_among_images_are_no_damaged_slices(tmp_path: Path):
    for name in ("a.nii.gz", "logs/DONE", "logs/1"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    found = found_in(tmp_path / "tree")
    assert [case.name for case in found.cases] == ["a"]
    assert not found.left_out

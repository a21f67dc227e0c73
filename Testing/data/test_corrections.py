"""Folders of corrected cases: appending, reading, and correcting an image again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.data.corrections import append_case, read_corrections
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.io import read_volume
from MaskSAMCore.io.labelmaps import read_labelmap
from MaskSAMCore.labels import Code, Label, Terminology
from Testing.helpers.threshold_model import LEFT_HANDED, OBLIQUE, matrix, rotation

SHAPE = (5, 7, 9)
ANISOTROPIC = matrix(rotation(20, 0) @ rotation(-15, 2), (0.7, 1.1, 3.0))


def image(seed: int = 0, ijk_to_ras: np.ndarray = OBLIQUE) -> Volume:
    rng = np.random.default_rng(seed)
    return Volume(rng.integers(0, 900, SHAPE).astype(np.int16), ijk_to_ras)


def labels(**boxes: int) -> np.ndarray:
    """Return a labelmap with the values 1, 2, ... on the slices with the given indices."""
    labelmap = np.zeros(SHAPE, np.uint8)
    for value, index in enumerate(boxes.values(), 1):
        labelmap[index] = value
    return labelmap


def append_many(folder: str, number: int) -> None:
    """Append eight cases with one of two classes checked, as one of several running programs."""
    values = {"A": 1, "B": 2}
    for count in range(8):
        volume = image(10 * number + count)
        append_case(Path(folder), [volume], labels(A=1, B=2), values, ["A"], f"{number}-{count}")


def described(values: str) -> str:
    """Return a ``dataset.json`` of one channel with the given labels."""
    return f'{{"channel_names": {{"0": "MR"}}, "labels": {values}, "file_ending": ".nii.gz"}}'


def stored(folder: Path) -> dict:
    return json.loads((folder / "dataset.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("grid", [OBLIQUE, LEFT_HANDED, ANISOTROPIC], ids=["oblique", "left", "an"])
def test_a_case_is_read_as_it_was_appended(tmp_path: Path, grid: np.ndarray):
    volume, labelmap = image(ijk_to_ras=grid), labels(Lesion=2, Brain=3)
    values = {"Lesion": 1, "Brain": 2}
    name = append_case(tmp_path / "new", [volume], labelmap, values, values, "Kopf 1/ä", ["T1"])
    assert name == "Kopf-1"
    found = read_corrections(tmp_path / "new")
    (case,) = found.dataset.cases
    assert found.checked == {name: frozenset(values)}
    assert found.dataset.channels == ("T1",)
    read = read_volume(case.images[0])
    np.testing.assert_array_equal(read.array, volume.array)
    np.testing.assert_allclose(read.ijk_to_ras, grid, atol=1e-4)
    np.testing.assert_array_equal(read_labelmap(case.labelmap).array, labelmap)


def test_a_name_too_long_for_a_file_is_cut(tmp_path: Path):
    arguments = labels(A=1), {"A": 1}, ["A"], "series " * 50
    names = {append_case(tmp_path, [image(seed)], *arguments) for seed in range(2)}
    assert set(read_corrections(tmp_path).checked) == names and len(names) == 2
    assert all(name.startswith("series-series") and len(name) < 120 for name in names)


def test_values_of_classes_never_change_and_new_ones_are_added(tmp_path: Path):
    append_case(tmp_path, [image(0)], labels(A=1, B=2), {"A": 1, "B": 2}, ["A"], "one")
    name = append_case(tmp_path, [image(1)], labels(B=1, C=3), {"B": 1, "C": 2}, ["B", "C"], "one")
    assert name == "one-2"
    assert stored(tmp_path)["labels"] == {"background": 0, "A": 1, "B": 2, "C": 3}
    labelmap = read_labelmap(tmp_path / "labelsTr" / "one-2.nii.gz").array
    assert np.unique(labelmap[1]).tolist() == [2] and np.unique(labelmap[3]).tolist() == [3]
    checked = read_corrections(tmp_path).checked
    assert checked == {"one": frozenset("A"), "one-2": frozenset("BC")}


def test_a_class_in_another_spelling_is_the_class_of_the_folder(tmp_path: Path):
    append_case(tmp_path, [image(0)], labels(A=1, B=2), {"Lesion": 1, "B": 2}, ["Lesion"], "one")
    append_case(tmp_path, [image(1)], labels(A=3), {"lesion": 1}, ["lesion"], "two")
    assert stored(tmp_path)["labels"] == {"background": 0, "Lesion": 1, "B": 2}
    found = read_corrections(tmp_path)
    assert found.checked == {"one": frozenset({"Lesion"}), "two": frozenset({"Lesion"})}
    assert np.unique(read_labelmap(tmp_path / "labelsTr" / "two.nii.gz").array[3]).tolist() == [1]
    # The class is checked again, so nothing of the older case is carried over.
    append_case(tmp_path, [image(0)], labels(A=4), {"LESION": 1}, ["LESION"], "one")
    again = read_labelmap(tmp_path / "labelsTr" / "one-2.nii.gz").array
    assert np.unique(again[4]).tolist() == [1] and not again[:4].any()


def test_an_equal_case_is_not_appended_twice(tmp_path: Path):
    arguments = [image()], labels(A=1), {"A": 1}, ["A"], "one"
    append_case(tmp_path, *arguments)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    # The volume may have been moved meanwhile.
    assert append_case(tmp_path, [image(ijk_to_ras=LEFT_HANDED)], *arguments[1:]) == "one"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_image_corrected_once_more_replaces_the_older_case_for_learning(tmp_path: Path):
    append_case(tmp_path, [image()], labels(A=1, B=2), {"A": 1, "B": 2}, ["A", "B"], "one")
    first = (tmp_path / "labelsTr" / "one.nii.gz").read_bytes()
    again = labels(B=3)
    for _ in range(2):  # pressing the button twice makes no third case
        assert append_case(tmp_path, [image()], again, {"B": 1}, ["B"], "one") == "one-2"
    append_case(tmp_path, [image(1)], labels(A=1), {"A": 1}, ["A"], "two")
    found = read_corrections(tmp_path)
    assert found.checked == {"one-2": frozenset("AB"), "two": frozenset("A")}
    # A class checked only in the older case is carried over, and the older file stays.
    labelmap = read_labelmap(tmp_path / "labelsTr" / "one-2.nii.gz").array
    assert np.unique(labelmap[1]).tolist() == [1] and np.unique(labelmap[3]).tolist() == [2]
    assert not labelmap[2].any()
    assert (tmp_path / "labelsTr" / "one.nii.gz").read_bytes() == first


def test_a_case_that_replaces_another_one_is_reported(tmp_path: Path):
    lines: list[str] = []
    append_case(tmp_path, [image()], labels(A=1), {"A": 1}, ["A"], "head", report=lines.append)
    assert lines == []
    for _ in range(2):
        append_case(tmp_path, [image()], labels(A=2), {"A": 1}, ["A"], "copy", report=lines.append)
    assert lines == ["copy replaces head, an earlier correction of the same image"]


def test_voxels_that_are_not_checked_replace_none_that_were_right(tmp_path: Path):
    values = {"A": 1, "B": 2, "C": 3}
    append_case(tmp_path, [image()], labels(A=0, B=1), values, ["A"], "one")
    again = labels(A=3, B=2, C=4)
    again[0, 0] = 3
    case = append_case(tmp_path, [image()], again, values, ["B"], "two")
    expected = labels(A=0, B=2, C=4)
    found = read_labelmap(tmp_path / "labelsTr" / f"{case}.nii.gz").array
    np.testing.assert_array_equal(found, expected)


def test_programs_that_append_at_the_same_time_lose_no_case(tmp_path: Path):
    script = "import sys; from Testing.data.test_corrections import append_many; "
    script += "append_many(sys.argv[1], int(sys.argv[2]))"
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "new"), str(number)])
        for number in range(2)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    found = read_corrections(tmp_path / "new")
    names = {f"{number}-{count}" for number in range(2) for count in range(8)}
    assert found.checked == dict.fromkeys(names, frozenset("A"))
    assert stored(tmp_path / "new")["numTraining"] == len(names)
    assert set(stored(tmp_path / "new")["images"]) == names
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "dataset.json",
        "imagesTr",
        "labelsTr",
    }


def test_cases_of_a_dataset_stay_right_as_a_whole_when_corrections_are_added(tmp_path: Path):
    append_case(tmp_path, [image()], labels(A=1, B=2), {"A": 1, "B": 2}, ["A"], "one")
    content = stored(tmp_path)
    del content["checked"], content["images"]  # as in any nnU-Net dataset
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert read_corrections(tmp_path).checked == {"one": frozenset("AB")}
    append_case(tmp_path, [image(1)], labels(A=1, C=3), {"A": 1, "C": 2}, ["C"], "two")
    assert read_corrections(tmp_path).checked == {"one": frozenset("AB"), "two": frozenset("C")}


def test_a_case_of_which_nobody_has_said_what_is_right_is_refused(tmp_path: Path):
    for seed, name in enumerate(("one", "two")):
        append_case(tmp_path, [image(seed)], labels(A=1, B=2), {"A": 1, "B": 2}, ["A"], name)
    content = stored(tmp_path)
    del content["checked"]["one"]
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(MaskSAMError, match=r"no entry of one .*name the classes"):
        read_corrections(tmp_path)


def test_an_incomplete_case_replaces_nothing(tmp_path: Path):
    append_case(tmp_path, [image()], labels(A=1), {"A": 1}, ["A"], "one")
    append_case(tmp_path, [image()], labels(A=2), {"A": 1}, ["A"], "one")
    (tmp_path / "labelsTr" / "one-2.nii.gz").unlink()  # as after a crash
    assert set(read_corrections(tmp_path).checked) == {"one"}
    assert append_case(tmp_path, [image()], labels(A=2), {"A": 1}, ["A"], "one") == "one-3"
    assert set(read_corrections(tmp_path).checked) == {"one-3"}


def test_what_a_killed_program_left_is_removed_with_the_next_case(tmp_path: Path):
    for name in (".masksam-old", ".masksam-young"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one_0000.nii.gz").touch()
    for path in (tmp_path / ".masksam-old" / "one_0000.nii.gz", tmp_path / ".masksam-old"):
        os.utime(path, (0, 0))
    append_case(tmp_path, [image()], labels(A=1), {"A": 1}, ["A"], "one")
    assert [path.name for path in tmp_path.glob(".*")] == [".masksam-young"]


def test_channels_may_differ_by_the_rounding_of_their_headers(tmp_path: Path):
    rounded = OBLIQUE.copy()
    rounded[:3, 3] += 0.02
    append_case(tmp_path, [image(), image(1, rounded)], labels(A=1), {"A": 1}, ["A"], "one")
    assert set(read_corrections(tmp_path).checked) == {"one"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": []}, "needs a volume"),
        ({"channels": [image(), image(1, LEFT_HANDED)]}, "share one grid"),
        ({"labelmap": np.zeros((2, 2, 2), np.uint8)}, "not on the grid"),
        ({"checked": []}, "no class is checked"),
        ({"checked": ["B"]}, "no class B"),
        ({"labels": {"A": 0}}, "different values from 1 up"),
        ({"labelmap": labels(A=1, B=2)}, "value 2, which is no class"),
        ({"labels": {"background": 1}, "checked": ["background"]}, "named 'background'"),
        ({"labels": {"A": 1, "Ignore": 2}}, "named 'Ignore'"),
    ],
)
def test_parts_that_do_not_fit_are_refused_and_leave_nothing(tmp_path: Path, change, message):
    values = {"channels": [image()], "labelmap": labels(A=1), "labels": {"A": 1}}
    values |= {"checked": ["A"], "name": "one", **change}
    with pytest.raises(MaskSAMError, match=message):
        append_case(tmp_path / "new", **values)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "does not describe a dataset"),
        (
            '{"channel_names": {"0": "T1", "1": "T2"}, "labels": {}, "file_ending": ".nii"}',
            "2 chan",
        ),
        (described('{"background": 0, "whole": [1, 2], "B": 1}'), "regions are not supported"),
        (described('{"B": 1}'), "from 0 (the background) up"),
        (described('{"unlabelled": 0, "A": 1, "ignore": 2}'), "'ignore', which is not supported"),
        (described('{"A": 0, "B": 1}'), "named 'A'"),
    ],
)
def test_folders_of_something_else_are_refused_and_unchanged(tmp_path: Path, content, message):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(MaskSAMError, match=re.escape(message)):
        append_case(tmp_path, [image()], labels(A=1), {"A": 1}, ["A"], "one")
    assert (tmp_path / "dataset.json").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]


def test_a_class_keeps_the_color_and_codes_that_its_segment_had_last(tmp_path: Path):
    codes = Terminology(Code("SCT", "49755003", "Altered"), Code("SCT", "4147007", "Mass"))
    folder, values = tmp_path / "kept", {"Lesion": 1, "Brain": 2}
    red, blue = Label(1, "Lesion", (1, 0, 0)), Label(5, "lesion", (0, 0, 1), codes)
    append_case(folder, [image(0)], labels(Lesion=2), values, ["Lesion"], "a", segments=[red])
    assert read_corrections(folder).segments == {"Lesion": red}
    append_case(folder, [image(1)], labels(Lesion=2), {"lesion": 1}, ["lesion"], "b", None, [blue])
    append_case(folder, [image(2)], labels(Brain=2), {"Brain": 1}, ["Brain"], "c")
    assert read_corrections(folder).segments == {"Lesion": Label(1, "Lesion", (0, 0, 1), codes)}


@pytest.mark.parametrize("entry", ["1", '{"Lesion": {}}', '{"Lesion": {"color": [1]}}'])
def test_damaged_colors_are_refused_in_one_line(tmp_path: Path, entry: str):
    folder = tmp_path / "kept"
    append_case(folder, [image()], labels(Lesion=2), {"Lesion": 1}, ["Lesion"], "a")
    content = {**stored(folder), "segments": json.loads(entry)}
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(MaskSAMError, match="'segments' must map names of classes to a color"):
        read_corrections(folder)

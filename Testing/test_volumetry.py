"""Tables of structure volumes and of the asymmetry of paired structures."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.labels import side_of
from MaskSAMCore.volumetry import (
    INTRACRANIAL,
    read_volume_table,
    structure_volumes,
    volume_table,
    worst,
    write_volume_table,
)


@pytest.mark.parametrize(
    ("name", "side", "structure"),
    [
        ("left hippocampus", "left", "hippocampus"),
        ("Right-Hippocampus", "right", "hippocampus"),
        ("Hippocampus, Left", "left", "hippocampus"),
        ("left_lateral_ventricle", "left", "lateral ventricle"),
        ("brain stem", "", "brain stem"),
        ("cleft", "", "cleft"),
        ("left and right lungs", "", "left and right lungs"),
    ],
)
def test_a_class_name_is_split_into_side_and_structure(name: str, side: str, structure: str):
    assert side_of(name) == (side, structure)


def test_volumes_are_in_ml_and_asymmetry_is_relative_to_the_mean_of_both_sides():
    found = [
        ("left caudate", 0.9, 3000),
        ("Anterior", 0.8, 500),
        ("right caudate", 0.7, 5000),
        ("left thalamus", 0.6, 10),
    ]
    rows = structure_volumes(found, voxel_ml=0.002)
    assert [row.name for row in rows] == [name for name, *_ in found]
    assert [row.ml for row in rows] == pytest.approx([6.0, 1.0, 10.0, 0.02])
    # The difference of 6 and 10 is divided by their mean of 8.
    assert rows[0].asymmetry == rows[2].asymmetry == pytest.approx(-50.0)
    assert rows[1].asymmetry is None
    assert rows[3].asymmetry is None, "its right side was not found"


def test_equal_sides_have_an_asymmetry_of_zero_and_empty_sides_have_none():
    equal = structure_volumes([("left eye", 1.0, 7), ("right eye", 1.0, 7)], 1.0)
    assert [row.asymmetry for row in equal] == [0.0, 0.0]
    empty = structure_volumes([("left eye", 0.0, 0), ("right eye", 0.0, 0)], 1.0)
    assert [row.asymmetry for row in empty] == [None, None]


def test_the_table_can_be_read_back_with_quotes_and_separators_in_names():
    rows = structure_volumes([('left "a", b', 0.5, 10), ("right a b", 0.25, 30)], 0.001)
    for separator, case in ((",", ""), ("\t", ""), (",", "campus, 1")):
        text = volume_table({case: rows}, separator)
        read = list(csv.DictReader(io.StringIO(text), delimiter=separator))
        assert [line["structure"] for line in read] == ['left "a", b', "right a b"]
        assert [float(line["volume_ml"]) for line in read] == [0.01, 0.03]
        assert [line["asymmetry_percent"] for line in read] == ["-100.00", "-100.00"]
        assert all(line.get("case", "") == case for line in read)
    three = volume_table({"one": rows, "none": [], "two": rows[:1]}).splitlines()
    assert [line.split(",")[0] for line in three] == ["case", "one", "one", "none", "two"]
    assert three[3] == "none,,,,"


@pytest.mark.parametrize("name", ["campus", "häd"])
def test_the_file_has_a_byte_order_mark_only_if_it_is_not_ascii(name: str, tmp_path: Path):
    path = tmp_path / "volumes.csv"
    write_volume_table(path, {name: structure_volumes([("eye", 0.5, 10)], 0.001)})
    # Excel reads a file without the mark in the system's own encoding.
    assert path.read_bytes().startswith(b"\xef\xbb\xbf") == (not name.isascii())
    (line,) = csv.DictReader(path.open(encoding="utf-8-sig"))
    assert line["case"] == name
    with pytest.raises(MaskSAMError, match="exists"):
        write_volume_table(path, {}, overwrite=False)


def test_a_table_that_was_written_is_read_and_other_files_are_refused(tmp_path: Path):
    path = tmp_path / "volumes.csv"
    found = [("left eye", 0.5, 10.0), ("right häd", 0.25, 30.0)]
    expected = {"left eye": (0.75, 0.5)}
    rows = structure_volumes(found, 1.0, expected, intracranial=["left eye"])
    plain = structure_volumes([("left eye", 0.5, 10.0), ("right eye", 0.25, 30.0)], 1.0)
    for cases in ({"a": rows, "b": [], "c, d": plain}, {"a": plain}):
        write_volume_table(path, cases)
        assert read_volume_table(path) == cases
    heading = path.read_text(encoding="utf-8").splitlines()[0]
    single = volume_table({"": plain})
    for content in ("precious", "", single, f"{heading}\na,eye,0.5,much,\n", f"{heading};x\n"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(MaskSAMError, match="no table of volumes"):
            read_volume_table(path)


def test_the_table_has_columns_of_the_expected_dice_only_where_it_was_estimated():
    found = [("eye", 0.5, 10), ("nose", 0.5, 20), ("ear", 0.5, 30)]
    expected = {"eye": (0.9, 0.8), "nose": (0.75, 0.65), "ear": (None, None)}
    rated = structure_volumes(found, 0.001, expected)
    heading, *rows = csv.reader(io.StringIO(volume_table({"": rated})))
    assert heading[-2:] == ["expected_dice", "expected_dice_low"]
    assert [row[-2:] for row in rows] == [["0.9000", "0.8000"], ["0.7500", "0.6500"], ["", ""]]
    lowest = worst(rated)
    assert lowest is not None
    assert lowest.name == "nose"
    plain = structure_volumes(found, 0.001)
    assert "expected" not in volume_table({"": plain})
    assert worst(plain) is None


def test_the_intracranial_volume_is_the_sum_of_its_classes_and_each_has_a_share():
    found = [("left eye", 0.9, 40), ("left lobe", 0.5, 30), ("right lobe", 0.5, 90)]
    lobes = ("left lobe", "right lobe", "lesion")
    rows = structure_volumes(found, 0.5, intracranial=lobes)
    assert [row.name for row in rows] == ["left eye", "left lobe", "right lobe", INTRACRANIAL]
    assert [row.ml for row in rows] == [20, 15, 45, 60]
    assert [row.share for row in rows] == [None, 25, 75, 100]
    # A sum has no confidence, and no opposite side to be compared with.
    assert (rows[-1].confidence, rows[-1].asymmetry) == (None, None)
    assert rows[1].asymmetry == pytest.approx(-100)
    assert structure_volumes(found[:1], 0.5, intracranial=lobes) == rows[:1]


def test_the_table_has_the_column_of_shares_only_where_the_intracranial_volume_is_known():
    found = [("lobe", 0.5, 30), ("lesion", 0.25, 10)]
    expected = {"lobe": (0.9, 0.8)}
    known = structure_volumes(found, 0.1, expected, ("lobe", "lesion"))
    unknown = structure_volumes(found, 0.1, expected)
    (heading, *rows) = csv.reader(io.StringIO(volume_table({"a": known, "b": unknown})))
    assert heading == [
        *("case", "structure", "score", "volume_ml", "asymmetry_percent"),
        *("intracranial_percent", "expected_dice", "expected_dice_low"),
    ]
    assert rows == [
        ["a", "lobe", "0.5000", "3.0000", "", "75.0000", "0.9000", "0.8000"],
        ["a", "lesion", "0.2500", "1.0000", "", "25.0000", "", ""],
        ["a", INTRACRANIAL, "", "4.0000", "", "100.0000", "", ""],
        ["b", "lobe", "0.5000", "3.0000", "", "", "0.9000", "0.8000"],
        ["b", "lesion", "0.2500", "1.0000", "", "", "", ""],
    ]
    assert "intracranial" not in volume_table({"b": unknown})

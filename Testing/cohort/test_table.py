"""Table of a run: no finished row is lost, and an incomplete row is ignored."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MaskSAMCore.cohort.record import CaseRecord
from MaskSAMCore.cohort.shard import Shard
from MaskSAMCore.cohort.table import CaseTable, paths_of, read_rows, volumes_of_row
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.volumetry import INTRACRANIAL, StructureVolume, structure_volumes
from Testing.cohort.helpers import rows_of

CLASSES = ("left eye", "right eye")
LEFT = StructureVolume("left eye", 0.5, 6.25, None)


def record(case: str, status: str = "done", **values: object) -> CaseRecord:
    return CaseRecord(case, status, **values)  # type: ignore[arg-type]


def test_a_row_has_the_volume_and_confidence_of_each_class(tmp_path: Path):
    with CaseTable(tmp_path / "cases.csv", CLASSES) as table:
        table.add(record("a", volumes=(LEFT,), seconds=1.5, peak_memory_mb=99.6))
        table.add(record("b", "failed", reason="b.nii.gz is an empty file"))
    rows = rows_of(tmp_path / "cases.csv")
    assert rows["a"]["left eye (ml)"] == "6.250000"
    assert rows["a"]["left eye (confidence)"] == "0.5000"
    assert (rows["a"]["right eye (ml)"], rows["a"]["right eye (confidence)"]) == ("0", "")
    assert (rows["a"]["seconds"], rows["a"]["peak_memory_mb"]) == ("1.50", "100")
    assert rows["b"]["reason"] == "b.nii.gz is an empty file"
    assert rows["b"]["left eye (ml)"] == ""


def test_a_row_has_the_class_with_the_lowest_bound_where_the_dice_is_estimated(tmp_path: Path):
    path = tmp_path / "cases.csv"
    rated = (
        StructureVolume("left eye", 0.5, 6.0, None, 0.85, 0.72),
        StructureVolume("right eye", 0.5, 6.0, None, 0.8, 0.75),
    )
    with CaseTable(path, CLASSES, rated=True) as table:
        table.add(record("a", volumes=rated))
        table.add(record("b", "failed", reason="damaged"))
    rows = rows_of(path)
    assert [rows["a"][c] for c in ("worst_class", "expected_dice", "expected_dice_low")] == [
        "left eye",
        "0.8500",
        "0.7200",
    ]
    assert rows["b"]["expected_dice_low"] == ""
    # A later run without estimates keeps the columns and estimates of earlier rows.
    with CaseTable(path, CLASSES) as table:
        table.add(record("c", volumes=(LEFT,)))
    rows = rows_of(path)
    assert rows["a"]["expected_dice_low"] == "0.7200"
    assert rows["c"]["expected_dice_low"] == ""
    with CaseTable(tmp_path / "plain.csv", CLASSES) as table:
        table.add(record("c", volumes=(LEFT,)))
    assert "expected" not in (tmp_path / "plain.csv").read_text()


def test_a_row_has_the_intracranial_volume_and_the_share_of_each_class_where_it_is_known(
    tmp_path: Path,
):
    path, classes = tmp_path / "cases.csv", ("eye", "lobe", "lesion")
    inside = classes[1:]
    found = [("eye", 0.9, 7.0), ("lobe", 0.8, 30.0), ("lesion", 0.7, 10.0)]
    volumes = structure_volumes(found, 1.0, intracranial=inside)
    healthy = structure_volumes(found[:2], 1.0, intracranial=inside)
    cut = structure_volumes(found, 1.0)
    with CaseTable(path, classes, cases="abc", intracranial=inside) as table:
        table.add(record("a", volumes=tuple(volumes)))
        table.add(record("b", volumes=tuple(healthy)))
        table.add(record("c", volumes=tuple(cut)))
    rows = rows_of(path)
    columns = ("intracranial volume (ml)", *(f"{name} (% of intracranial)" for name in inside))
    assert [[rows[case][column] for column in columns] for case in "abc"] == [
        ["40.000000", "75.0000", "25.0000"],
        ["30.000000", "100.0000", "0.0000"],
        ["", "", ""],
    ]
    assert "eye (% of intracranial)" not in rows["a"]
    assert "intracranial volume (confidence)" not in rows["a"]
    # A later run reads the rows back, although its own model has no intracranial columns.
    with CaseTable(path, ("eye",), cases="abc") as table:
        assert table.volumes() == {"a": volumes, "b": healthy, "c": cut}
    assert rows_of(path) == rows
    with CaseTable(tmp_path / "plain.csv", classes) as table:
        table.add(record("c", volumes=tuple(cut)))
    assert "intracranial" not in (tmp_path / "plain.csv").read_text()


@settings(max_examples=60, deadline=None)
@given(
    paths=st.lists(
        st.text(
            st.characters(exclude_characters="/\0") | st.sampled_from('; "\\\xa0\udce9'), min_size=1
        )
        .filter(lambda text: Path(text).name == text)
        .map(Path),
        min_size=1,
    )
)
def test_paths_are_read_as_they_were_written(
    paths: list[Path], tmp_path_factory: pytest.TempPathFactory
):
    path = tmp_path_factory.mktemp("table") / "cases.csv"
    with CaseTable(path, CLASSES) as table:
        table.add(record("a", inputs=tuple(paths), output=paths[0]))
    row = read_rows(path)["a"]
    assert row["input"].isprintable()
    absolute = [one.absolute() for one in paths]
    assert paths_of(row["input"]) == absolute
    assert paths_of(row["output"]) == absolute[:1]


def test_usual_paths_are_written_as_they_are(tmp_path: Path):
    inputs = (tmp_path / "Kopf ä; 1.nii.gz", tmp_path / "Kopf, ä;1.nii.gz")
    with CaseTable(tmp_path / "cases.csv", CLASSES) as table:
        table.add(record("a", inputs=inputs[1:]))
        table.add(record("b", inputs=inputs))
    rows = rows_of(tmp_path / "cases.csv")
    assert rows["a"]["input"] == str(inputs[1])
    assert rows["b"]["input"] == f"{json.dumps(str(inputs[0]))}; {inputs[1]}"


def test_each_row_is_in_the_file_at_once(tmp_path: Path):
    path = tmp_path / "cases.csv"
    with CaseTable(path, CLASSES) as table:
        for number in range(3):
            table.add(record(str(number)))
            assert len(path.read_text().splitlines()) == number + 2


def test_a_run_without_a_case_leaves_no_table(tmp_path: Path):
    path = tmp_path / "cases.csv"
    with CaseTable(path, CLASSES):
        assert path.is_file()
    assert not path.exists()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), names=st.lists(st.text(min_size=1, max_size=8), min_size=1, unique=True))
def test_a_table_that_was_cut_anywhere_keeps_its_complete_rows(
    data: st.DataObject, names: list[str], tmp_path_factory: pytest.TempPathFactory
):
    path = tmp_path_factory.mktemp("table") / "cases.csv"
    with CaseTable(path, CLASSES) as table:
        heading = path.stat().st_size
        ends = [heading]
        for name in names:
            table.add(record(name, reason=f'{name},\n"', volumes=(LEFT,)))
            ends.append(path.stat().st_size)
        written = path.read_bytes()
        expected = list(table.rows)
    cut = data.draw(st.integers(heading, len(written)))
    path.write_bytes(written[:cut])
    complete = sum(end <= cut for end in ends) - 1
    assert list(CaseTable(path, CLASSES).rows) == expected[:complete]


def test_later_rows_replace_earlier_ones_and_rows_of_other_runs_stay(tmp_path: Path):
    path = tmp_path / "cases.csv"
    with CaseTable(path, CLASSES) as table:
        table.add(record("b", volumes=(LEFT,)))
        table.add(record("a", "failed", reason="damaged"))
    with CaseTable(path, ("Nose",)) as table:
        table.add(record("a", "started"))
        table.add(record("a", volumes=(StructureVolume("Nose", 0.25, 2.0),)))
    rows = rows_of(path)
    assert list(rows) == ["a", "b"]
    assert rows["a"]["status"] == "done"
    assert rows["a"]["Nose (ml)"] == "2.000000"
    assert rows["b"]["left eye (ml)"] == "6.250000"


def test_a_class_that_only_another_model_has_is_not_said_to_be_absent(tmp_path: Path):
    path, skull = tmp_path / "cases.csv", ("left eye",)
    with CaseTable(path, CLASSES, intracranial=skull) as table:
        table.add(
            record("a", volumes=tuple(structure_volumes([("left eye", 0.5, 6.25)], 1, {}, skull)))
        )
    nose = (StructureVolume("Nose", 0.25, 2.0), StructureVolume(INTRACRANIAL, None, 2.0))
    with CaseTable(path, ("Nose", "Mouth"), intracranial=("Nose",)) as table:
        table.add(record("b", volumes=nose))
    row = rows_of(path)["b"]
    assert (row["Nose (ml)"], row["Mouth (ml)"]) == ("2.000000", "0")
    assert row["left eye (ml)"] == row["left eye (confidence)"] == row["right eye (ml)"] == ""
    assert row["left eye (% of intracranial)"] == ""
    assert set(volumes_of_row(row)) == {"Nose", "Mouth", INTRACRANIAL}


@pytest.mark.parametrize("place", [5, 9, None], ids=["between", "before_last", "end"])
def test_a_column_that_the_user_has_added_stays(place: int | None, tmp_path: Path):
    path = tmp_path / "cases.csv"
    with CaseTable(path, CLASSES) as table:
        for case in "ab":
            table.add(record(case, volumes=(LEFT,)))
    lines = list(csv.reader(path.read_text().splitlines()))
    for line, cell in zip(lines, ("check", "motion, left out", ""), strict=True):
        line.insert(len(line) if place is None else place, cell)
        # Spreadsheets may write empty columns, too.
        line.append("")
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(lines)
    with CaseTable(path, CLASSES, cases="abc") as table:
        assert [one.ml for one in table.volumes()["a"]] == [6.25]
        table.add(record("c", volumes=(LEFT,)))
        assert rows_of(path)["c"]["output"] == ""
    rows = rows_of(path)
    assert [rows[case]["check"] for case in "abc"] == ["motion, left out", "", ""]
    assert [rows[case]["left eye (ml)"] for case in "abc"] == ["6.250000"] * 3
    assert "" not in rows["a"]


def test_tables_of_shards_become_one(tmp_path: Path):
    path = tmp_path / "cases.csv"
    for number, name in enumerate("ab", 1):
        with CaseTable(path, CLASSES, Shard(number, 2), [name]) as table:
            table.add(record(name, volumes=(LEFT,)))
    assert not path.exists()
    with CaseTable(path, CLASSES, cases=["a", "b"]) as table:
        assert list(table.volumes()) == ["a", "b"]
    assert {name: row["status"] for name, row in rows_of(path).items()} == {
        "a": "done",
        "b": "done",
    }


@pytest.mark.parametrize(
    ("later", "latest"), [("failed", "failed"), ("started", "started"), ("skipped", "done")]
)
def test_a_case_that_fails_in_a_later_shard_is_no_longer_done(
    tmp_path: Path, later: str, latest: str
):
    path = tmp_path / "cases.csv"
    with CaseTable(path, CLASSES, cases=["a"]) as table:
        table.add(record("a", volumes=(LEFT,)))
    os.utime(path, (0, 0))
    with CaseTable(path, CLASSES, Shard(1, 2), ["a"]) as table:
        table.add(record("a", later))
    assert read_rows(path)["a"]["status"] == latest


def test_volumes_of_earlier_runs_are_those_of_the_file(tmp_path: Path):
    path = tmp_path / "cases.csv"
    right = StructureVolume("right eye", 0.75, 6.0, None)
    with CaseTable(path, CLASSES) as table:
        table.add(record("a", volumes=(LEFT, right)))
        table.add(record("other"))
    ((name, rows),) = CaseTable(path, CLASSES, cases=["a"]).volumes().items()
    assert name == "a"
    assert [(row.name, row.confidence, row.ml) for row in rows] == [
        ("left eye", 0.5, 6.25),
        ("right eye", 0.75, 6.0),
    ]
    assert rows[0].asymmetry == pytest.approx(200 * 0.25 / 12.25)


@pytest.mark.parametrize("column", ["left eye (ml)", "left eye (confidence)"])
def test_a_cell_that_is_no_number_is_named(column: str, tmp_path: Path):
    path = tmp_path / "cases.csv"
    with CaseTable(path, CLASSES, cases=["a"]) as table:
        table.add(record("a", volumes=(LEFT,)))
    value = "6.250000" if "ml" in column else "0.5000"
    path.write_text(path.read_text().replace(value, '"6,25"'))
    with pytest.raises(MaskSAMError, match=rf"'6,25' in .*{re.escape(column)}.* of the case 'a'"):
        CaseTable(path, CLASSES, cases=["a"]).volumes()


@pytest.mark.parametrize(
    "content",
    [b"precious", b"case,status\n1,2\n", b"case;status;reason\n1;2;3\n", b"\xff\xfe\x00\n"],
)
def test_a_file_that_is_no_table_of_cases_is_kept(content: bytes, tmp_path: Path):
    path = tmp_path / "cases.csv"
    path.write_bytes(content)
    with pytest.raises(MaskSAMError, match="no table of cases"):
        CaseTable(path, CLASSES)
    assert path.read_bytes() == content


def test_two_runs_at_the_same_time_keep_the_rows_of_both(tmp_path: Path):
    path = tmp_path / "cases.csv"
    right = StructureVolume("right eye", 0.5, 3.0, None)
    with CaseTable(path, CLASSES, cases=["a", "b"]) as first:
        first.add(record("a", volumes=(LEFT,)))
        # Another model, whose columns have another order.
        with CaseTable(path, CLASSES[::-1], cases=["c", "d"]) as second:
            second.add(record("c", volumes=(right,)))
            first.add(record("b", volumes=(LEFT,)))
            second.add(record("d", "failed", reason="damaged"))
            killed = rows_of(path)
        assert rows_of(path).keys() == {*"abcd"}
    rows = rows_of(path)
    assert rows == killed
    volumes = {name: (row["left eye (ml)"], row["right eye (ml)"]) for name, row in rows.items()}
    left, right_only = ("6.250000", "0"), ("0", "3.000000")
    assert volumes == {"a": left, "b": left, "c": right_only, "d": ("", "")}
    assert rows["d"]["reason"] == "damaged"
    with CaseTable(tmp_path / "new.csv", CLASSES) as table:
        path = tmp_path / "new.csv"
        path.unlink()  # as another run does at its end if it has no rows
        table.add(record("e"))
        assert rows_of(path).keys() == {"e"}


def test_a_case_that_another_run_has_finished_meanwhile_stays_done(tmp_path: Path):
    path = tmp_path / "cases.csv"
    with CaseTable(path, CLASSES, cases=["a"]) as first:
        with CaseTable(path, CLASSES, cases=["a"]) as second:
            first.add(record("a", "started"))
            second.add(record("a", "started"))
            first.add(record("a", volumes=(LEFT,)))
            second.add(record("a", "failed", reason="a.nii.gz exists"))
        assert rows_of(path)["a"]["left eye (ml)"] == "6.250000"
    assert rows_of(path)["a"]["status"] == "done"
    # A later run that fails at the case records this, even if its columns differ.
    with CaseTable(path, ("Nose",), cases=["a"]) as later:
        later.add(record("a", "failed", reason="damaged"))
    assert rows_of(path)["a"]["status"] == "failed"


def test_a_table_that_another_program_keeps_open_does_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "cases.csv"
    open_file, replace = Path.open, os.replace

    def open_unlocked(file: Path, mode: str = "r", *arguments: Any, **others: Any) -> Any:
        if file == path and "a" in mode:
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_file(file, mode, *arguments, **others)

    def replace_unlocked(source: Path, target: Path) -> None:
        if target == path:
            raise PermissionError(errno.EACCES, "Permission denied")
        replace(source, target)

    with CaseTable(path, CLASSES, cases=["a", "b", "c"]) as table:
        table.add(record("a"))
        monkeypatch.setattr(Path, "open", open_unlocked)
        monkeypatch.setattr(os, "replace", replace_unlocked)
        with pytest.raises(MaskSAMError, match=r"cases\.csv: permission denied"):
            CaseTable(path, CLASSES).__enter__()
        table.add(record("b"))
        assert rows_of(path).keys() == {"a"}
        table.add(record("c"))
        assert table.path == tmp_path / "cases-1-of-1.csv"
        assert rows_of(table.path).keys() == {*"abc"}
    monkeypatch.undo()
    with CaseTable(path, CLASSES, cases=["d"]) as table:
        table.add(record("d"))
    assert rows_of(path).keys() == {*"abcd"}

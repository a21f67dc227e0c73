"""The table of volumes: left beside right, on the clipboard, in a file."""

from __future__ import annotations

import csv
import io

import pytest

from Testing import host
from Testing.helpers.threshold_model import two_blobs
from Testing.panel.fixtures import blobs_volume
from Testing.slicer.module_tools import GRIDS

# On this grid nothing is resampled.
GRID = GRIDS["axis-aligned"]
ASYMMETRY = 3


def test_asymmetry_is_shown_where_there_are_two_sides(person):
    table = person.ui.resultsTable
    person.segment(blobs_volume(GRID), "sided")
    left, right = ((two_blobs() == value).sum() for value in (1, 2))
    shown = f"{200 * (left - right) / (left + right):+.1f}"
    assert left != right
    assert [row[0] for row in person.table] == ["left blob", "right blob"]
    assert [table.item(row, ASYMMETRY).text() for row in range(2)] == [shown, shown]
    assert not table.isColumnHidden(ASYMMETRY)
    person.segment(blobs_volume(GRID), "threshold")
    assert table.isColumnHidden(ASYMMETRY)


def test_the_table_is_copied_and_exported(person, tmp_path):
    import qt

    assert not person.ui.copyButton.enabled
    assert not person.ui.exportButton.enabled
    person.segment(blobs_volume(GRID, name="MR häd"), "sided")
    person.click(person.ui.copyButton)
    copied = qt.QApplication.clipboard().text()
    assert copied.splitlines()[0].split("\t")[0] == "structure"
    target = tmp_path / "völumes"
    host.messages.answers.append(str(target))
    person.click(person.ui.exportButton)
    assert "völumes.csv" in person.status
    text = target.with_suffix(".csv").read_text(encoding="utf-8-sig")
    for lines, separator in ((copied, "\t"), (text, ",")):
        rows = list(csv.DictReader(io.StringIO(lines), delimiter=separator))
        assert [row["structure"] for row in rows] == ["left blob", "right blob"]
        expected = [(two_blobs() == value).sum() / 1000 for value in (1, 2)]
        assert [float(row["volume_ml"]) for row in rows] == pytest.approx(expected, abs=1e-4)
    # In a file the case is named, so that files of several volumes can be put together.
    assert {row["case"] for row in rows} == {"MR häd"}
    # A choice that is taken back writes nothing, and a place that cannot be written to is told.
    before = sorted(tmp_path.iterdir())
    host.messages.answers.append("")
    person.click(person.ui.exportButton)
    assert sorted(tmp_path.iterdir()) == before
    host.messages.answers.append(str(tmp_path / "nowhere" / "volumes.csv"))
    person.click(person.ui.exportButton)
    assert "cannot write" in host.messages.texts("error")[-1]


def test_a_file_is_replaced_only_if_the_person_says_so(person, tmp_path):
    """The dialog asks for the name that was typed, to which the suffix is added."""
    person.segment(blobs_volume(GRID), "sided")
    target = tmp_path / "volumes.csv"
    target.write_text("precious")
    host.messages.answers.extend([str(tmp_path / "volumes"), False])
    person.click(person.ui.exportButton)
    assert target.read_text() == "precious"
    assert "Replace it?" in host.messages[-1].text
    host.messages.answers.extend([str(tmp_path / "volumes"), True])
    person.click(person.ui.exportButton)
    assert "left blob" in target.read_text(encoding="utf-8-sig")


def test_the_proposed_name_is_one_that_every_system_takes(person, monkeypatch):
    import qt

    proposed = []
    monkeypatch.setattr(
        qt.QFileDialog,
        "getSaveFileName",
        staticmethod(lambda _parent, _title, name, _kinds: proposed.append(name) or ""),
    )
    person.segment(blobs_volume(GRID, name='5: T1/FLAIR "x"?'), "sided")
    person.click(person.ui.exportButton)
    assert proposed == ["5_ T1_FLAIR _x_-volumes.csv"]


def test_what_was_taken_back_is_not_exported(person):
    person.segment(blobs_volume(GRID), "sided")
    person.click(person.ui.undoButton)
    assert not person.ui.exportButton.enabled
    assert not person.ui.copyButton.enabled
    person.click(person.ui.redoButton)
    assert person.ui.exportButton.enabled

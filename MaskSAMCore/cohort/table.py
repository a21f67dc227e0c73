"""Table of a run, ``cases.csv``, with a row for each case.

Rows are appended and reach the disk one by one, so that a killed run loses none. An incomplete last
row is left out when the table is read again. Rows that another run writes to the same table at the
same time are kept, and a case that the other run has finished stays done. Columns that users add
are kept in rows that are not replaced. A run goes on if another program keeps the table open.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TypeGuard

from MaskSAMCore.cohort.record import CaseRecord, Status
from MaskSAMCore.cohort.shard import Shard
from MaskSAMCore.errors import MaskSAMError, visible
from MaskSAMCore.io.files import write_text
from MaskSAMCore.volumetry import INTRACRANIAL, StructureVolume, structure_volumes, worst

TABLE_NAME = "cases.csv"
_FIRST = ("case", "status", "reason", "seconds", "peak_memory_mb")
# Columns of the class whose expected Dice has the lowest bound.
_WORST = ("worst_class", "expected_dice", "expected_dice_low")
_LAST = ("notes", "model", "model_version", "software", "settings", "input", "output")
# Column that tables of earlier versions lack.
_NEW = "settings"
_VOLUME = " (ml)"
_CONFIDENCE = " (confidence)"
_SHARE = " (% of intracranial)"
_BYTE_ORDER_MARK = "\ufeff"
_SEPARATOR = "; "
_QUOTE = '"'

Row = Mapping[str, str]


class CaseTable:
    """Rows of a run by case, kept in a file.

    Rows that earlier runs and their shards wrote for the same folder are kept until a row of this
    run replaces them.

    Args:
        path: file of the table; None to keep the rows in memory only.
        class_names: classes of the model, each with two columns.
        shard: part of the cases that this run segments; its rows go into a file of their own.
        cases: names of the cases of the run.
        rated: whether the model estimates the Dice of its results.
        intracranial: classes that together fill the skull, each with a further column, and one
            column for their sum; none if the model does not state them.

    Attributes:
        path: file that the rows are written to; None while they are kept in memory only.
        rows: latest row of each case, in the order of case names.
        written: time of the last write to the files by earlier runs; 0 without files.

    Raises:
        MaskSAMError: a file at ``path`` is no table of cases, or cannot be written.
    """

    def __init__(
        self,
        path: Path | None,
        class_names: Sequence[str],
        shard: Shard | None = None,
        cases: Iterable[str] = (),
        rated: bool = False,
        intracranial: Iterable[str] = (),
    ) -> None:
        self.path = path if path is None or shard is None else shard.own_file(path)
        self.rows: dict[str, Row] = {}
        self._earlier: Mapping[str, Row] = {}
        self._volumes: dict[str, list[StructureVolume]] = {}
        self._lock = Lock()
        self._whole, self._shard = path, shard
        self._rated = rated
        self._cases = set(map(visible, cases))
        self._classes = list(dict.fromkeys(map(visible, class_names)))
        self._intracranial = list(dict.fromkeys(map(visible, intracranial)))
        # Another model may have written rows with other classes.
        self._other_classes: list[str] = []
        self._other_intracranial: list[str] = []
        self._added: list[str] = []
        self._take_over()
        self._earlier = dict(self.rows)
        files = [] if path is None else [path, *Shard.files(path)]
        self.written = max((one.stat().st_mtime for one in files if one.is_file()), default=0.0)

    def __enter__(self) -> CaseTable:
        """Write the rows of earlier runs with all columns, so that rows can be appended."""
        with self._lock:
            self._rewrite()
        return self

    def __exit__(self, *error: object) -> None:
        """Rewrite the file with one row per case, sorted by case; remove it if there are none."""
        with self._lock:
            with self._elsewhere_if_locked():
                self._rewrite()
            if self.path is not None and not self.rows:
                self.path.unlink(missing_ok=True)

    def row(self, case: str) -> Row | None:
        """Return the latest row of a case; None if there is none."""
        return self.rows.get(visible(case))

    def is_done(self, case: str) -> bool:
        """Return whether this or an earlier run segmented a case, so that its volumes are known."""
        return has_status(self.row(case), "done")

    def add(self, record: CaseRecord) -> None:
        """Add the row of a case; it is on the disk when this returns.

        Raises:
            MaskSAMError: the file cannot be written, for example because the disk is full.
        """
        row = self._row(record)
        with self._lock:
            self.rows[row["case"]] = row
            self._volumes[row["case"]] = list(record.volumes)
            if self.path is None:
                return
            with self._elsewhere_if_locked():
                if _first_line(self.path) == _lines([], self._columns, heading=True):
                    _append(self.path, _lines([row], self._columns, heading=False))
                else:
                    # Another run has written the table with other columns, or has removed it.
                    self._rewrite()

    def volumes(self) -> dict[str, list[StructureVolume]]:
        """Return the volumes of the classes found in each segmented case of the run, by case name.

        Cases of the run that an earlier run segmented are included.
        """
        return {
            name: self._volumes.get(name) or _volumes(row)
            for name, row in self.rows.items()
            if name in self._cases and row["status"] == "done"
        }

    @property
    def _columns(self) -> list[str]:
        names = [*self._classes, *self._other_classes]
        classes = [name + kind for name in names for kind in (_VOLUME, _CONFIDENCE)]
        if shared := [*self._intracranial, *self._other_intracranial]:
            classes.append(INTRACRANIAL + _VOLUME)
            classes += [name + _SHARE for name in shared]
        rated = _WORST if self._rated else ()
        return [*_FIRST, *classes, *rated, *_LAST, *self._added]

    def _row(self, record: CaseRecord) -> Row:
        found = {visible(one.name): one for one in record.volumes}
        row = {
            "case": record.case,
            "status": record.status,
            "reason": record.reason,
            "seconds": "" if record.seconds is None else f"{record.seconds:.2f}",
            "peak_memory_mb": (
                "" if record.peak_memory_mb is None else f"{record.peak_memory_mb:.0f}"
            ),
            "notes": _SEPARATOR.join(record.notes),
            "model": record.model,
            "model_version": record.model_version,
            "software": record.software,
            "settings": record.settings,
            # From another directory, a relative path may lead to a file of another patient.
            "input": _path_cell(path.absolute() for path in record.inputs),
            "output": "" if record.output is None else _path_cell([record.output.absolute()]),
        }
        if record.status == "done":
            for name in self._classes:
                one = found.get(name)
                row[name + _VOLUME] = "0" if one is None else f"{one.ml:.6f}"
                confidence = None if one is None else one.confidence
                row[name + _CONFIDENCE] = "" if confidence is None else f"{confidence:.4f}"
            if INTRACRANIAL in found:
                row[INTRACRANIAL + _VOLUME] = f"{found[INTRACRANIAL].ml:.6f}"
                for name in self._intracranial:
                    share = found[name].share if name in found else None
                    row[name + _SHARE] = f"{share or 0.0:.4f}"
            lowest = worst(record.volumes)
            if lowest is not None:
                numbers = (lowest.expected_dice, lowest.expected_dice_low)
                texts = (lowest.name, *(f"{number:.4f}" for number in numbers))
                row.update(zip(_WORST, texts, strict=True))
        return {column: visible(value) for column, value in row.items()}

    def _take_over(self) -> None:
        """Take over the rows in the files of the table, except for cases added by this run.

        A case that another run has finished meanwhile counts as done, whatever its outcome here.
        """
        if self._whole is None:
            return
        written = read_rows(self._whole)
        if self._shard is not None:
            written = {name: row for name, row in written.items() if name in self._cases}
        own = {
            name: self.rows[name]
            for name in self._volumes
            if self.rows[name]["status"] == "done" or not self._is_done_meanwhile(written.get(name))
        }
        self.rows = {**written, **own}

    def _is_done_meanwhile(self, row: Row | None) -> bool:
        """Return whether another run has finished the case of a row since this run began."""
        if not has_status(row, "done"):
            return False
        # A rewritten table may have more columns, which are empty in the rows of earlier runs.
        return _filled(row) != _filled(self._earlier.get(row["case"], {}))

    @contextmanager
    def _elsewhere_if_locked(self) -> Iterator[None]:
        """Write the table to another file, named like that of a shard, if its own file is locked.

        On Windows, Excel locks the tables that it has open.
        """
        try:
            yield
        except MaskSAMError as error:
            locked = isinstance(error.__cause__, PermissionError) and self.path == self._whole
            if not locked or self.path is None or self._shard is not None:
                raise
            self.path = Shard(1, 1).own_file(self.path)
            self._rewrite()

    def _rewrite(self) -> None:
        """Rewrite all rows, including those that another run has added meanwhile."""
        self._take_over()
        self.rows = dict(sorted(self.rows.items()))
        if self.path is None:
            return
        known = dict.fromkeys(column for row in self.rows.values() for column in row)
        self._rated = self._rated or not known.keys().isdisjoint(_WORST)
        shared = sorted(c[: -len(_SHARE)] for c in known if c.endswith(_SHARE))
        self._other_intracranial = [name for name in shared if name not in self._intracranial]
        more = sorted(known.keys() - {*self._columns})
        self._other_classes += [c[: -len(_VOLUME)] for c in more if c.endswith(_VOLUME)]
        # Spreadsheets write empty columns without a name.
        self._added += [column for column in known if column and column not in self._columns]
        text = _lines(self.rows.values(), self._columns, heading=True)
        # Without a byte order mark, Excel reads text beyond ASCII in another encoding.
        write_text(self.path, text if text.isascii() else _BYTE_ORDER_MARK + text)


def read_rows(path: Path) -> dict[str, Row]:
    """Return the rows of a table and of the tables of its shards, the latest of each case.

    Raises:
        MaskSAMError: a table cannot be read, or is another kind of file.
    """
    tables = [path, *Shard.files(path)]
    found: dict[str, Row] = {}
    for table in sorted((t for t in tables if t.is_file()), key=lambda t: t.stat().st_mtime):
        latest: dict[str, Row] = {}
        for row in _read(table):
            # Another run may have finished the case at the same time.
            if row["status"] == "done" or not has_status(latest.get(row["case"]), "done"):
                latest[row["case"]] = row
        for name, row in latest.items():
            # A case that one shard segmented is skipped by others.
            if row["status"] != "skipped" or not has_status(found.get(name), "done"):
                found[name] = row
    return found


def is_table(path: Path) -> bool:
    """Return whether a file has the name and first columns of a table of a run or of a shard."""
    named = path.name == TABLE_NAME or Shard.is_own_file(path, path.with_name(TABLE_NAME))
    return named and _first_line(path).startswith(",".join(_FIRST) + ",")


def has_status(row: Row | None, status: Status) -> TypeGuard[Row]:
    """Return whether there is a row and it has the given status."""
    return row is not None and row["status"] == status


def _filled(row: Row) -> Row:
    """Return a row without its empty cells."""
    return {column: value for column, value in row.items() if value}


def _read(path: Path) -> list[Row]:
    """Return the complete rows of a table.

    Raises:
        MaskSAMError: the file cannot be read, or is another kind of file.
    """
    try:
        content = path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1].decode("utf-8-sig")
    except OSError as error:
        raise MaskSAMError(f"{path} cannot be read: {(error.strerror or '').lower()}") from error
    except UnicodeError:
        complete = ""
        content = b"other"
    reader = csv.DictReader(io.StringIO(complete, newline=""), restval="")
    fields = list(reader.fieldnames or ())
    if content and (fields[: len(_FIRST)] != [*_FIRST] or not {*_LAST} - {_NEW} <= {*fields}):
        raise MaskSAMError(
            f"{path} is no table of cases as masksam writes it, with commas and in UTF-8: move it,"
            " or choose another folder"
        )
    return [{key: value for key, value in row.items() if key is not None} for row in reader]


def _lines(rows: Iterable[Row], columns: Sequence[str], heading: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    if heading:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _first_line(path: Path) -> str:
    """Return the first line of a table; empty if it cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return stream.readline()
    except (OSError, UnicodeError):
        return ""


def _append(path: Path, line: str) -> None:
    try:
        with path.open("ab") as stream:
            stream.write(line.encode("utf-8"))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MaskSAMError(f"cannot write {path}: {reason}") from error


def paths_of(cell: str) -> list[Path]:
    """Return the paths in a cell of the inputs or the output."""
    found = []
    while cell:
        text, end = _first_path(cell)
        if text:
            found.append(Path(text))
        cell = cell[end:].removeprefix(_SEPARATOR)
    return found


def _first_path(cell: str) -> tuple[str, int]:
    """Return the first path in a cell, and the position of its end."""
    if cell.startswith(_QUOTE):
        try:
            text, end = json.JSONDecoder().raw_decode(cell)
            return str(text), end
        except ValueError:
            pass  # Earlier versions did not quote paths, so the quote is part of the name.
    text = cell.partition(_SEPARATOR)[0]
    return text, len(text)


def _path_cell(paths: Iterable[Path]) -> str:
    """Return a cell with paths, which :func:`paths_of` reads.

    A path that would be ambiguous in a cell, or is not printable, is written as a JSON string.
    """
    texts = map(str, paths)
    return _SEPARATOR.join(
        text
        if text.isprintable() and _SEPARATOR not in text and not text.startswith(_QUOTE)
        else json.dumps(text)
        for text in texts
    )


@dataclass(frozen=True)
class RowVolume:
    """Volume of a class in a row, or the intracranial volume.

    Attributes:
        ml: volume in ml; 0 if the class was not found.
        confidence: mean probability over the voxels of the class; None if the class was not found,
            and for the intracranial volume.
        share: percentage of the intracranial volume; None if the row does not state it.
    """

    ml: float
    confidence: float | None
    share: float | None


def volumes_of_row(row: Row) -> dict[str, RowVolume]:
    """Return the volume of each class in a row by its name, and the intracranial volume if the row
    has it.

    Raises:
        MaskSAMError: a cell that must be a number holds something else.
    """
    found = {}
    for column in row:
        if column.endswith(_VOLUME) and (ml := _number(row, column)) is not None:
            name = column[: -len(_VOLUME)]
            found[name] = RowVolume(
                ml, _number(row, name + _CONFIDENCE), _number(row, name + _SHARE)
            )
    return found


def _number(row: Row, column: str) -> float | None:
    """Return the number in a cell; None if the cell is empty or the column is missing.

    Raises:
        MaskSAMError: the cell holds something other than a number.
    """
    text = row.get(column)
    try:
        return float(text) if text else None
    except ValueError as error:
        raise MaskSAMError(
            f"'{text}' in the column '{column}' of the case '{row['case']}' is no number: correct"
            f" it in {TABLE_NAME}"
        ) from error


def _volumes(row: Row) -> list[StructureVolume]:
    """Return the volumes and confidences of the classes in a row that were found."""
    volumes = {name: one for name, one in volumes_of_row(row).items() if one.ml > 0}
    # The intracranial volume has no confidence; it is left out here and summed up again.
    found = [
        (name, one.confidence, one.ml)
        for name, one in volumes.items()
        if one.confidence is not None
    ]
    shared = [name for name, one in volumes.items() if one.share is not None]
    return structure_volumes(found, voxel_ml=1.0, intracranial=shared)

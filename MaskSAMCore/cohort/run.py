"""Run over many cases: reading, segmenting and writing of neighbouring cases overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Protocol

from MaskSAMCore.cohort.case import Case, LeftOut
from MaskSAMCore.cohort.case_run import CaseRun, CaseSettings
from MaskSAMCore.cohort.record import CaseRecord
from MaskSAMCore.cohort.table import CaseTable, has_status
from MaskSAMCore.cohort.warm_model import WarmModel
from MaskSAMCore.errors import MaskSAMError, first_names

_OUTPUTS_EXIST = "its outputs exist"


class Watcher(Protocol):
    """Receiver of the progress of a run, on the thread of the run."""

    def started(self, name: str) -> None:
        """Receive the name of the case that starts; its images are awaited."""
        ...

    def progress(self, stage: str, fraction: float, seconds_left: float | None) -> None:
        """Receive the progress of the case that was started last."""
        ...

    def noted(self, name: str, notes: Sequence[str]) -> None:
        """Receive notes on a case that is about to be segmented; its record has them, too."""
        ...

    def finished(self, record: CaseRecord) -> None:
        """Receive the outcome of a case."""
        ...

    def message(self, text: str) -> None:
        """Receive a message about the run."""
        ...


def remaining_cases(
    cases: Sequence[Case], settings: CaseSettings, table: CaseTable, skip_existing: bool
) -> tuple[list[Case], list[CaseRecord]]:
    """Return the cases to segment, and the records of the cases that stay failed.

    Cases that an earlier run did not survive come last. If existing labelmaps are skipped, a failed
    case whose labelmap is not newer than the table stays failed, because the labelmap may have been
    corrected; a failed case with a newer labelmap is skipped. A skipped case without a row in the
    table, or with the row of a failure, gets a new row.

    Args:
        cases: cases of the run.
        settings: settings of the run.
        table: table of the run.
        skip_existing: whether cases whose labelmaps exist are skipped.

    Raises:
        MaskSAMError: the labelmap of a case to skip exists without other files that are wanted.
    """
    remaining: list[Case] = []
    interrupted: list[Case] = []
    failed: list[CaseRecord] = []
    existing: list[Case] = []
    for case in cases:
        row = table.row(case.name)
        if has_status(row, "started"):
            # A case that exhausts the memory of the computer must not end every run.
            interrupted.append(case)
        elif not skip_existing or not case.output.is_file():
            remaining.append(case)
        elif has_status(row, "failed") and case.output.stat().st_mtime <= table.written:
            failed.append(CaseRecord(case.name, "failed", row["reason"], case.paths, case.output))
        else:
            existing.append(case)
    _check_complete(existing, settings)
    for case in existing:
        row = table.row(case.name)
        if row is None or has_status(row, "failed"):
            table.add(CaseRecord(case.name, "skipped", _OUTPUTS_EXIST, case.paths, case.output))
    return [*remaining, *interrupted], failed


def _check_complete(cases: Sequence[Case], settings: CaseSettings) -> None:
    """Check that cases whose labelmaps exist have their other files, too.

    Raises:
        MaskSAMError: a file is missing, which is written only if the labelmap is replaced.
    """
    missing = {
        case.name: [path for path in settings.outputs(case) if not path.is_file()] for case in cases
    }
    lacking = [name for name, paths in missing.items() if paths]
    if lacking:
        raise MaskSAMError(
            f"{len(lacking)} case(s) have a labelmap but not all other outputs, such as"
            f" {missing[lacking[0]][0]} ({first_names(lacking)}), and --skip-existing replaces no"
            " labelmap: give --overwrite in its place, or leave out the option for these outputs"
        )


def record_left_out(left_out: Sequence[LeftOut], table: CaseTable) -> list[CaseRecord]:
    """Add the rows of images that are not segmented, and return their records."""
    records = [
        CaseRecord(one.name, "failed" if one.failed else "skipped", one.reason, one.paths)
        for one in left_out
    ]
    for record in records:
        table.add(record)
    return records


def run_cases(
    cases: Sequence[Case],
    model: WarmModel,
    settings: CaseSettings,
    table: CaseTable,
    watcher: Watcher,
    keep_going: bool,
) -> list[CaseRecord]:
    """Segment cases, and add the row of each to the table once its outputs are complete.

    While a case is segmented, the images of the next one are read and the outputs of the last one
    are written.

    Args:
        cases: cases to segment.
        model: model, loaded once for all cases.
        settings: settings of the cases.
        table: table of the run.
        watcher: receiver of the progress.
        keep_going: whether the run goes on after an error of a case.

    Raises:
        Exception: error of the first case that failed, unless the run keeps going.
    """

    def write(run: CaseRun) -> CaseRun:
        run.write()
        table.add(run.record)
        return run

    def finish(writing: Future[CaseRun]) -> None:
        run = writing.result()
        records.append(run.record)
        watcher.finished(run.record)
        if run.error is not None and not keep_going:
            raise run.error

    records: list[CaseRecord] = []
    reader, writer = ThreadPoolExecutor(1, "reader"), ThreadPoolExecutor(1, "writer")
    try:
        writing: Future[CaseRun] | None = None
        for case, reading in _read_ahead(reader, cases, settings):
            watcher.started(case.name)
            run = reading.result()
            if run.error is None:
                table.add(run.record)  # The status is "started".
            run.segment(model.segmenter, watcher.progress, noted=partial(watcher.noted, case.name))
            model.restore(run.error)
            if writing is not None:
                finish(writing)
            writing = writer.submit(write, run)
            if run.error is not None:
                finish(writing)
                writing = None
        if writing is not None:
            finish(writing)
    finally:
        reader.shutdown(cancel_futures=True)
        writer.shutdown()
    return records


def _read_ahead(
    pool: ThreadPoolExecutor, cases: Sequence[Case], settings: CaseSettings
) -> Iterator[tuple[Case, Future[CaseRun]]]:
    """Yield each case with its images, which are read while the previous case is segmented."""

    def read(case: Case) -> CaseRun:
        run = CaseRun(case, settings)
        run.read()
        return run

    waiting: deque[tuple[Case, Future[CaseRun]]] = deque()
    for case in cases:
        waiting.append((case, pool.submit(read, case)))
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting

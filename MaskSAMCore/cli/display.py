"""Progress bar and result tables in the terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from MaskSAMCore.errors import one_line, visible
from MaskSAMCore.io.standard_streams import discard, visible_stderr
from MaskSAMCore.volumetry import LOW_DICE, StructureVolume, estimated, has_shares


class LastingConsole(Console):
    """Console that goes silent once it cannot print, because the results are in other files."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print objects, or nothing more once the disk of the output's file is full."""
        try:
            super().print(*objects, **options)
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Print nothing more once the reader of a pipe, such as `head`, has closed it."""
        self.quiet = True
        discard(self.file)


class ProgressDisplay:
    """Progress bar of the current case, with the results of the finished cases above it.

    If stderr is not a terminal, a line for each case takes the place of the bar.

    Args:
        cases: number of cases.
        device: description of the device that the model runs on.
    """

    def __init__(self, cases: int, device: str) -> None:
        # Names of cases and classes may contain text that rich would read as markup.
        self.out = LastingConsole(markup=False)
        self.errors = LastingConsole(stderr=True, markup=False)
        self.cases = cases
        self.done = 0
        self.name = ""
        self.rest = ""
        self.began = time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.errors,
            transient=True,
            disable=not self.errors.is_terminal,
        )
        self.task = self.bar.add_task("", total=1.0, left="")
        self.errors.print(f"Device: {device}", style="dim", highlight=False)

    def __enter__(self) -> ProgressDisplay:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def started(self, name: str) -> None:
        """Show that a case is being read."""
        count = f" ({self.done + 1} of {self.cases}{self.rest})" if self.cases > 1 else ""
        self.name = f"{visible(name)}{count}"
        self.bar.update(self.task, completed=0, description=f"{self.name}: reading", left="")

    def progress(self, stage: str, fraction: float, seconds_left: float | None) -> None:
        """Show the progress of the case; usable as the progress callback of a segmenter."""
        left = "" if seconds_left is None else f"{seconds_left:.0f} s left"
        self.bar.update(
            self.task, completed=fraction, description=f"{self.name}: {stage}", left=left
        )

    def noted(self, name: str, notes: Sequence[str]) -> None:
        """Print notes on a case before it is segmented."""
        case = f"{name}: " if self.cases > 1 else ""
        self.message(*(f"Note: {case}{note}" for note in notes))

    def finished(self, name: str, table: Table, notes: Sequence[str]) -> None:
        """Print the results of a case.

        Args:
            name: name of the case.
            table: table of the classes found.
            notes: remarks for the user.
        """
        table.title = visible(name)
        unread = self.out.quiet
        self.out.print(table)
        if self.out.quiet and not unread:
            self.message("The tables can no longer be printed: the run goes on without.")
        self.message(*(f"Note: {note}" for note in notes))
        self._advance(name)

    def failed(self, name: str, reason: str) -> None:
        """Print the reason why a case has no results."""
        self.message(f"Failed: {name}: {reason}")
        self._advance(name)

    def message(self, *lines: str) -> None:
        """Print lines on stderr."""
        with visible_stderr():
            for line in lines:
                self.errors.print(one_line(line), highlight=False, soft_wrap=True)

    def _advance(self, name: str) -> None:
        """Count a finished case, and estimate the time for the remaining ones."""
        self.done += 1
        remaining = self.cases - self.done
        seconds = (time.monotonic() - self.began) / self.done * remaining
        self.rest = f", {_duration(seconds)} left" if remaining else ""
        if self.cases > 1 and not self.errors.is_terminal:
            self.message(f"{self.done} of {self.cases} cases{self.rest}")


def results_table(rows: Sequence[StructureVolume]) -> Table:
    """Return a table of the classes found.

    Its columns are the volume in ml, the share of the intracranial volume if it is known, the
    asymmetry of paired structures, and the expected Dice with its lower bound, or the score if the
    model does not estimate the Dice.
    """
    table = Table(title_justify="left")
    sides = any(row.asymmetry is not None for row in rows)
    table.add_column("class")
    rated, shared = estimated([rows]), has_shares([rows])
    # Headings on two lines leave room for the names on a terminal of 80 columns.
    headings = ["volume\n(ml)", *(["share\n(%)"] if shared else [])]
    headings += ["asymmetry\n(%)"] if sides else []
    headings += ["expected\nDice", "at\nleast"] if rated else ["score"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        asymmetry = "" if row.asymmetry is None else f"{row.asymmetry:+.1f}"
        share = "" if row.share is None else f"{row.share:.2f}"
        score = "" if row.confidence is None else f"{row.confidence:.2f}"
        cells = [f"{row.ml:.2f}", *([share] if shared else [])]
        cells += [asymmetry] if sides else []
        table.add_row(row.name, *cells, *(_dice_cells(row) if rated else (score,)))
    if not rows:
        table.add_row("nothing was found", "", "")
    return table


def _dice_cells(row: StructureVolume) -> tuple[Text, Text]:
    """Return cells with the expected Dice and its lower bound, red if the class may be wrong."""
    values = (row.expected_dice, row.expected_dice_low)
    low = row.expected_dice_low is not None and row.expected_dice_low < LOW_DICE
    expected, bound = (
        Text("" if value is None else f"{value:.2f}", "red" if low else "") for value in values
    )
    return expected, bound


def _duration(seconds: float) -> str:
    """Return a duration as text, such as "1 h 20 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"

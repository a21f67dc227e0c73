"""``masksam report``: a page about a finished run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import typer

from MaskSAMCore.cli.outputs import Inputs, Outputs, prepared
from MaskSAMCore.cohort.report.page import write_report
from MaskSAMCore.cohort.table import TABLE_NAME, Row, read_rows
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.labels import Label
from MaskSAMCore.models.catalog import catalog, describe

REPORT_NAME = "report.html"


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("report")(report)


def report(
    folder: Path = typer.Argument(..., help="Folder that 'masksam predict' wrote cases.csv to."),
    output: Path | None = typer.Option(
        None, "-o", "--output", help=f"HTML file; by default {REPORT_NAME} in the folder."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace a report that exists."),
) -> None:
    """Write one HTML page about all cases of a run and its shards, the most doubtful first.

    Pictures that the run did not draw (see 'masksam predict --report') are drawn from the images,
    if these have not been moved.
    """
    rows = read_rows(folder / TABLE_NAME)
    if not rows:
        raise MaskSAMError(
            f"{folder} holds no {TABLE_NAME}: give a folder that 'masksam predict' wrote one to, or"
            " segment with --report, as a folder of three cases or fewer gets none"
        )
    path = folder / REPORT_NAME if output is None else output
    with prepared(Outputs((path,)), Inputs((folder / TABLE_NAME,)), overwrite):
        write_report(path, rows, folder, _labels(rows.values()), overwrite=True)


def _labels(rows: Iterable[Row]) -> tuple[Label, ...]:
    """Return the labels of a run's model; empty if the model is not installed on this computer."""
    names = {row["model"] for row in rows}
    entries = [entry for entry in catalog() if entry.name in names]
    values = describe(entries[0]).get("labels", ()) if entries else ()
    return tuple(map(Label.from_json, values))

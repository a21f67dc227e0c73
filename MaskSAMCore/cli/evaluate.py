"""``masksam evaluate``: compare predictions with references."""

from __future__ import annotations

import math
import re
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from MaskSAMCore.cli.outputs import Inputs, Outputs, prepared, present

# Other alphabets have digits too; no label has more digits.
_LABELS = re.compile(r" *[0-9]{1,10} *(, *[0-9]{1,10} *)*")


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("evaluate")(evaluate)


def evaluate(
    predictions: Path = typer.Argument(..., help="A labelmap, or a folder of them."),
    references: Path = typer.Argument(..., help="Its reference, or a folder with the same names."),
    output: Path | None = typer.Option(
        None, "-o", "--output", help="summary.json, in nnU-Net's form."
    ),
    labels: str | None = typer.Option(
        None, help="Labelmap values to compare, such as 1,2; by default all in the references."
    ),
    every: bool = typer.Option(False, "--all", help="Fail if a reference has no prediction."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace a summary that exists."),
) -> None:
    """Print Dice and IoU as in nnU-Net, surface Dice at 1 mm and the 95 % Hausdorff distance."""
    from MaskSAMCore import evaluation
    from MaskSAMCore.errors import MaskSAMError

    values = None
    if labels is not None:
        if not _LABELS.fullmatch(labels):
            raise MaskSAMError(f"--labels must look like 1,2, not '{labels}'")
        values = list(dict.fromkeys(map(int, labels.split(","))))
    missing = evaluation.without_prediction(predictions, references)
    some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    count = "1 reference has" if len(missing) == 1 else f"{len(missing)} references have"
    if missing and every:
        raise MaskSAMError(f"{count} no prediction ({some}): segment them, or leave out --all")
    surfaces = evaluation.surfaces_available()
    pairs = evaluation.find_pairs(predictions, references)
    given = Inputs(tuple(path for pair in pairs for path in pair))
    with prepared(Outputs(present(output)), given, overwrite):
        summary = evaluation.evaluate(predictions, references, values, surfaces)
        if output is not None:
            evaluation.write_summary(summary, output, overwrite)
    if missing:
        typer.echo(f"{count} no prediction ({some}): left out of the means", err=True)
    console = Console(markup=False)
    shown = ["Dice", "IoU", *(evaluation.SURFACE_METRICS if surfaces else ())]
    table = Table("label", *(f"{metric} (sd)" for metric in shown))
    for value, means in summary["mean"].items():
        spreads = [evaluation.spread(summary, value, metric) for metric in shown]
        cells = (f"{_cell(means[m])} ({_cell(sd)})" for m, sd in zip(shown, spreads, strict=True))
        table.add_row(value, *cells)
    table.add_row("mean", *(_cell(summary["foreground_mean"][metric]) for metric in shown))
    console.print(f"{len(summary['metric_per_case'])} case(s)")
    console.print(table)
    if not surfaces:
        Console(stderr=True).print(
            "Surface metrics were left out: pip install masksam\\[evaluate]", highlight=False
        )


def _cell(figure: float) -> str:
    return "–" if math.isnan(figure) else f"{figure:.4f}"

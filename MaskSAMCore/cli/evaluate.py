"""``masksam evaluate``: compare predictions with references."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from MaskSAMCore.cli.outputs import Inputs, Outputs, prepared, present

if TYPE_CHECKING:
    from MaskSAMCore.research.published import PublishedDice

# [0-9], because \d matches digits of other scripts too. No label has more than ten digits.
_LABELS = re.compile(r" *[0-9]{1,10} *(, *[0-9]{1,10} *)*")


class Empty(str, Enum):
    """Rules for the Dice of a class that a reference lacks."""

    nnunet = "nnunet"
    nnformer = "nnformer"
    transunet = "transunet"


class Benchmark(str, Enum):
    """Datasets with published results."""

    acdc = "acdc"
    amos22 = "amos22"
    synapse = "synapse"
    btcv = "btcv"


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
    split: Path | None = typer.Option(
        None,
        help="Split file: compare only its test cases, or without any its validation cases.",
    ),
    every: bool = typer.Option(False, "--all", help="Fail if a reference has no prediction."),
    empty: Empty = typer.Option(
        Empty.nnunet,
        help="Dice of a class that a reference lacks. nnunet: left out with no prediction, else 0;"
        " nnformer (also MA-SAM): 1 with no prediction, else 0; transunet: 0 with no prediction,"
        " else 1.",
    ),
    published: Benchmark | None = typer.Option(
        None, help="Also show the published Dice of each organ of this dataset."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace a summary that exists."),
) -> None:
    """Print Dice and IoU as in nnU-Net, surface Dice at 1 mm and the 95 % Hausdorff distance."""
    from MaskSAMCore import evaluation
    from MaskSAMCore.data.splits import tested_cases
    from MaskSAMCore.errors import MaskSAMError, first_names

    values = None
    if labels is not None:
        if not _LABELS.fullmatch(labels):
            raise MaskSAMError(f"--labels must look like 1,2, not '{labels}'")
        values = list(dict.fromkeys(map(int, labels.split(","))))
    cases = None if split is None else tested_cases(split)
    missing = evaluation.without_prediction(predictions, references) if cases is None else []
    some = first_names(missing)
    count = "1 reference has" if len(missing) == 1 else f"{len(missing)} references have"
    if missing and every:
        raise MaskSAMError(f"{count} no prediction ({some}): segment them, or leave out --all")
    surfaces = evaluation.surfaces_available()
    pairs = evaluation.find_pairs(predictions, references, cases)
    given = Inputs((*(path for pair in pairs for path in pair), *present(split)))
    with prepared(Outputs(present(output)), given, overwrite):
        summary = evaluation.evaluate(predictions, references, values, surfaces, empty.value, cases)
        if output is not None:
            evaluation.write_summary(summary, output, overwrite)
    if missing:
        typer.echo(f"{count} no prediction ({some}): left out of the means", err=True)
    for kind, compared, advice in (
        ("prediction", pairs, "write predictions as .seg.nrrd, or put the model's values"),
        ("reference", [(known, found) for found, known in pairs], "put the values of the names"),
    ):
        unnamed = evaluation.without_names(compared, references)
        if unnamed:
            typer.echo(
                f"Note: {len(unnamed)} {kind}(s) have no class names"
                f" ({first_names([path.name for path in unnamed])}) and are compared by value with"
                f" segments, which 3D Slicer numbers anew: {advice} into a dataset.json beside the"
                " folder of references",
                err=True,
            )
    others = summary.get("predicted_only", {})
    if others:
        typer.echo(
            f"Note: no reference has {len(others)} of the predicted labels"
            f" ({first_names([*others.values()])}), which are left out: to count them, give"
            f" --labels {','.join([*summary['mean'], *others])}",
            err=True,
        )
    shown = ["Dice", "IoU", *(evaluation.SURFACE_METRICS if surfaces else ())]
    names = summary.get("labels", {})
    rows = [] if published is None else _published(published)
    _print_summary(summary, shown, names, rows)
    if rows:
        _print_sources(rows, {names.get(value, value) for value in summary["mean"]})
    if not surfaces:
        Console(stderr=True).print(
            "Surface metrics were left out: pip install masksam\\[evaluate]", highlight=False
        )


def _print_summary(
    summary: dict[str, Any],
    shown: Sequence[str],
    names: Mapping[str, str],
    rows: Sequence[PublishedDice],
) -> None:
    """Print a table of metrics.

    Args:
        summary: means and metrics of all cases.
        shown: names of the metrics to print.
        names: class names by labelmap value.
        rows: published results, each printed as a further column.
    """
    from MaskSAMCore.evaluation import spread

    # Cells fold, so that no figure is cut at 80 columns, even with published results.
    table = Table(collapse_padding=True)
    headings = [f"{metric.replace('_', ' ')} (sd)" for metric in shown]
    for heading in ("label", *headings, *(one.method for one in rows)):
        table.add_column(heading, overflow="fold")
    for value, means in summary["mean"].items():
        cells = [f"{_cell(means[m])} ({_cell(spread(summary, value, m))})" for m in shown]
        name = names.get(value, value)
        table.add_row(name, *cells, *(_cell(one.organs.get(name, math.nan)) for one in rows))
    overall = [_cell(summary["foreground_mean"][metric]) for metric in shown]
    table.add_row("mean", *overall, *(_cell(one.mean) for one in rows))
    console = Console(markup=False)
    console.print(f"{len(summary['metric_per_case'])} case(s)")
    console.print(table)


def _print_sources(rows: Sequence[PublishedDice], shown: Set[str]) -> None:
    """Print the sources of published results, and a note if their means are over other organs.

    Args:
        rows: published results.
        shown: names of the classes in the table.
    """
    for one in rows:
        typer.echo(f"{one.method}: Dice as published in {one.source}", err=True)
    organs = {organ for one in rows for organ in one.organs}
    if organs and shown != organs:
        some = ", ".join(sorted(organs ^ shown)[:3])
        typer.echo(
            f"Note: the published means are over other organs than these ({some}, ...)", err=True
        )


def _published(benchmark: Benchmark) -> Sequence[PublishedDice]:
    """Return the published results for a dataset."""
    # Imported late, because the extension for Slicer comes without this package.
    from MaskSAMCore.research.published import PUBLISHED

    return PUBLISHED[benchmark.value]


def _cell(figure: float) -> str:
    return "–" if math.isnan(figure) else f"{figure:.4f}"

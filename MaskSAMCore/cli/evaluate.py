"""``masksam evaluate``: predictions against references."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("evaluate")(evaluate)


def evaluate(
    predictions: Path = typer.Argument(..., help="A labelmap, or a folder of them."),
    references: Path = typer.Argument(..., help="Its reference, or a folder with the same names."),
    output: Path | None = typer.Option(
        None, "-o", "--output", help="summary.json, in nnU-Net's form."
    ),
    labels: str | None = typer.Option(
        None, help="Values to compare, such as 1,2; else all in the references."
    ),
    every: bool = typer.Option(
        False, "--all", help="Refuse to go on where a reference has no prediction."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace a summary that exists."),
) -> None:
    """Dice and IoU as nnU-Net defines them, surface Dice at 1 mm, 95 % Hausdorff distance."""
    from MaskSAMCore import evaluation
    from MaskSAMCore.errors import MaskSAMError

    try:
        values = None if labels is None else [int(part) for part in labels.split(",")]
    except ValueError as error:
        raise MaskSAMError(f"--labels must look like 1,2, not '{labels}'") from error
    missing = evaluation.without_prediction(predictions, references)
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        count = "1 reference has" if len(missing) == 1 else f"{len(missing)} references have"
        if every:
            raise MaskSAMError(f"{count} no prediction ({some})")
        typer.echo(f"{count} no prediction ({some}): left out of the means", err=True)
    if output is not None:
        if output.exists() and not overwrite:
            raise MaskSAMError(f"{output} exists: add --overwrite to replace it")
        output.parent.mkdir(parents=True, exist_ok=True)
    surfaces = evaluation.surfaces_available()
    summary = evaluation.evaluate(predictions, references, values, surfaces)
    if output is not None:
        evaluation.write_summary(summary, output, overwrite)
    console = Console()
    headings = ["Dice", "IoU", *(("surface_dice_1mm", "hd95_mm") if surfaces else ())]
    table = Table("label", *(f"{h} (sd)" for h in headings))
    for label, metrics in summary["mean"].items():
        cells = [f"{metrics[h]:.4f} ({evaluation.spread(summary, label, h):.4f})" for h in headings]
        table.add_row(label, *cells)
    table.add_row("mean", *(f"{summary['foreground_mean'][h]:.4f}" for h in headings))
    console.print(f"{len(summary['metric_per_case'])} case(s)")
    console.print(table)
    if not surfaces:
        Console(stderr=True).print(
            "Surface metrics were left out: pip install masksam\\[evaluate]", highlight=False
        )

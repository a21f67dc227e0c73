"""``masksam export``: write a training run as a model bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from MaskSAMCore.cli.outputs import Inputs, Outputs, prepared, present
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import read_json


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("export")(export)


def export(
    run: Path = typer.Argument(..., help="Folder of a training."),
    output: Path = typer.Option(..., "-o", "--output", help="Folder of the new bundle."),
    card: Path | None = typer.Option(
        None, help="JSON file with title, labels (colours, codes), modality, licence and so on."
    ),
    last: bool = typer.Option(
        False,
        "--last",
        help="Take the weights of the last validation, not the best ones, and no post-processing"
        " found in validation: for runs whose validation cases are the test cases.",
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace a bundle that exists."),
) -> None:
    """Write the best weights of a run, or the last, as a model bundle for Slicer and the shell."""
    from MaskSAMCore.training.export import export_run

    values: dict[str, Any] = {} if card is None else read_json(card)
    if not isinstance(values, dict):
        raise MaskSAMError(f"{card} must contain one JSON object")
    with prepared(Outputs(replaced=(output,)), Inputs((run, *present(card))), overwrite):
        bundle = export_run(run, output, values, overwrite=overwrite, last=last)
    size = sum(p.stat().st_size for p in output.iterdir()) / 1e6
    typer.echo(f"{output}: {bundle.name}, {len(bundle.labels)} classes, {size:.1f} MB")

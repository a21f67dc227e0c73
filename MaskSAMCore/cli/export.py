"""``masksam export``: write a training run as a model bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from MaskSAMCore.cli.outputs import Inputs, Outputs, prepared, present
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import read_json
from MaskSAMCore.io.standard_streams import visible_stderr
from MaskSAMCore.models.catalog import check_name

if TYPE_CHECKING:
    from MaskSAMCore.models import Bundle


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
    quality_results: int = typer.Option(
        120,
        "--quality-results",
        min=0,
        help="Number of results on corrupted validation images that the expected Dice is fitted to;"
        " 0 leaves it out.",
    ),
    dataset: Path | None = typer.Option(
        None, help="Folder of the training's dataset, if it is no longer where it was."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace a bundle that exists."),
) -> None:
    """Write the best weights of a run, or the last, as a model bundle for Slicer and the shell.

    The expected Dice of the model's results is fitted to the run's validation cases.
    """
    from MaskSAMCore.training.export import export_run

    values: dict[str, Any] = {} if card is None else read_json(card)
    if not isinstance(values, dict):
        raise MaskSAMError(f"{card} must contain one JSON object")
    with prepared(Outputs(replaced=(output,)), Inputs((run, *present(card))), overwrite):
        # A bundle with an invalid name could not be added to the installed models.
        check_name(str(values.get("name", output.name)))
        bundle = export_run(run, output, values, overwrite=overwrite, last=last)
    # With --last the validation cases may be the test cases, which must not be fitted to.
    if quality_results and not last:
        _fit_quality(run, bundle, quality_results, dataset)
    size = sum(p.stat().st_size for p in output.iterdir()) / 1e6
    typer.echo(f"{output}: {bundle.name}, {len(bundle.labels)} classes, {size:.1f} MB")


def _fit_quality(run: Path, bundle: Bundle, results: int, dataset: Path | None) -> None:
    """Fit the expected Dice; if that fails, print a note, since the bundle is usable without it."""
    from MaskSAMCore.cli.quality import ResultsProgress
    from MaskSAMCore.training.quality import fit_to_validation

    try:
        fit_to_validation(run, bundle, results, dataset, report=ResultsProgress())
    except MaskSAMError as error:
        with visible_stderr():
            typer.echo(f"Note: results of this model have no expected Dice: {error}", err=True)

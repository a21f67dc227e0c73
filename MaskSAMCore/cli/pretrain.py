"""``masksam pretrain``: train a small promptable SAM on slices synthesised from labelmaps."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from MaskSAMCore.cli.outputs import Inputs, Outputs, prepared
from MaskSAMCore.cli.train import Report
from MaskSAMCore.cli.training_options import (
    DEVICE,
    MOST_RATE,
    MOST_STEPS,
    MOST_WINDOWS,
    SEED,
    max_minutes_option,
    resume_option,
    run_option,
    stop_after_option,
)
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import is_image_name
from MaskSAMCore.io.listing import listed

_DEFAULT_MINUTES = 480.0


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("pretrain")(pretrain)


def pretrain(
    labelmaps: list[Path] = typer.Argument(
        None,
        metavar="LABELMAPS",
        help="Labelmaps of anything: files, folders of them, or datasets. Slices are synthesised"
        " from them and from random shapes.",
    ),
    output: Path = run_option(...),
    validation: list[Path] = typer.Option(
        [],
        help="Labelmaps that are held out and validate, files or folders; repeatable. By default"
        " other slices of LABELMAPS validate.",
    ),
    max_minutes: float | None = max_minutes_option(", 480 by default"),
    iterations: int | None = typer.Option(
        None,
        min=1,
        max=MOST_STEPS,
        help="Number of steps over all resumed parts, in place of --max-minutes: for a processor"
        " that is often busy with other work.",
    ),
    resume: bool = resume_option("labelmaps"),
    stop_after: float | None = stop_after_option("Ctrl-C and SIGTERM"),
    device: str = DEVICE,
    seed: int = SEED,
    learning_rate: float | None = typer.Option(
        None, min=0.0, max=MOST_RATE, help="Initial learning rate, 0.001 by default."
    ),
    batch: int | None = typer.Option(
        None, min=1, max=MOST_WINDOWS, help="Number of slices in a step, 8 by default."
    ),
    objects: int | None = typer.Option(
        None,
        min=1,
        max=256,
        help="Number of objects that are prompted on each slice, 16 by default.",
    ),
) -> None:
    """Train a SAM that segments anything by a box; interrupt it at any time.

    This is research: no bundled model uses such a SAM yet.
    """
    try:
        from MaskSAMCore.research.promptable_sam.pretrain import PretrainOptions
        from MaskSAMCore.research.promptable_sam.pretrain import pretrain as train_sam
        from MaskSAMCore.training.run_folder import WRITTEN_FILES
    except ImportError as error:
        if (error.name or "").startswith("MaskSAMCore"):
            raise MaskSAMError(
                "'masksam pretrain' is not part of the 3D Slicer extension: install the Python"
                " package masksam[train]"
            ) from error
        raise MaskSAMError(f"training needs '{error.name}': pip install masksam[train]") from error

    given = tuple(file for path in labelmaps or [] for file in _files(path))
    held_out = tuple(file for path in validation for file in _files(path))
    if max_minutes is None and iterations is None and not resume:
        max_minutes = _DEFAULT_MINUTES
    options = PretrainOptions(
        labelmaps=given,
        run=output,
        validation=held_out,
        max_minutes=max_minutes,
        iterations=iterations,
        stop_after=stop_after,
        resume=resume,
        device=device,
        seed=seed,
        objects=objects,
    )
    chosen = {"learning_rate": learning_rate, "batch": batch}
    changes = {name: value for name, value in chosen.items() if value is not None}
    written = Outputs(tuple(output / name for name in WRITTEN_FILES), filled=(output,))
    paths = (*(labelmaps or []), *validation)
    folders = tuple(_folder(path) for path in paths if path.is_dir())
    with prepared(written, Inputs((*given, *held_out), closed=folders), overwrite=True):
        train_sam(options, Report(time.monotonic()), changes)


def _files(path: Path) -> list[Path]:
    """Return a file itself, or the image files of a folder."""
    if not path.is_dir():
        return [path]
    found = [file for file in listed(_folder(path)) if is_image_name(file)]
    if not found:
        raise MaskSAMError(f"{path} has no labelmap: name a folder of image files")
    return found


def _folder(path: Path) -> Path:
    """Return the folder with the labelmaps of a folder or of a dataset."""
    labels = path / "labelsTr"
    return labels if labels.is_dir() else path

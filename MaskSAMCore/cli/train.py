"""``masksam train``: train a model on a folder of labelled volumes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import typer

from MaskSAMCore.cli.outputs import Inputs, Outputs, prepared, present
from MaskSAMCore.errors import MaskSAMError


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("train")(train)


@dataclass
class Report:
    """Printer of lines with the minutes since the start. It can be sent to spawned processes.

    Attributes:
        start: start of the command, as given by ``time.monotonic``.
    """

    start: float

    def __call__(self, line: str) -> None:
        """Print a line."""
        minutes = (time.monotonic() - self.start) / 60
        print(f"[{minutes:6.1f} min] {line}", flush=True)


def train(
    dataset: Path = typer.Argument(
        ...,
        help="nnU-Net dataset folder: imagesTr, labelsTr, dataset.json. Without imagesTr, images"
        " are synthesised from the labelmaps.",
    ),
    output: Path = typer.Option(..., "-o", "--output", help="Folder of the run."),
    preset: str = typer.Option(
        "tiny",
        help="Network and hyperparameters: tiny, brain, acdc, synapse, amos; masam_tiny, masam_b,"
        " masam_h; unet; ablation_b1 to _b9, acdc_ablation_b1 to _b9.",
    ),
    splits: Path | None = typer.Option(
        None,
        help="JSON file with the training and validation cases; by default one case in five"
        " validates.",
    ),
    targets: Path | None = typer.Option(
        None,
        help="JSON file that describes the labels of labelmaps without images and names those to"
        " segment, if dataset.json does not.",
    ),
    orientation: str | None = typer.Option(
        None,
        help="Directions of depth, rows and columns, such as RSA for sagittal slices; by default"
        " slices lie across the coarsest axis.",
    ),
    max_minutes: float | None = typer.Option(
        None,
        min=0.01,
        help="Time budget over all resumed parts; with --resume, it replaces the run's budget.",
    ),
    resume: bool = typer.Option(
        False, "--resume", help="Continue the run in -o with its own preset, split and seed."
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda or mps."),
    devices: int = typer.Option(1, min=1, help="Number of devices; on a CPU, of processes."),
    workers: int = typer.Option(
        1, min=0, help="Number of processes for each device that augment windows."
    ),
    seed: int = typer.Option(
        0,
        min=0,
        max=2**32 - 1,
        help="Seed of all random numbers; a resumed run keeps its own.",
    ),
    sam_checkpoint: Path | None = typer.Option(
        None, help="Official SAM weights, for presets with a frozen SAM."
    ),
    weights: Path | None = typer.Option(
        None, "--from", help="Model or run of the same preset whose weights to start from."
    ),
    learning_rate: float | None = typer.Option(
        None, min=0.0, help="Initial learning rate; by default the preset's."
    ),
    batch: int | None = typer.Option(
        None, min=1, help="Number of windows in a step; by default the preset's."
    ),
    augmentation: float | None = typer.Option(
        None,
        min=0.0,
        max=100.0,
        help="Strength of the augmentation, 0 for none; by default the preset's.",
    ),
    contrast: float | None = typer.Option(
        None, min=0.0, max=1.0, help="Share of windows that get another scanner's contrast."
    ),
    compiled: bool = typer.Option(
        False, "--compile", help="Compile the network first: faster, needs a C++ compiler."
    ),
    validation_minutes: float = typer.Option(
        4.0, min=0.01, help="Time between two validations in minutes."
    ),
    preview_windows: int | None = typer.Option(
        None,
        "--preview",
        min=1,
        help="Only draw this many training windows, with outlines, to preview.png in -o.",
    ),
) -> None:
    """Train a model; interrupt it at any time and continue with --resume."""
    try:
        from MaskSAMCore.presets import find_preset
        from MaskSAMCore.training.fit import FitOptions, fit, preview
        from MaskSAMCore.training.run_folder import WRITTEN_FILES
    except ImportError as error:
        raise MaskSAMError(f"training needs '{error.name}': pip install masksam[train]") from error

    options = FitOptions(
        dataset=dataset,
        run=output,
        preset=find_preset(preset),
        splits=splits,
        targets=targets,
        orientation=None if orientation is None else orientation.upper(),
        max_minutes=max_minutes,
        resume=resume,
        device=device,
        devices=devices,
        workers=workers,
        seed=seed,
        sam_checkpoint=sam_checkpoint,
        weights=weights,
        compiled=compiled,
        validation_minutes=validation_minutes,
    )
    chosen = {
        "learning_rate": learning_rate,
        "batch": batch,
        "augmentation": augmentation,
        "contrast": contrast,
    }
    changes = {name: value for name, value in chosen.items() if value is not None}
    report = Report(time.monotonic())
    written = Outputs(tuple(output / name for name in WRITTEN_FILES), filled=(output,))
    given = Inputs(
        (dataset, *present(splits, targets, sam_checkpoint, weights)),
        closed=(dataset / "imagesTr", dataset / "labelsTr"),
    )
    with prepared(written, given, overwrite=True):
        if preview_windows is None:
            fit(options, report, settings_changes=changes)
        else:
            preview(options, preview_windows, report, settings_changes=changes)

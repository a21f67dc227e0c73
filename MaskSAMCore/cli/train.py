"""``masksam train``: trains a model from a folder of labelled volumes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import typer

from MaskSAMCore.errors import MaskSAMError


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("train")(train)


@dataclass
class Report:
    """Prints lines with the minutes since the start; also from processes it was sent to."""

    start: float

    def __call__(self, line: str) -> None:
        """One line."""
        minutes = (time.monotonic() - self.start) / 60
        print(f"[{minutes:6.1f} min] {line}", flush=True)


def train(
    dataset: Path = typer.Argument(
        ...,
        help="nnU-Net dataset folder: imagesTr, labelsTr, dataset.json; without imagesTr, images"
        " are synthesised from the labelmaps.",
    ),
    output: Path = typer.Option(..., "-o", "--output", help="The run's folder."),
    preset: str = typer.Option(
        "tiny",
        help="A network and how it is trained: tiny, brain, acdc, synapse, amos; masam_tiny,"
        " masam_b, masam_h; unet; ablation_b1 to _b9, acdc_ablation_b1 to _b9.",
    ),
    splits: Path | None = typer.Option(
        None, help="JSON file with the training and validation cases; else one case in five."
    ),
    targets: Path | None = typer.Option(
        None,
        help="JSON file on the labels of labelmaps without images: which are segmented, where"
        " dataset.json does not say it.",
    ),
    orientation: str | None = typer.Option(
        None,
        help="Where depth, rows and columns of the slices point, such as RSA for sagittal ones;"
        " else slices lie across the coarsest axis.",
    ),
    max_minutes: float | None = typer.Option(
        None, min=0.01, help="Time budget, resumed parts together; with --resume, a new one."
    ),
    resume: bool = typer.Option(
        False, "--resume", help="Go on with the run in -o, as it was started."
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda or mps."),
    devices: int = typer.Option(1, min=1, help="How many (processes, on a CPU)."),
    workers: int = typer.Option(1, min=0, help="Processes that augment windows, a device."),
    seed: int = typer.Option(0, help="Of everything that is drawn; a resumed run keeps its own."),
    sam_checkpoint: Path | None = typer.Option(
        None, help="Official SAM weights, for presets that keep SAM frozen."
    ),
    weights: Path | None = typer.Option(
        None, "--from", help="Model or run of the same preset whose weights to start from."
    ),
    learning_rate: float | None = typer.Option(None, min=0.0, help="At the start; else preset's."),
    batch: int | None = typer.Option(None, min=1, help="Windows a step; else the preset's."),
    augmentation: float | None = typer.Option(
        None, min=0.0, help="Strength, 0 for none; 1 where the preset says no other."
    ),
    contrast: float | None = typer.Option(
        None, min=0.0, max=1.0, help="Share of windows that get another scanner's contrast."
    ),
    compiled: bool = typer.Option(
        False, "--compile", help="Compile the network first: faster, needs a C++ compiler."
    ),
    validation_minutes: float = typer.Option(4.0, min=0.01, help="Between two validations."),
    preview_windows: int | None = typer.Option(
        None,
        "--preview",
        min=1,
        help="Only draw so many windows of the training, with outlines, to preview.png in -o.",
    ),
) -> None:
    """Trains a model; stop it at any time and go on with --resume."""
    try:
        from MaskSAMCore.presets import find_preset
        from MaskSAMCore.training.fit import FitOptions, fit, preview
    except ImportError as error:
        raise MaskSAMError(f"training needs '{error.name}': pip install masksam[train]") from error

    chosen = {
        "learning_rate": learning_rate,
        "batch": batch,
        "augmentation": augmentation,
        "contrast": contrast,
    }
    options = FitOptions(
        dataset=dataset,
        run=output,
        preset=find_preset(preset),
        orientation=None if orientation is None else orientation.upper(),
        splits=splits,
        targets=targets,
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
    report = Report(time.monotonic())
    settings = {name: value for name, value in chosen.items() if value is not None}
    if preview_windows is None:
        fit(options, report, settings_changes=settings)
    else:
        preview(options, preview_windows, report, settings_changes=settings)

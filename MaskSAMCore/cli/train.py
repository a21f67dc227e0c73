"""``masksam train``: train a model on a folder of labelled volumes."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from MaskSAMCore.cli.outputs import Inputs, Outputs, prepared, present
from MaskSAMCore.cli.segmenters import is_training
from MaskSAMCore.cli.training_options import (
    DEVICE,
    MOST_MINUTES,
    MOST_PROCESSES,
    MOST_RATE,
    MOST_WINDOWS,
    SEED,
    max_minutes_option,
    resume_option,
    run_option,
    stop_after_option,
)
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.standard_streams import print_line
from MaskSAMCore.models.catalog import is_path

if TYPE_CHECKING:
    from MaskSAMCore.training.fit import FitOptions

_DEFAULT_PRESET = "tiny"
_MOST_FOLDS = 1000
# [0-9], because \d matches digits of other scripts too. No window size has more than four digits.
_PATCH = re.compile(r"[1-9][0-9]{0,3}(,[1-9][0-9]{0,3}){2}")


class Recipe(str, Enum):
    """Training recipe of a preset: ours, or that of its paper."""

    ours = "ours"
    paper = "paper"


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("train")(train)


@dataclass
class Report:
    """Printer of lines with the minutes since the start, which can be sent to spawned processes.

    Attributes:
        start: start of the command, as given by ``time.monotonic``.
    """

    start: float

    def __call__(self, line: str) -> None:
        """Print a line."""
        minutes = (time.monotonic() - self.start) / 60
        print_line(f"[{minutes:6.1f} min] {line}")


def train(
    dataset: Path | None = typer.Argument(
        None,
        help="nnU-Net dataset folder: imagesTr, labelsTr, dataset.json. Without imagesTr, images"
        " are synthesised from the labelmaps. Only --plan works without it.",
    ),
    output: Path | None = run_option(None),
    preset: str | None = typer.Option(
        None,
        help="Network and hyperparameters: tiny, compact, compact_decoder, brain; acdc, synapse,"
        " amos; acdc_prompted, synapse_prompted; masam_tiny, masam_b, masam_h; unet; ablation_b1 to"
        " _b9, acdc_ablation_b1 to _b9; tiny_masks, tiny_boxes, tiny_both; samed, med_sa,"
        " 3dsam_adapter, sam3d, each also with _tiny.",
        show_default=_DEFAULT_PRESET,
    ),
    recipe: Recipe | None = typer.Option(
        None,
        help="paper: the preset's experiment as it was published, nothing added or left out.",
        show_default=Recipe.ours.value,
    ),
    settings: list[str] = typer.Option(
        [],
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting of the preset, such as loss.semantic=0 or queries=12; may be given"
        " several times. run.json has the names of all.",
    ),
    splits: Path | None = typer.Option(
        None,
        help="JSON file with the training and validation cases; by default splits_final.json of the"
        " dataset's folder, else one case in five validates.",
    ),
    fold: int | None = typer.Option(
        None,
        "--fold",
        min=0,
        help="Fold of a cross-validation to train, 0 to 4, as nnU-Net splits them, or one of the"
        " split file. The cases of a patient stay together.",
    ),
    folds: int | None = typer.Option(
        None,
        "--folds",
        min=2,
        max=_MOST_FOLDS,
        help="Train this number of folds one after the other, in fold_0, fold_1, ... in -o;"
        " --resume continues them.",
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
    spacing: str | None = typer.Option(
        None,
        metavar="D,R,C",
        help="Voxel size of the network's input along depth, rows and columns in mm, such as"
        " 10,1.56,1.56; by default nnU-Net's rule.",
    ),
    patch: str | None = typer.Option(
        None,
        metavar="D,R,C",
        help="Window of the network along depth, rows and columns in voxels, such as 4,256,256; by"
        " default the preset's.",
    ),
    max_minutes: float | None = max_minutes_option(),
    resume: bool = resume_option("preset, split"),
    device: str = DEVICE,
    devices: int = typer.Option(
        1, min=1, max=MOST_PROCESSES, help="Number of devices; on a CPU, of processes."
    ),
    accumulate: int = typer.Option(
        1,
        "--accumulate",
        min=1,
        help="Number of parts of a step that a device computes one after the other, to save memory;"
        " the batch stays the preset's.",
    ),
    gradient_checkpointing: bool = typer.Option(
        False,
        "--gradient-checkpointing",
        help="Compute activations again in the backward pass instead of keeping them: slower, and"
        " needs less memory.",
    ),
    stop_after: float | None = stop_after_option(
        "Ctrl-C, SIGTERM and SIGUSR1", ", before the time of a job is over"
    ),
    workers: int = typer.Option(
        1,
        min=0,
        max=MOST_PROCESSES,
        help="Number of processes for each device that prepare windows. A GPU synthesises images"
        " itself unless there are two or more.",
    ),
    seed: int = SEED,
    sam_checkpoint: Path | None = typer.Option(
        None, help="Official SAM weights, for presets with a frozen SAM."
    ),
    weights: Path | None = typer.Option(
        None,
        "--from",
        help="Model, by name or path, or run whose weights to start from; its classes may be"
        " others.",
    ),
    learning_rate: float | None = typer.Option(
        None, min=0.0, max=MOST_RATE, help="Initial learning rate; by default the preset's."
    ),
    batch: int | None = typer.Option(
        None,
        min=1,
        max=MOST_WINDOWS,
        help="Number of windows in a step, over all devices and parts; by default the preset's.",
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
        False,
        "--compile",
        help="Compile the network first, for a GPU; needs a C++ compiler. On a processor it takes"
        " minutes, and the steps are no faster.",
    ),
    validation_share: float | None = typer.Option(
        None,
        min=0.001,
        max=1.0,
        help="Largest share of the time for validation, 0.1 by default.",
    ),
    validation_minutes: float | None = typer.Option(
        None,
        min=0.01,
        max=MOST_MINUTES,
        help="Least time between two validations in minutes, 4 by default.",
    ),
    cache: Path | None = typer.Option(
        None,
        help="Folder for the preprocessed cases, which several trainings may share; by default they"
        " lie in the run until it is complete.",
    ),
    plan: bool = typer.Option(
        False,
        "--plan",
        help="Only print what the training costs: trained parameters, memory, operations, hours,"
        " and the options with which it fits the device. Nothing is trained; with a dataset,"
        " for its classes and windows.",
    ),
    tflops: float = typer.Option(
        50.0,
        "--tflops",
        min=0.001,
        max=1e9,
        help="Rate for the hours of --plan, in TFLOP per second.",
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
        from MaskSAMCore.data.splits import Fold
        from MaskSAMCore.presets import find_preset
        from MaskSAMCore.training.fit import FitOptions, fit, preview
        from MaskSAMCore.training.folds import fit_folds, fold_run
        from MaskSAMCore.training.overrides import change_preset
        from MaskSAMCore.training.run_folder import WRITTEN_FILES
    except ImportError as error:
        raise MaskSAMError(f"training needs '{error.name}': pip install masksam[train]") from error

    if fold is not None and folds is not None:
        raise MaskSAMError("--fold trains one fold and --folds all: choose one of the two")
    if resume and (plan or preview_windows is not None):
        option = "--plan" if plan else "--preview"
        raise MaskSAMError(f"{option} is for a new training: give the run's --preset, not --resume")
    weights = _initial_weights(weights)
    chosen_values = {
        "learning_rate": learning_rate,
        "batch": batch,
        "augmentation": augmentation,
        "contrast": contrast,
    }
    changes = {name: value for name, value in chosen_values.items() if value is not None}
    chosen = None
    # A resumed run keeps its own preset, unless the user names it again.
    if preset or recipe or settings or plan or folds is not None or not resume:
        found = find_preset(preset or _DEFAULT_PRESET, (recipe or Recipe.ours).value)
        chosen = change_preset(found, settings)
    if not plan and (dataset is None or output is None):
        missing = "the folder of a dataset" if dataset is None else "a folder for the run, with -o"
        raise MaskSAMError(f"a training needs {missing}")
    options = FitOptions(
        dataset=dataset or Path(),
        run=output or Path(),
        preset=chosen,
        splits=splits,
        fold=None if fold is None else Fold(fold),
        targets=targets,
        orientation=None if orientation is None else orientation.upper(),
        spacing=_spacing(spacing),
        patch=_patch(patch),
        max_minutes=max_minutes,
        resume=resume,
        device=device,
        devices=devices,
        accumulate=accumulate,
        gradient_checkpointing=gradient_checkpointing,
        stop_after=stop_after,
        workers=workers,
        seed=seed,
        sam_checkpoint=sam_checkpoint,
        weights=weights,
        compiled=compiled,
        validation_share=validation_share,
        validation_minutes=validation_minutes,
        cache=cache,
    )
    if plan:
        _print_plan(options, changes, dataset is not None, tflops)
        return
    assert dataset is not None and output is not None
    report = Report(time.monotonic())
    runs = [output]
    if folds is not None and preview_windows is None:
        # The folder of a fold is made when its training begins.
        own = [fold_run(output, index) for index in range(folds)]
        runs = [run for run in own if run.exists()]
    written = Outputs(
        tuple(run / name for run in runs for name in WRITTEN_FILES),
        filled=(output, *runs, *present(cache)),
    )
    given = Inputs(
        (dataset, *present(splits, targets, sam_checkpoint, weights)),
        closed=(dataset / "imagesTr", dataset / "labelsTr"),
    )
    with prepared(written, given, overwrite=True):
        if preview_windows is not None:
            preview(options, preview_windows, report, settings_changes=changes)
        elif folds is not None:
            fit_folds(options, folds, report, settings_changes=changes)
        else:
            fit(options, report, settings_changes=changes)


def _print_plan(
    options: FitOptions, changes: dict[str, Any], has_dataset: bool, tflops: float
) -> None:
    """Print what a training costs, and the options with which it fits the device."""
    from MaskSAMCore.training.cost_plan import fit_line, plan_costs, plan_lines
    from MaskSAMCore.training.data import plan_network
    from MaskSAMCore.training.devices import accelerator
    from MaskSAMCore.training.fit import chosen_preset

    preset = chosen_preset(options, {}, changes)
    network, training = preset.network, preset.training
    title = f"{preset.name}, recipe {preset.recipe}"
    try:
        if has_dataset:
            grid, network = plan_network(
                options.dataset, options.splits, preset, options.targets, options.fold
            )
            voxels, mm = (
                " x ".join(f"{size:g}" for size in sizes) for sizes in (grid.window, grid.spacing)
            )
            title += f", windows of {voxels} voxels of {mm} mm ({grid.orientation})"
        else:
            classes, channels = network.num_classes, network.in_channels
            spacing = preset.plan.spacing or (1.0, 1.0, 1.0)
            network = network.adapted(network.window, spacing, classes, channels, preset.changes)
        costs = plan_costs(network, training, "cuda")
    except MaskSAMError:
        raise
    except ValueError as error:
        raise MaskSAMError(f"preset '{preset.name}' cannot be planned: {error}") from error
    kind = accelerator(options.device, options.devices)
    typer.echo(f"{title}, on a GPU with bfloat16:")
    for line in plan_lines(costs, tflops * 1e12):
        typer.echo(line)
    if kind == "cpu":
        # On a CPU, attention is computed in several steps, which keep more activations.
        costs = plan_costs(network, training, "cpu")
    typer.echo(fit_line(costs, options.device, options.devices))


def _initial_weights(given: Path | None) -> Path | None:
    """Return the path of the model or run to start from; a model may be given by its name.

    Raises:
        MaskSAMError: no model has this name, or it is not installed.
    """
    if given is None or is_training(str(given)) or is_path(given):
        return given
    from MaskSAMCore.models import open_model

    bundle, _ = open_model(given, with_estimator=False)
    return bundle.folder


def _spacing(text: str | None) -> tuple[float, float, float] | None:
    """Parse --spacing: mm along depth, rows and columns."""
    if text is None:
        return None
    try:
        depth, rows, columns = map(float, text.split(","))
    except ValueError:
        raise MaskSAMError(
            "--spacing must be mm along depth, rows and columns, such as 10,1.56,1.56, not"
            f" '{text}'"
        ) from None
    return depth, rows, columns


def _patch(text: str | None) -> tuple[int, int, int] | None:
    """Parse --patch: voxels along depth, rows and columns."""
    if text is None:
        return None
    if _PATCH.fullmatch(text):
        depth, rows, columns = map(int, text.split(","))
        return depth, rows, columns
    raise MaskSAMError(
        f"--patch must be voxels along depth, rows and columns, such as 4,256,256, not '{text}'"
    )

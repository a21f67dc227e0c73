"""``masksam compare``: compare systems on one dataset, split, time budget and device."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import typer

from MaskSAMCore.cli.outputs import Inputs, Outputs, prepared, present
from MaskSAMCore.cli.training_options import DEVICE, MOST_MINUTES, MOST_PROCESSES, MOST_STEPS
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.standard_streams import print_line

_DEFAULT_MINUTES = 60.0
_LARGEST_SEED = 2**32 - 1


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("compare")(compare)


def compare(
    dataset: Path = typer.Argument(
        ..., help="nnU-Net dataset folder: imagesTr, labelsTr, dataset.json."
    ),
    output: Path = typer.Option(
        ..., "-o", "--output", help="Folder of the comparison; one that was stopped is continued."
    ),
    systems: str | None = typer.Option(
        None,
        help="Comma-separated: masksam, masam, unet, nnunet, a preset, the NAME of a --run, sam or"
        " medsam; table4 for the ablations B1 to B9, prompt_forms for the four forms of prompts,"
        " baselines for small SAMed, Med-SA, 3DSAM-adapter and SAM3D. Append -box or -boxes to"
        " prompt a system with the reference's boxes, one in space or one on each slice. By default"
        " the systems of the papers.",
    ),
    run: list[str] = typer.Option(
        [], metavar="NAME=FOLDER", help="Finished training to use instead of a new one; repeatable."
    ),
    preset: list[str] = typer.Option(
        [], metavar="NAME=PRESET", help="Preset of masksam, masam or unet; repeatable."
    ),
    splits: Path | None = typer.Option(
        None,
        help='JSON file with "train", "val" and "test" cases; by default splits_final.json of the'
        " dataset's folder, else one case in five is held out.",
    ),
    max_minutes: float | None = typer.Option(
        None, min=0.01, max=MOST_MINUTES, help="Time budget of each training, 60 by default."
    ),
    iterations: int | None = typer.Option(
        None,
        min=1,
        max=MOST_STEPS,
        help="Iterations of each training, in place of a time budget.",
    ),
    settings: list[str] = typer.Option(
        [],
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting of all presets, as in masksam train; repeatable.",
    ),
    device: str = DEVICE,
    workers: int = typer.Option(
        1, min=0, max=MOST_PROCESSES, help="Processes that augment windows."
    ),
    seed: int | None = typer.Option(
        None, min=0, max=_LARGEST_SEED, help="Seed of each training, 0 by default."
    ),
    seeds: str | None = typer.Option(
        None,
        metavar="N,N,...",
        help="Train every system with each of these seeds, and show means and spreads.",
    ),
    orientation: str | None = typer.Option(
        None, help="Directions of depth, rows and columns of the slices, such as RSA."
    ),
    sam_checkpoint: Path | None = typer.Option(
        None, help="Official SAM weights, for presets with a frozen SAM."
    ),
) -> None:
    """Train or reuse systems, evaluate them alike, and write tables with statistics."""
    try:
        from MaskSAMCore.research.comparison.compare import CompareOptions
        from MaskSAMCore.research.comparison.compare import compare as run_comparison
        from MaskSAMCore.research.comparison.systems import DEFAULT_SYSTEMS, expand_groups
    except ImportError as error:
        if (error.name or "").startswith("MaskSAMCore"):
            raise MaskSAMError(
                "'masksam compare' is not part of the 3D Slicer extension: install the Python"
                " package masksam[train]"
            ) from error
        raise MaskSAMError(f"comparing needs '{error.name}': pip install masksam[train]") from error

    names: tuple[str, ...] = DEFAULT_SYSTEMS
    if systems is not None:
        names = tuple(name.strip() for name in systems.split(",") if name.strip())
    if iterations is not None:
        if max_minutes is not None:
            raise MaskSAMError("--max-minutes and --iterations are two budgets: choose one")
    elif max_minutes is None:
        max_minutes = _DEFAULT_MINUTES
    if seed is not None and seeds is not None:
        raise MaskSAMError("--seed is one seed and --seeds several: choose one of the two")
    runs = {name: Path(folder) for name, folder in _pairs(run, "--run NAME=FOLDER").items()}
    written = Outputs((output / "comparison.json",), filled=(output,))
    given = Inputs(
        (dataset, *present(splits, sam_checkpoint), *runs.values()),
        closed=(dataset / "imagesTr", dataset / "labelsTr"),
    )
    with prepared(written, given, overwrite=True):
        run_comparison(
            CompareOptions(
                dataset=dataset,
                output=output,
                systems=expand_groups(names),
                splits=splits,
                max_minutes=max_minutes,
                iterations=iterations,
                settings=tuple(settings),
                device=device,
                workers=workers,
                seed=seed or 0,
                seeds=() if seeds is None else _seeds(seeds),
                orientation=None if orientation is None else orientation.upper(),
                runs=runs,
                presets=_pairs(preset, "--preset NAME=PRESET"),
                sam_checkpoint=sam_checkpoint,
                command=shlex.join(["masksam", *sys.argv[1:]]),
            ),
            print_line,
        )


def _seeds(text: str) -> tuple[int, ...]:
    """Parse the comma-separated numbers of --seeds."""
    numbers = [part.strip() for part in text.split(",")]
    found = tuple(int(number) if number.isdecimal() else -1 for number in numbers)
    if not all(0 <= seed <= _LARGEST_SEED for seed in found) or len(set(found)) < len(found):
        raise MaskSAMError(f"--seeds must be different whole numbers, such as 0,1,2, not '{text}'")
    return found


def _pairs(values: list[str], form: str) -> dict[str, str]:
    found = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not (name and equals and rest):
            raise MaskSAMError(f"'{value}' does not have the form {form}")
        found[name] = rest
    return found

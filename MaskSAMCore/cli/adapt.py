"""``masksam adapt``: adapt a model to a user's corrected cases."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from MaskSAMCore.cli.outputs import Inputs, Outputs, prepared, present
from MaskSAMCore.cli.train import Report
from MaskSAMCore.cli.training_options import DEVICE, MOST_MINUTES, MOST_PROCESSES, MOST_STEPS
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import atomic_folder
from MaskSAMCore.models.unfinished import learning_folder

if TYPE_CHECKING:
    from MaskSAMCore.training.adapt import AdaptResult


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("adapt")(adapt)


def adapt(
    model: str = typer.Argument(..., help="Model to adapt: a name, or the path of a bundle."),
    cases: list[str] = typer.Argument(
        ...,
        help="A folder of corrected cases (any nnU-Net dataset), or pairs IMAGE=SEGMENTATION, such"
        " as head.nii.gz=corrected.seg.nrrd. A labelmap must have the values of the model.",
    ),
    output: Path = typer.Option(..., "-o", "--output", help="Folder of the new model."),
    name: str | None = typer.Option(
        None, help="Name of the new model; by default that of its folder."
    ),
    classes: list[str] = typer.Option(
        [],
        "--class",
        metavar="NAME",
        help="Class that is correct in the pairs, and absent where a segmentation lacks it; may be"
        " given several times. By default all classes of a segmentation, for labelmaps those"
        " that one of them shows.",
    ),
    minutes: float = typer.Option(
        15.0, min=0.01, max=MOST_MINUTES, help="Time limit of the whole work in minutes."
    ),
    holdout: str | None = typer.Option(
        None,
        metavar="auto|N|FILE",
        show_default="auto",
        help="Cases that are not learned but decide whether the new model is better: a number, a"
        " JSON file of names, or auto: one in five, at most eight, and none of one or two cases.",
    ),
    device: str = DEVICE,
    threads: int | None = typer.Option(
        None, min=1, max=MOST_PROCESSES, help="Number of threads on a CPU."
    ),
    seed: int | None = typer.Option(
        None, min=0, max=2**32 - 1, help="Seed of all random numbers.", show_default="0"
    ),
    resume: bool = typer.Option(
        False,
        "--resume",
        help="Continue learning that was stopped, with the same cases, classes, held-out cases and"
        " seed; without the option it starts anew.",
    ),
    steps: int | None = typer.Option(
        None,
        min=1,
        max=MOST_STEPS,
        help="Learn for this number of steps, in place of the minutes.",
    ),
) -> None:
    """Learn corrected cases, and write a new model if it is better on held-out cases.

    Classes that were not corrected stay as they are: the new model contains the old network, and a
    second, small one that decides about the corrected classes only. Ctrl-C stops the learning, and
    --resume continues it.
    """
    try:
        from MaskSAMCore.training.adapt import AdaptOptions
        from MaskSAMCore.training.adapt import adapt as learn
    except ImportError as error:
        raise MaskSAMError(f"learning needs '{error.name}': pip install masksam[train]") from error

    pairs = [_pair(text) for text in cases] if _is_pair(cases[0]) else []
    if not pairs and len(cases) > 1:
        raise MaskSAMError("give one folder of cases, or pairs IMAGE=SEGMENTATION")
    if classes and not pairs:
        raise MaskSAMError("--class is for pairs: dataset.json of a folder has the checked classes")
    if output.exists():
        raise MaskSAMError(f"{output} exists: choose another folder for the new model")
    folder = output.with_name(f".{output.name}.cases") if pairs else Path(cases[0])
    given = [path for pair in pairs for path in pair] or [folder]
    options = AdaptOptions(
        model=model,
        cases=folder,
        output=output,
        name=name or output.name,
        minutes=minutes,
        holdout=_holdout(holdout),
        device=device,
        threads=threads,
        seed=seed,
        resume=resume,
        steps=steps,
    )
    extra = present(options.holdout if isinstance(options.holdout, Path) else None)
    with prepared(Outputs(replaced=(output,)), Inputs((*given, *extra)), overwrite=True):
        try:
            if pairs:
                # With --resume the cases are written too, to check that they have not changed.
                with atomic_folder(folder) as new:
                    _collect(model, pairs, classes, new)
            with _stoppable() as stopped:
                result = learn(options, cancelled=stopped, report=Report(time.monotonic()))
        finally:
            if pairs and not learning_folder(output).exists():
                shutil.rmtree(folder, ignore_errors=True)
    _print(result)


def _is_pair(text: str) -> bool:
    return "=" in text and not Path(text).is_dir()


def _pair(text: str) -> tuple[Path, Path]:
    """Split IMAGE=SEGMENTATION into its two paths, which may contain "=" themselves."""
    places = [index for index, character in enumerate(text) if character == "="]
    parts = [(text[:index], text[index + 1 :]) for index in places]
    divided = [(Path(image), Path(mask)) for image, mask in parts if image and mask]
    if not divided:
        raise MaskSAMError(f"'{text}' is no pair: give IMAGE=SEGMENTATION")
    existing = [pair for pair in divided if all(path.exists() for path in pair)]
    return (existing or divided)[-1]


def _holdout(text: str | None) -> str | int | Path | None:
    if text is None or text == "auto":
        return text
    return int(text) if text.isdecimal() else Path(text)


def _collect(
    model: str, pairs: Sequence[tuple[Path, Path]], classes: Sequence[str], folder: Path
) -> None:
    """Write pairs of image and segmentation to a folder of corrected cases.

    A class in ``classes`` that a segmentation lacks is recorded as absent from that case. Without
    ``classes``, those that only other labelmaps show are absent from a labelmap, while those that
    none of them shows are left as they are.

    Raises:
        MaskSAMError: a file cannot be read, a segmentation does not fit its image or the model, the
            model needs several channels, a class is in neither the model nor any segmentation, two
            segmentations of one image have the same class, or there is no class.
    """
    import numpy as np

    from MaskSAMCore.data.corrections import append_case
    from MaskSAMCore.geometry import image_digest
    from MaskSAMCore.io import read_volume
    from MaskSAMCore.io.files import image_stem, is_segmentation_name
    from MaskSAMCore.io.labelmaps import read_labelmap
    from MaskSAMCore.io.segments import has_segments, read_segment_labels, read_segmentation
    from MaskSAMCore.models import open_model

    bundle, _ = open_model(model, with_estimator=False)
    channels = bundle.plan.channels
    if len(channels) > 1:
        raise MaskSAMError(
            f"a pair has one image, but '{bundle.name}' needs {len(channels)} channels"
            f" ({', '.join(channels)}): give a folder of cases, as for masksam train"
        )
    names = {label.name: label.value for label in bundle.labels}
    known = {name.casefold(): name for name in names}
    shown: set[int] = set()
    for _, path in () if classes else pairs:
        if not is_segmentation_name(path):
            shown |= set(np.unique(read_labelmap(path).array).tolist())
    owners: dict[tuple[str, str], Path] = {}
    for image, segmentation in pairs:
        volume = read_volume(image)
        labelmap, values = read_segmentation(segmentation, volume, names)
        if not classes and not is_segmentation_name(segmentation):
            values = {name: value for name, value in values.items() if value in shown}
        spelling = {name.casefold(): name for name in values}
        known = spelling | known
        right = [spelling.get(name.casefold(), name) for name in classes] or list(values)
        if not right:
            raise MaskSAMError(
                f"{segmentation} shows no class: give the names of absent classes with --class"
            )
        absent = [name for name in right if name not in values]
        values |= {name: value for value, name in enumerate(absent, max([0, *values.values()]) + 1)}
        digest = image_digest([volume])
        for one in right:
            other = owners.setdefault((digest, one.casefold()), segmentation)
            if other != segmentation:
                raise MaskSAMError(
                    f"'{one}' is in two segmentations of one image, {other} and {segmentation}:"
                    " leave one of them out, or join them"
                )
        name = image_stem(image)
        segments = read_segment_labels(segmentation) if has_segments(segmentation) else ()
        try:
            append_case(folder, [volume], labelmap, values, right, name, channels, segments)
        except MaskSAMError as error:
            raise MaskSAMError(f"{segmentation}: {error}") from error
    unknown = [name for name in classes if name.casefold() not in known]
    if unknown:
        raise MaskSAMError(
            f"neither a segmentation nor the model has a class {', '.join(unknown)}: choose among"
            f" {', '.join(sorted(known.values()))}"
        )


@contextmanager
def _stoppable() -> Iterator[Any]:
    """Yield a function that returns whether Ctrl-C or SIGTERM was received."""
    asked: list[int] = []
    former = {
        number: signal.signal(number, lambda got, _: asked.append(got))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _print(result: AdaptResult) -> None:
    """Print the Dice of each class before and after the adaptation, and the outcome."""
    if result.before:
        width = max(map(len, result.before))
        typer.echo(f"{'class':{width}}  before  after")
        for name, before in result.before.items():
            typer.echo(f"{name:{width}}  {before:6.3f}  {result.after[name]:5.3f}")
    typer.echo(result.message)

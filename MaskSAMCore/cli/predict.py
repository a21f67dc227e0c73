"""``masksam predict``: segment images."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import typer

from MaskSAMCore.cli.prediction import PredictOptions, run_prediction
from MaskSAMCore.cohort.cases import OUTPUT_FORMATS
from MaskSAMCore.models.catalog import DEFAULT_MODEL

Format = Enum("Format", {name: name for name in OUTPUT_FORMATS}, type=str)  # type: ignore[misc]


class TTA(str, Enum):
    """Test-time augmentation: none, or the average of the paper's mirrored passes."""

    none = "none"
    mirror = "mirror"


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("predict")(predict)


def predict(
    inputs: list[Path] = typer.Argument(
        ...,
        metavar="INPUT...",
        help="Image files, DICOM series folders, BIDS datasets, or folders of images or of DICOM"
        " studies.",
    ),
    output: Path = typer.Option(
        ..., "-o", "--output", help="A file for one input, a folder for several."
    ),
    model: list[str] = typer.Option(
        [DEFAULT_MODEL],
        "-m",
        "--model",
        help="A model's name, the path of its bundle, or the folder of a training. Given several"
        " times, the probabilities of the models are averaged.",
    ),
    roi: Path | None = typer.Option(
        None, help="Slicer ROI markup (.mrk.json); only its inside is segmented."
    ),
    boxes: Path | None = typer.Option(
        None,
        help="Slicer ROI markups (.mrk.json): box prompts for the classes they are named after, in"
        " place of the model's own prompts. SAM and MedSAM need boxes, with any names.",
    ),
    boxes_overwrite: bool = typer.Option(
        False,
        "--boxes-overwrite",
        help="Let classes with boxes take voxels from classes without boxes, which otherwise do not"
        " change.",
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:N or mps."),
    threads: int | None = typer.Option(
        None,
        "--threads",
        min=1,
        help="CPU cores to use, by default all. With --dask, the cores of each worker, by default"
        " one on this computer, and elsewhere as many as the worker was started with.",
    ),
    tta: TTA | None = typer.Option(
        None,
        help="mirror: average mirrored passes (slower). By default as the model states: none, or"
        " mirror if it was trained by its paper's recipe.",
    ),
    image_format: Format | None = typer.Option(
        None,
        "--format",
        help=f"File format of results in a folder; by default {OUTPUT_FORMATS[0]}.",
    ),
    probabilities: bool = typer.Option(
        False, "--probabilities", help="Also write the probability of every class."
    ),
    volumes: Path | None = typer.Option(
        None,
        help="Also write volumes, scores and left-right asymmetry of all cases to a CSV file, and"
        " the intracranial volume and shares of it if the model segments the whole head.",
    ),
    report: Path | None = typer.Option(
        None,
        help="Also write one HTML page about all cases, the most doubtful first, and a picture of"
        " each case beside its labelmap.",
    ),
    proposals: Path | None = typer.Option(
        None,
        help="Also write a PNG picture of the boxes and masks that the model proposed on the slice"
        " with most foreground, and of those that were chosen; for one input, without --boxes.",
    ),
    dicom_report: bool = typer.Option(
        False,
        "--dicom-report",
        help="Also write the volumes as a DICOM structured report (TID 1500), beside each DICOM"
        " segmentation.",
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace outputs that exist."),
    skip_existing: bool = typer.Option(
        False,
        "--skip-existing",
        help="Skip cases whose labelmaps exist: continue a run that was stopped or had failures.",
    ),
    keep_going: bool | None = typer.Option(
        None,
        "--keep-going/--no-keep-going",
        help="Go on with the next case after an error, and exit with status 3 at the end;"
        " the default for folders of cases.",
    ),
    shard: str | None = typer.Option(
        None, "--shard", metavar="I/N", help="Segment only part I of N, such as 1/8 to 8/8."
    ),
    dask: str | None = typer.Option(
        None,
        "--dask",
        metavar="local[:N]|ADDRESS",
        help="Segment on N processes of this computer, or on the workers of a Dask scheduler, such"
        " as tcp://10.0.0.5:8786.",
    ),
    bids_suffix: list[str] | None = typer.Option(
        None,
        "--bids-suffix",
        help="Suffix of the images to segment in BIDS datasets, by default T1w; may be given"
        " several times.",
    ),
) -> None:
    """Segment images into named classes, each on its own grid.

    The results of a folder of more than three cases are listed in cases.csv beside them.
    """
    options = PredictOptions(
        inputs=tuple(inputs),
        output=output,
        models=tuple(model),
        roi=roi,
        boxes=boxes,
        boxes_overwrite=boxes_overwrite,
        device=device,
        threads=threads,
        tta=None if tta is None else tta.value,
        image_format=None if image_format is None else image_format.value,
        probabilities=probabilities,
        volumes=volumes,
        report=report,
        proposals=proposals,
        dicom_report=dicom_report,
        overwrite=overwrite,
        skip_existing=skip_existing,
        keep_going=keep_going,
        shard=shard,
        dask=dask,
        bids_suffixes=tuple(bids_suffix or ()),
    )
    run_prediction(options)

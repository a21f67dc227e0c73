"""``masksam predict``: segments images."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from MaskSAMCore.cli.cases import OUTPUT_FORMATS, Case, find_cases
from MaskSAMCore.cli.display import ProgressDisplay, results_table, volumes_of
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.models.catalog import DEFAULT_MODEL
from MaskSAMCore.volumetry import StructureVolume, write_volume_table

if TYPE_CHECKING:
    from MaskSAMCore.inference import Segmentation, Segmenter

Format = Enum("Format", {name: name for name in OUTPUT_FORMATS}, type=str)  # type: ignore[misc]


class Passes(str, Enum):
    """One pass, or the mirrored passes of the paper as well."""

    none = "none"
    mirror = "mirror"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("predict")(predict)


def predict(
    inputs: list[Path] = typer.Argument(
        ..., metavar="INPUT...", help="Image files, DICOM series folders, or a folder of cases."
    ),
    output: Path = typer.Option(
        ..., "-o", "--output", help="A file for one input, a folder for several."
    ),
    model: str = typer.Option(
        DEFAULT_MODEL, "-m", "--model", help="A model's name or the path of its bundle."
    ),
    roi: Path | None = typer.Option(
        None, help="Slicer ROI markup (.mrk.json): only what lies inside is segmented."
    ),
    boxes: Path | None = typer.Option(
        None,
        help="Slicer ROI markups (.mrk.json), named like classes, in place of proposals; named as"
        " you like for SAM and MedSAM, which need them.",
    ),
    boxes_overwrite: bool = typer.Option(
        False,
        "--boxes-overwrite",
        help="Classes with boxes may take voxels of classes without (else these stay as they are).",
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:N or mps."),
    tta: Passes = typer.Option(Passes.none, help="mirror: average mirrored passes (slower)."),
    image_format: Format = typer.Option(
        OUTPUT_FORMATS[0], "--format", help="Of results in a folder."
    ),
    probabilities: bool = typer.Option(
        False, "--probabilities", help="Also write the probability of every class."
    ),
    volumes: Path | None = typer.Option(
        None, help="Also write volumes, scores and left-right asymmetry of all cases to a CSV file."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace outputs that exist."),
) -> None:
    """Segments images into named classes, each on its own grid."""
    from MaskSAMCore.inference import Segmenter

    if boxes is None and needs_boxes(model):
        raise MaskSAMError(
            f"'{model}' segments what boxes are drawn around: draw ROIs in Slicer, save them and"
            " add --boxes FILE.mrk.json"
        )
    segmenter = Segmenter.from_model(model, device=device)
    cases = find_cases(inputs, output, segmenter.channels, image_format.value)
    wanted = [path for case in cases for path in outputs(case, probabilities)]
    if volumes is not None:
        if volumes.is_dir() or volumes.resolve() in {path.resolve() for path in wanted}:
            raise MaskSAMError(f"--volumes {volumes}: give the name of a file of its own")
        wanted.append(volumes)
    existing = [path for path in wanted if path.exists()]
    if existing and not overwrite:
        raise MaskSAMError(f"{existing[0]} exists: add --overwrite to replace it")
    # Before the work, so that a folder that cannot be written to costs no time.
    for folder in {path.parent for path in wanted}:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise MaskSAMError(f"{folder}: permission denied; choose another folder as -o")
    found: dict[str, list[StructureVolume]] = {}
    with ProgressDisplay(len(cases), segmenter.device) as display:
        for case in cases:
            result = segment_case(
                segmenter, case, roi, boxes, boxes_overwrite, tta.value, probabilities, display
            )
            write_case(result, case, probabilities, overwrite)
            found[case.name] = volumes_of(result)
            if volumes is not None:
                # After every case: what is interrupted has the volumes of what is done.
                write_volume_table(volumes, found)
            display.finished(case.name, results_table(found[case.name]), result.notes)


def needs_boxes(model: str) -> bool:
    """Whether a model of the catalog segments nothing without boxes; known before it is loaded."""
    from MaskSAMCore.models import catalog

    return any(entry.needs_boxes for entry in catalog() if entry.name == model)


def outputs(case: Case, probabilities: bool) -> list[Path]:
    """The files that a case gives."""
    from MaskSAMCore.cli.cases import stem

    further = case.output.with_name(f"{stem(case.output)}_probabilities.nrrd")
    return [case.output, further] if probabilities else [case.output]


def segment_case(
    segmenter: Segmenter,
    case: Case,
    roi: Path | None,
    boxes: Path | None,
    boxes_overwrite: bool,
    tta: str,
    probabilities: bool,
    display: ProgressDisplay,
) -> Segmentation:
    """Reads and segments a case."""
    from MaskSAMCore.geometry import box_on_grid
    from MaskSAMCore.io import read_boxes, read_volume

    display.started(case.name)
    volumes = [read_volume(path) for path in case.channels]
    region = None
    if roi is not None:
        found = read_boxes(roi)
        if len(found) != 1:
            raise MaskSAMError(f"{roi} holds {len(found)} ROIs: --roi takes exactly one")
        region = box_on_grid(found[0], volumes[0])
    drawn = None
    if boxes is not None:
        classes = [label.name for label in segmenter.labels]
        drawn = [box_on_grid(box, volumes[0]) for box in read_boxes(boxes, classes)]
    return segmenter.segment(
        volumes,
        roi=region,
        boxes=drawn,
        overwrite=boxes_overwrite,
        progress=display.progress,
        tta="mirror" if tta == "mirror" else "none",
        probabilities=probabilities,
    )


def write_case(result: Segmentation, case: Case, probabilities: bool, overwrite: bool) -> None:
    """Writes a case's files, each complete or absent."""
    from MaskSAMCore.io import write_labelmap, write_probabilities

    labels = list(result.labels)
    write_labelmap(result.labelmap, result.volume, case.output, labels, overwrite=overwrite)
    if probabilities and result.probabilities is not None:
        path = outputs(case, True)[1]
        write_probabilities(result.probabilities, result.volume, path, overwrite=overwrite)

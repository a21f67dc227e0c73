"""``masksam predict``: segment images."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from MaskSAMCore.cli.cases import OUTPUT_FORMATS, PredictionCase, find_cases
from MaskSAMCore.cli.display import ProgressDisplay, results_table, volumes_of
from MaskSAMCore.cli.outputs import Inputs, Outputs, files_in, prepared, present
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import box_on_grid
from MaskSAMCore.io import (
    image_stem,
    read_boxes,
    read_volume,
    write_labelmap,
    write_probabilities,
)
from MaskSAMCore.models.catalog import DEFAULT_MODEL
from MaskSAMCore.volumetry import StructureVolume, write_volume_table

if TYPE_CHECKING:
    from MaskSAMCore.inference import Segmentation, Segmenter

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
        ..., metavar="INPUT...", help="Image files, DICOM series folders, or a folder of cases."
    ),
    output: Path = typer.Option(
        ..., "-o", "--output", help="A file for one input, a folder for several."
    ),
    model: str = typer.Option(
        DEFAULT_MODEL, "-m", "--model", help="A model's name or the path of its bundle."
    ),
    roi: Path | None = typer.Option(
        None, help="Slicer ROI markup (.mrk.json); only its inside is segmented."
    ),
    boxes: Path | None = typer.Option(
        None,
        help="Slicer ROI markups (.mrk.json) that prompt the classes they are named after, in place"
        " of the model's own prompts. SAM and MedSAM need boxes, of any names.",
    ),
    boxes_overwrite: bool = typer.Option(
        False,
        "--boxes-overwrite",
        help="Let classes with boxes overwrite classes without; by default these do not change.",
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:N or mps."),
    tta: TTA = typer.Option(TTA.none, help="mirror: average mirrored passes (slower)."),
    image_format: Format = typer.Option(
        OUTPUT_FORMATS[0], "--format", help="File format of results in a folder."
    ),
    probabilities: bool = typer.Option(
        False, "--probabilities", help="Also write the probability of every class."
    ),
    volumes: Path | None = typer.Option(
        None, help="Also write volumes, scores and left-right asymmetry of all cases to a CSV file."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace outputs that exist."),
) -> None:
    """Segment images into named classes, each on its own grid."""
    from MaskSAMCore.inference import Segmenter

    if boxes is None and needs_boxes(model):
        raise MaskSAMError(
            f"'{model}' segments the objects in boxes: draw ROIs in Slicer, save them and add"
            " --boxes FILE.mrk.json"
        )
    segmenter = Segmenter.from_model(model, device=device)
    cases = find_cases(inputs, output, segmenter.channels, image_format.value)
    files = [path for case in cases for path in outputs(case, probabilities)]
    images = [path for case in cases for path in case.channels]
    with prepared(
        Outputs((*files, *present(volumes))),
        Inputs(
            (*images, *present(roi, boxes), *files_in(Path(model))),
            closed=tuple(path for path in images if path.is_dir()),
        ),
        overwrite,
    ):
        found: dict[str, list[StructureVolume]] = {}
        with ProgressDisplay(len(cases), segmenter.device) as display:
            for case in cases:
                result = segment_case(
                    segmenter, case, roi, boxes, boxes_overwrite, tta.value, probabilities, display
                )
                write_case(result, case, overwrite)
                found[case.name] = volumes_of(result)
                if volumes is not None:
                    # An interruption thus loses the row of no other case.
                    write_volume_table(volumes, found)
                display.finished(case.name, results_table(found[case.name]), result.notes)


def needs_boxes(model: str) -> bool:
    """Return whether a model of the catalog needs boxes, without loading it."""
    from MaskSAMCore.models import catalog

    return any(entry.needs_boxes for entry in catalog() if entry.name == model)


def outputs(case: PredictionCase, probabilities: bool) -> list[Path]:
    """Return the files to write for a case."""
    return [case.output, probabilities_path(case)] if probabilities else [case.output]


def probabilities_path(case: PredictionCase) -> Path:
    """Return the file for the class probabilities of a case."""
    return case.output.with_name(f"{image_stem(case.output)}_probabilities.nrrd")


def segment_case(
    segmenter: Segmenter,
    case: PredictionCase,
    roi: Path | None,
    boxes: Path | None,
    boxes_overwrite: bool,
    tta: str,
    probabilities: bool,
    display: ProgressDisplay,
) -> Segmentation:
    """Read and segment a case.

    Args:
        segmenter: model.
        case: case to segment.
        roi: file with one ROI, or None for the whole volume.
        boxes: file with the boxes that prompt the classes, or None.
        boxes_overwrite: let classes with boxes overwrite classes without.
        tta: test-time augmentation, "none" or "mirror".
        probabilities: return class probabilities too.
        display: display of the progress.
    """
    display.started(case.name)
    volumes = [read_volume(path) for path in case.channels]
    region = None
    if roi is not None:
        found = read_boxes(roi)
        if len(found) != 1:
            raise MaskSAMError(f"{roi} holds {len(found)} ROIs: --roi takes exactly one")
        region = box_on_grid(found[0], volumes[0])
    prompts = None
    if boxes is not None:
        classes = [label.name for label in segmenter.labels]
        prompts = [box_on_grid(box, volumes[0]) for box in read_boxes(boxes, classes)]
    return segmenter.segment(
        volumes,
        roi=region,
        boxes=prompts,
        overwrite=boxes_overwrite,
        progress=display.progress,
        tta="mirror" if tta == "mirror" else "none",
        probabilities=probabilities,
    )


def write_case(result: Segmentation, case: PredictionCase, overwrite: bool) -> None:
    """Write the files of a case, each complete or absent."""
    labels = list(result.labels)
    write_labelmap(result.labelmap, result.volume, case.output, labels, overwrite=overwrite)
    if result.probabilities is not None:
        write_probabilities(
            result.probabilities, result.volume, probabilities_path(case), overwrite=overwrite
        )

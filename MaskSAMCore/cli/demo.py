"""``masksam demo``: segment the MNI152 head without any prompt."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from MaskSAMCore.cli.display import LastingConsole, ProgressDisplay, results_table
from MaskSAMCore.cli.outputs import Inputs, Outputs, prepared
from MaskSAMCore.cohort.record import volumes_of
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.models.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from MaskSAMCore.geometry import Volume
    from MaskSAMCore.inference import Segmenter
    from MaskSAMCore.inference.results import Instance
    from MaskSAMCore.labels import Label

# ROI of the hippocampus on each side.
_SIDES = {"left": "hippocampus-left.mrk.json", "right": "hippocampus-right.mrk.json"}
_HEAD, _BRAIN, _HIPPOCAMPI = "mni152_t1.nii.gz", "brain", "hippocampi"
_FORMATS, _PICTURE = (".nii.gz", ".seg.nrrd"), ".png"


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("demo")(demo)


def demo(
    output: Path = typer.Option(Path("masksam-demo"), "-o", "--output", help="Folder of results."),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:N or mps."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace results that exist."),
) -> None:
    """Segment the whole MNI152 T1 head, and both hippocampi in regions of interest.

    Writes labelmaps, .seg.nrrd files and pictures, and prints volumes.
    """
    from MaskSAMCore.io import read_volume, write_volume
    from MaskSAMCore.io.files import temporary_folder

    console = LastingConsole(markup=False)
    start = time.perf_counter()
    template = _template()
    results = [f"{one}{end}" for one in (_BRAIN, _HIPPOCAMPI) for end in (*_FORMATS, _PICTURE)]
    files = [output / name for name in (_HEAD, *results)]
    with (
        prepared(Outputs(tuple(files)), Inputs((template,)), overwrite),
        temporary_folder(files[0]) as folder,  # a demo that is stopped leaves no file behind
    ):
        volume = dataclasses.replace(read_volume(template), name="MNI152 T1")
        write_volume(volume, folder / _HEAD)
        _whole_head(volume, folder, device, console)
        _hippocampi(volume, folder, device, console)
        for path in files:
            (folder / path.name).replace(path)
    console.print(
        f"{output}: {_HEAD}, brain.seg.nrrd and hippocampi.seg.nrrd (drag them into 3D"
        " Slicer), the same as .nii.gz, brain.png, hippocampi.png;"
        f" {time.perf_counter() - start:.1f} s",
        highlight=False,
        soft_wrap=True,
    )


def _whole_head(volume: Volume, folder: Path, device: str, console: LastingConsole) -> None:
    """Segment all structures of the head."""
    from MaskSAMCore.pictures import outline_picture

    segmenter = _segmenter(DEFAULT_MODEL, device, console)
    with ProgressDisplay(1, str(segmenter.device)) as display:
        display.started(volume.name)
        result = segmenter.segment(volume, progress=display.progress)
        display.finished(volume.name, results_table(volumes_of(result)), result.notes)
    _write(result.labelmap, volume, folder / _BRAIN, result.labels)
    rows = [(volume.name, volume, result.labelmap, None)]
    outline_picture(rows, result.labels, folder / f"{_BRAIN}{_PICTURE}")


def _hippocampi(volume: Volume, folder: Path, device: str, console: LastingConsole) -> None:
    """Segment the head and body of each hippocampus, with one ROI per side."""
    from MaskSAMCore.geometry import box_on_grid
    from MaskSAMCore.io import read_boxes
    from MaskSAMCore.pictures import outline_picture
    from MaskSAMCore.resources import resources

    segmenter = _segmenter("hippocampus", device, console)
    labelmap = np.zeros(volume.shape, np.uint8)
    labels: list[Label] = []
    rows: list[Any] = []
    instances: list[Instance] = []
    for side, file in _SIDES.items():
        roi = box_on_grid(read_boxes(resources() / "SampleData" / file)[0], volume)
        result = segmenter.segment(volume, roi=roi)
        first, of_side = len(labels), f"{side.capitalize()} "
        for label in result.labels:
            value = first + label.value
            labelmap[result.labelmap == label.value] = value
            name = of_side + label.name.lower()
            labels.append(dataclasses.replace(label, value=value, name=name))
        for one in result.instances:
            instances.append(dataclasses.replace(one, name=of_side + one.name.lower()))
        rows.append((f"{side} hippocampus", volume, result.labelmap, None))
    _write(labelmap, volume, folder / _HIPPOCAMPI, labels)
    outline_picture(rows, result.labels, folder / f"{_HIPPOCAMPI}{_PICTURE}")
    both = dataclasses.replace(result, instances=tuple(instances))
    console.print(results_table(volumes_of(both)))


def _segmenter(model: str, device: str, console: LastingConsole) -> Segmenter:
    from MaskSAMCore.inference import Segmenter

    segmenter = Segmenter.from_model(model, device=device)
    console.print(f"Model: {model}", highlight=False)
    return segmenter


def _write(
    labelmap: NDArray[np.integer], volume: Volume, path: Path, labels: Sequence[Label]
) -> None:
    """Write a segmentation as ``.nii.gz`` and as Slicer's ``.seg.nrrd``."""
    from MaskSAMCore.io import write_labelmap

    for ending in _FORMATS:
        write_labelmap(labelmap, volume, path.with_name(path.name + ending), labels)


def _template() -> Path:
    """Return the file of the T1-weighted MNI152 head that nilearn includes."""
    try:
        from nilearn.datasets.struct import MNI152_FILE_PATH
    except ImportError as error:
        raise MaskSAMError(
            "the demo needs the MNI152 template of nilearn: pip install masksam[demo]"
        ) from error
    return Path(MNI152_FILE_PATH)

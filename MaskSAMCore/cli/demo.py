"""``masksam demo``: both hippocampi of the MNI152 template, without any prompt."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from ..errors import MaskSAMError

if TYPE_CHECKING:
    from ..labels import Label

_SIDES = {"left": "hippocampus-left.mrk.json", "right": "hippocampus-right.mrk.json"}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("demo")(demo)


def demo(
    output: Path = typer.Option(Path("masksam-demo"), "-o", "--output", help="Folder of results."),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:N or mps."),
) -> None:
    """Segments both hippocampi of the MNI152 T1 head: labelmap, .seg.nrrd, picture, volumes."""
    from ..geometry import box_on_grid
    from ..inference import Segmenter
    from ..io import read_boxes, read_volume, write_labelmap, write_volume
    from ..pictures import outline_picture
    from ..resources import resources

    console = Console()
    start = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    volume = read_volume(_template())
    volume = dataclasses.replace(volume, name="MNI152 T1")
    segmenter = Segmenter.from_model("hippocampus", device=device)
    console.print(f"Model: hippocampus, on {segmenter.device}", highlight=False)
    labelmap = np.zeros(volume.shape, np.uint8)
    labels: list[Label] = []
    rows: list[Any] = []
    table = Table("side", "class", "volume (ml)", "score")
    for side, file in _SIDES.items():
        roi = box_on_grid(read_boxes(resources() / "SampleData" / file)[0], volume)
        result = segmenter.segment(volume, roi=roi)
        first = len(labels)
        for label in result.labels:
            value = first + label.value
            labelmap[result.labelmap == label.value] = value
            name = f"{side.capitalize()} {label.name.lower()}"
            labels.append(dataclasses.replace(label, value=value, name=name))
        for found in result.instances:
            volume_ml = f"{found.voxel_count * volume.voxel_ml:.2f}"
            table.add_row(side, found.name, volume_ml, f"{found.score:.2f}")
        rows.append((f"{side} hippocampus", volume, result.labelmap, None))
    write_volume(volume, output / "mni152_t1.nii.gz", overwrite=True)
    write_labelmap(labelmap, volume, output / "hippocampi.nii.gz", labels, overwrite=True)
    write_labelmap(labelmap, volume, output / "hippocampi.seg.nrrd", labels, overwrite=True)
    outline_picture(rows, result.labels, output / "hippocampi.png")
    console.print(table)
    console.print(
        f"{output}: mni152_t1.nii.gz, hippocampi.seg.nrrd (drag both into 3D Slicer),"
        f" hippocampi.nii.gz, hippocampi.png; {time.perf_counter() - start:.1f} s",
        highlight=False,
        soft_wrap=True,
    )


def _template() -> Path:
    """The T1-weighted MNI152 head that nilearn ships."""
    try:
        from nilearn.datasets.struct import MNI152_FILE_PATH
    except ImportError as error:
        raise MaskSAMError(
            "the demo needs the MNI152 template of nilearn: pip install masksam[demo]"
        ) from error
    return Path(MNI152_FILE_PATH)

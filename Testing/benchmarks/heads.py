"""Volumes, components and a picture of both hippocampi of whole heads in MNI space.

python -m Testing.benchmarks.heads HEAD.nii.gz... -o FOLDER [--margin MM]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from MaskSAMCore import Segmenter, read_boxes, read_volume
from MaskSAMCore.geometry import box_on_grid
from MaskSAMCore.pictures import outline_picture
from MaskSAMCore.resources import resources


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("heads", type=Path, nargs="+")
    parser.add_argument("-m", "--model", default="hippocampus")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument(
        "--margin", type=float, default=0.0, help="margin around the bundled ROIs in mm"
    )
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    segmenter = Segmenter.from_model(options.model)
    for path in options.heads:
        volume = read_volume(path)
        ml = volume.voxel_ml
        rows = []
        for side in ("left", "right"):
            file = resources() / "SampleData" / f"hippocampus-{side}.mrk.json"
            box = read_boxes(file)[0]
            box = replace(box, size=tuple(mm + 2 * options.margin for mm in box.size))
            found = segmenter.segment(volume, roi=box_on_grid(box, volume)).labelmap
            parts, count = ndimage.label(found > 0, np.ones((3, 3, 3)))
            largest = np.bincount(parts.ravel())[1:].max() / max((found > 0).sum(), 1)
            volumes = ", ".join(
                f"{label.name} {(found == label.value).sum() * ml:.2f} ml"
                for label in segmenter.labels
            )
            print(f"{volume.name} {side}: {volumes}, {count} part(s), largest {largest:.1%}")
            rows.append((f"{volume.name} {side}", volume, found, None))
        target = options.output / f"{volume.name}.png"
        outline_picture(rows, segmenter.labels, target, margin_mm=12)


if __name__ == "__main__":
    main()

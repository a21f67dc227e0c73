"""Picture of a segment before and after a user drags its box.

    python -m Testing.benchmarks.drag DATASET --case hippocampus_025 --class Anterior -o drag.png

From left to right: the automatic result; a box around the true structure; the box enlarged by a
voxel; the box moved by four voxels in plane. Outlines of the segments are solid, those of the
reference dashed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from MaskSAMCore.data.dataset import load_cases, open_dataset
from MaskSAMCore.evaluation import dice_scores
from MaskSAMCore.geometry import Box, axis_mapping
from MaskSAMCore.inference import MaskSegmenter
from Testing.benchmarks.prompts import whole_boxes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--case", required=True)
    parser.add_argument("--class", dest="class_name", required=True)
    parser.add_argument("-m", "--model", default="hippocampus")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    segmenter = MaskSegmenter.from_model(options.model)
    names = [label.name for label in segmenter.labels]
    value = names.index(options.class_name) + 1
    (case,) = load_cases(open_dataset(options.dataset), [options.case])
    (volume,) = case.channels
    depth = axis_mapping(volume.ijk_to_ras, segmenter.plan.orientation)[0][0]
    axis = 2 - depth
    (tight,) = (box for box in whole_boxes(case, names) if box.class_name == options.class_name)
    lower, upper = np.array(tight.lower), np.array(tight.upper)
    moved = np.full(3, 4.0)
    moved[axis] = 0
    boxes: dict[str, Box | None] = {
        "automatic": None,
        "box of the structure": tight,
        "a voxel larger": Box(options.class_name, tuple(lower - 1), tuple(upper + 1)),
        "moved by 4 voxels": Box(options.class_name, tuple(lower + moved), tuple(upper + moved)),
    }
    true = case.labelmap == value
    index = int(true.sum(tuple(a for a in range(3) if a != depth)).argmax())
    # The remaining array axes are rows and columns of the picture; box axes are in reverse order.
    across, up = (2 - a for a in sorted({0, 1, 2} - {depth}, reverse=True))
    figure = Figure(figsize=(3.2 * len(boxes), 2.4))
    with segmenter.open(case.channels) as session:
        for number, (title, box) in enumerate(boxes.items(), start=1):
            given = None if box is None else [box]
            found = session.segment(boxes=given, overwrite=True).labelmap
            score = dice_scores(found, case.labelmap, [value])[0]
            volume_share = (found == value).sum() / true.sum()
            plot = figure.add_subplot(1, len(boxes), number)
            plot.imshow(np.take(volume.array, index, depth), cmap="gray", origin="lower")
            for mask, style, color in ((found == value, "solid", "orange"), (true, "dashed", "w")):
                plane = np.take(mask, index, depth)
                if plane.any():
                    plot.contour(plane, [0.5], colors=color, linestyles=style, linewidths=1.2)
            if box is not None:
                corner = box.lower[across] - 0.5, box.lower[up] - 0.5
                size = box.upper[across] - box.lower[across], box.upper[up] - box.lower[up]
                plot.add_patch(Rectangle(corner, *size, fill=False, edgecolor="cyan"))
            plot.set_title(f"{title}\nDice {score:.3f}, volume {volume_share:.2f}", fontsize=9)
            plot.set_axis_off()
    figure.tight_layout()
    FigureCanvasAgg(figure).print_png(options.output)


if __name__ == "__main__":
    main()

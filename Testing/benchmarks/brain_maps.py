"""Dice of a whole-head model on images of random contrast, synthesised from validation labelmaps.

    python -m Testing.benchmarks.brain_maps DATASET --targets Docs/brain/labels.json \
        --splits Docs/brain/splits.json -o summary.json

Every image has the labelmap's grid and is segmented as by ``masksam predict``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from MaskSAMCore import Segmenter
from MaskSAMCore.data.dataset import examine_dataset, load_cases
from MaskSAMCore.data.synthesis.windows import synthesized_case
from MaskSAMCore.evaluation import dice_scores
from MaskSAMCore.pictures import outline_picture

# First seed of the images; validation during training uses other seeds.
FIRST_SEED = 500_000


def main() -> None:
    """Print and write the table, and write a picture of the first image of each labelmap."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--targets", type=Path)
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--side", default="val")
    parser.add_argument("--images", type=int, default=5, help="images of each labelmap")
    parser.add_argument("-m", "--model", default="brain")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    dataset, problems = examine_dataset(options.dataset, options.targets)
    if problems or dataset.scheme is None:
        raise SystemExit(
            "; ".join(problems) or f"{options.dataset} has images: nothing to synthesise"
        )
    segmenter = Segmenter.from_model(options.model)
    names = [label.name for label in segmenter.labels]
    values = [label.value for label in segmenter.labels]
    place = {name: number for number, name in enumerate(dataset.classes, 1)}
    # The table maps the dataset's classes 1 to K to the model's values.
    table = np.zeros(len(dataset.classes) + 1, int)
    for name, value in zip(names, values, strict=True):
        table[place[name]] = value
    splits = json.loads(options.splits.read_text(encoding="utf-8"))
    scores, lines, rows = [], [], []
    for case in load_cases(dataset, splits[options.side]):
        for number in range(options.images):
            image = synthesized_case(case, dataset.scheme, FIRST_SEED + number)
            began = time.perf_counter()
            found = segmenter.segment(image.channels).labelmap.astype(int)
            seconds = time.perf_counter() - began
            truth = table[image.labelmap]
            scores.append(dice_scores(found, truth, values))
            mean = float(np.nanmean(scores[-1]))
            lines.append({"case": case.name, "image": number, "dice": mean, "seconds": seconds})
            print(f"{case.name} image {number}: {mean:.4f}, {seconds:.1f} s", flush=True)
            if number == 0:
                rows.append((f"{case.name}, Dice {mean:.3f}", image.channels[0], found, truth))
    array = np.array(scores)
    means, spreads = np.nanmean(array, 0), np.nanstd(array, 0)
    shown = Table("structure", "Dice", "sd")
    for name, mean, spread in zip(names, means, spreads, strict=True):
        shown.add_row(name, f"{mean:.3f}", f"{spread:.3f}")
    shown.add_row("mean", f"{means.mean():.4f}", f"{np.nanmean(array, 1).std():.4f}")
    Console().print(shown)
    summary = {
        "mean": float(means.mean()),
        "structures": {
            name: {"mean": float(mean), "sd": float(spread)}
            for name, mean, spread in zip(names, means, spreads, strict=True)
        },
        "images": lines,
    }
    options.output.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    outline_picture(rows, segmenter.labels, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()

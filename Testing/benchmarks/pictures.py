"""Pictures of results against references: the best, the median and the worst case.

python -m Testing.benchmarks.pictures IMAGES PREDICTIONS REFERENCES summary.json -o out.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from MaskSAMCore.evaluation import read_summary
from MaskSAMCore.io import read_volume
from MaskSAMCore.models import open_model
from MaskSAMCore.pictures import outline_picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("images", "predictions", "references", "summary"):
        parser.add_argument(name, type=Path)
    parser.add_argument("-m", "--model", default="hippocampus")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    cases = read_summary(options.summary)["metric_per_case"]
    scores = [np.mean([m["Dice"] for m in case["metrics"].values()]) for case in cases]
    order = np.argsort(scores)
    rows = []
    for word, place in (("best", -1), ("median", len(order) // 2), ("worst", 0)):
        index = int(order[place])
        file = cases[index]["prediction_file"]
        name = file.split(".")[0]
        volume = read_volume(options.images / f"{name}_0000.nii.gz")
        found = read_volume(options.predictions / file).array
        truth = read_volume(options.references / file).array
        rows.append((f"{word}: {name}, Dice {scores[index]:.3f}", volume, found, truth.astype(int)))
    outline_picture(rows, open_model(options.model)[0].labels, options.output, margin_mm=8)


if __name__ == "__main__":
    main()

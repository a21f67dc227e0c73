"""Lesions found in a third patient by networks trained from scratch on two labelled patients.

    python -m Testing.benchmarks.adapt_lesions DATA/Dataset504_OpenMS_MNI -o lesions --steps 400

Each case is the test case once. The networks see one channel of each patient, FLAIR by default.
They train for a fixed number of steps, and their last weights segment the third patient. Finished
rows are not repeated.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from MaskSAMCore import Segmenter
from MaskSAMCore.data.dataset import Dataset, load_cases, open_dataset
from MaskSAMCore.evaluation import dice_scores
from MaskSAMCore.io.files import read_json, write_json
from Testing.benchmarks.adapt_curves import train_from_nothing


def one_channel(dataset: Dataset, channel: int, folder: Path) -> Dataset:
    """Write the dataset with one of its channels, and open it."""
    if not (folder / "dataset.json").is_file():
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for case in dataset.cases:
            shutil.copy(case.images[channel], folder / "imagesTr" / f"{case.name}_0000.nii.gz")
            shutil.copy(case.labelmap, folder / "labelsTr" / f"{case.name}.nii.gz")
        description = read_json(dataset.folder / "dataset.json")
        name = description["channel_names"][str(channel)]
        write_json(folder / "dataset.json", {**description, "channel_names": {"0": name}})
    return open_dataset(folder)


def train_and_measure(
    arm: str, test: str, seed: int, dataset: Dataset, output: Path, steps: int
) -> dict[str, float]:
    """Train a preset on all cases but one, and return its scores on the remaining case."""
    folder = output / f"{arm}-{test}-{seed}"
    folder.mkdir(exist_ok=True)
    began = time.process_time()
    if not (folder / "model").exists():
        others = [case.name for case in dataset.cases if case.name != test]
        train_from_nothing(arm, dataset.folder, others, [test], folder, seed, steps=steps)
    spent = time.process_time() - began
    segmenter = Segmenter.from_model(folder / "model")
    (case,) = load_cases(dataset, [test])
    found = segmenter.segment(case.channels).labelmap
    return {
        "dice": float(dice_scores(found, case.labelmap, [1])[0]),
        "found_ml": float(found.sum() * case.channels[0].voxel_ml),
        "cpu_seconds_training": spent,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=["brain", "unet"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--channel", type=int, default=0)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    dataset = one_channel(open_dataset(options.dataset), options.channel, options.output / "data")
    file = options.output / "lesions.json"
    rows = read_json(file) if file.is_file() else {}
    for seed in options.seeds:
        for arm in options.arms:
            for test in (case.name for case in dataset.cases):
                key = f"{arm} {test} seed {seed} {options.steps} steps"
                if key not in rows:
                    rows[key] = train_and_measure(
                        arm, test, seed, dataset, options.output, options.steps
                    )
                    write_json(file, rows)
                print(key, rows[key], flush=True)


if __name__ == "__main__":
    main()

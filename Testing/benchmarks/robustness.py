"""Mean Dice of models on corrupted images, as those of other scanners and protocols are.

    python -m Testing.benchmarks.robustness DATASET --splits splits.json --side val \
        -m hippocampus -m runs/another

Every model gets the same images: the corruptions are those of the quality estimators, at fixed
severities.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from MaskSAMCore.data.dataset import LabelledCase, load_cases, open_dataset
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.quality.corruptions import FITTED, HELD_OUT
from Testing.benchmarks.prompts import measure

CORRUPTIONS = {**FITTED, **HELD_OUT}
# Corruptions that change the look of an image but not what it shows.
LOOKS = ("contrast", "noise", "bias", "motion", "thick slices", "blurred")


def corrupted(
    cases: Sequence[LabelledCase], kind: str, severity: float, seed: int
) -> list[LabelledCase]:
    """Return corrupted copies of cases, each with random numbers of its own."""
    return [
        CORRUPTIONS[kind](case, severity, np.random.default_rng((seed, index)))
        for index, case in enumerate(cases)
    ]


def mean_dice(segmenter: MaskSegmenter, cases: list[LabelledCase]) -> float:
    """Return the mean Dice over classes and cases."""
    return float(np.nanmean(measure(segmenter, cases, {"automatic": None})["automatic"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--side", default="val")
    parser.add_argument("-m", "--model", action="append", required=True)
    parser.add_argument("--cases", type=int, help="number of cases, all by default")
    parser.add_argument("--kinds", nargs="+", choices=CORRUPTIONS, default=LOOKS)
    parser.add_argument("--severities", type=float, nargs="+", default=(0.25, 0.5))
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    names = json.loads(options.splits.read_text(encoding="utf-8"))[options.side]
    cases = load_cases(open_dataset(options.dataset), names[: options.cases])
    segmenters = [MaskSegmenter.from_model(model) for model in options.model]
    print(f"mean Dice of {len(cases)} {options.side} cases\n")
    print(f"| corruption | severity | {' | '.join(options.model)} |")
    print(f"|---|---|{'---|' * len(segmenters)}")
    rows = [("clean", 0.0), *((k, s) for k in options.kinds for s in options.severities)]
    for kind, severity in rows:
        made = corrupted(cases, kind, severity, options.seed)
        scores = " | ".join(f"{mean_dice(segmenter, made):.3f}" for segmenter in segmenters)
        print(f"| {kind} | {severity:g} | {scores} |", flush=True)


if __name__ == "__main__":
    main()

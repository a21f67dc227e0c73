"""Learning curves: a model adapted to a few cases, and networks trained on them from scratch.

    python -m Testing.benchmarks.adapt_curves DATA/Dataset004_Hippocampus -o curves \\
        --splits splits.json --cases 1 3 5 10 20 --arms adapted tiny unet --minutes 15

Each arm gets the same cases and the same minutes on an idle machine; with --steps, an arm gets the
number of steps that it would take in these minutes. The last weights segment the validation cases,
or the test cases with --side test. Finished arms are not repeated. The scores are written to
curves.json and curves.png.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from MaskSAMCore import Segmenter
from MaskSAMCore.data.dataset import Dataset, load_cases, open_dataset
from MaskSAMCore.evaluation import dice_scores
from MaskSAMCore.io.files import atomic_file, read_json, write_json
from MaskSAMCore.models.unfinished import unfinished_learning
from MaskSAMCore.presets import find_preset
from MaskSAMCore.training.adapt import AdaptOptions, adapt
from MaskSAMCore.training.export import export_run
from MaskSAMCore.training.fit import FitOptions, fit

ADAPTED = "adapted"


def chosen_cases(split: dict[str, list[str]], count: int, seed: int) -> list[str]:
    """Return random training cases; with one seed, a larger choice contains the smaller ones."""
    names = sorted(split["train"])
    random.Random(seed).shuffle(names)
    return names[:count]


def part_of(dataset: Dataset, names: list[str], folder: Path) -> Path:
    """Write a dataset folder with some of the cases."""
    if (folder / "dataset.json").is_file():
        return folder
    for case in dataset.select(names):
        for path in (*case.images, case.labelmap):
            target = folder / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    description = {**read_json(dataset.folder / "dataset.json"), "numTraining": len(names)}
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    return folder


def class_dice(model: Path, dataset: Dataset, names: list[str]) -> dict[str, float]:
    """Return the mean Dice of each class of a model on cases of a dataset."""
    segmenter = Segmenter.from_model(model)
    values = {label.name: label.value for label in segmenter.labels}
    scores = []
    for case in load_cases(dataset, names):
        found = segmenter.segment(case.channels).labelmap
        own = np.zeros_like(case.labelmap)
        for index, name in enumerate(dataset.classes, start=1):
            own[found == values[name]] = index
        scores.append(dice_scores(own, case.labelmap, range(1, len(dataset.classes) + 1)))
    return dict(zip(dataset.classes, np.nanmean(scores, 0).tolist(), strict=True))


def train_from_nothing(
    preset: str,
    data: Path,
    names: list[str],
    watched: list[str],
    folder: Path,
    seed: int,
    *,
    steps: int | None,
    minutes: float | None = None,
) -> None:
    """Train a preset from scratch on cases; score the watched cases only at the end.

    The run, its split and the model with the last weights are written to ``folder``. A run found
    there is resumed.
    """
    write_json(folder / "splits.json", {"train": names, "val": watched})
    run = folder / "run"
    options = FitOptions(
        data,
        run,
        None if run.exists() else find_preset(preset),
        splits=folder / "splits.json",
        max_minutes=None if steps else minutes,
        resume=run.exists(),
        seed=seed,
        validation_minutes=1e6,
    )
    fit(options, settings_changes={} if steps is None else {"iterations": steps})
    export_run(run, folder / "model", last=True)


def draw(points: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Plot the Dice of each arm over the number of cases: dots for seeds, lines for means."""
    arms: dict[str, dict[int, list[float]]] = {}
    for key, point in points.items():
        arm, count = key.split()[:2]
        arms.setdefault(arm, {}).setdefault(int(count), []).append(point["mean"])
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    plot = figure.subplots()
    counts = sorted({count for by_count in arms.values() for count in by_count})
    for arm, by_count in arms.items():
        known = sorted(by_count)
        means = [float(np.mean(by_count[count])) for count in known]
        (line,) = plot.plot(known, means, label=arm)
        for count in known:
            seeds = by_count[count]
            plot.plot([count] * len(seeds), seeds, "o", color=line.get_color(), markersize=4)
    plot.set_xscale("log")
    plot.set_xticks(counts, [str(count) for count in counts])
    plot.minorticks_off()
    plot.set(xlabel="cases", ylabel="Dice, mean of the classes")
    plot.grid(alpha=0.3)
    plot.legend()
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


class Curves:
    """Learning curves whose finished points are in a JSON file."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.dataset = open_dataset(options.dataset)
        self.split = read_json(options.splits)
        self.file = options.output / "curves.json"
        self.points = read_json(self.file) if self.file.is_file() else {}

    def run(self) -> None:
        """Compute all points that are not in the file, and print them."""
        for seed in self.options.seeds:
            for count in self.options.cases:
                for arm in self.options.arms:
                    key = f"{arm} {count} cases seed {seed} {self.budget(arm)}"
                    if key not in self.points:
                        self.points[key] = self.point(arm, count, seed)
                        write_json(self.file, self.points)
                    print(key, self.points[key], flush=True)
        draw(self.points, self.file.with_suffix(".png"))

    def budget(self, arm: str) -> str:
        """Return the budget of an arm in words."""
        steps = self.steps(arm)
        return f"{self.options.minutes:g} minutes" if steps is None else f"{steps} steps"

    def steps(self, arm: str) -> int | None:
        """Return the number of steps of an arm, or None if the minutes are its budget."""
        return dict(self.options.steps).get(arm)

    def point(self, arm: str, count: int, seed: int) -> dict[str, object]:
        """Train one network and return its scores."""
        options = self.options
        names = chosen_cases(self.split, count, seed)
        folder = options.output / f"{arm}-{count}-{seed}"
        model = folder / "model"
        began, cpu = time.monotonic(), time.process_time()
        if not model.exists() and arm == ADAPTED:
            self.adapted(names, folder, seed)
        elif not model.exists():
            watched = self.split["val"][:2]
            data = part_of(self.dataset, [*names, *watched], folder / "data")
            steps = self.steps(arm)
            train_from_nothing(
                arm, data, names, watched, folder, seed, steps=steps, minutes=options.minutes
            )
        facts = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
        scores = class_dice(model, self.dataset, self.split[options.side])
        return {"mean": float(np.mean(list(scores.values()))), **scores, **facts}

    def adapted(self, names: list[str], folder: Path, seed: int) -> None:
        """Adapt the model to cases."""
        cases = part_of(self.dataset, names, folder / "cases")
        output = folder / "model"
        adapt(
            AdaptOptions(
                self.options.model,
                cases,
                output,
                f"{ADAPTED}-{len(names)}",
                minutes=self.options.minutes,
                holdout=0,
                threads=self.options.threads,
                seed=seed,
                resume=unfinished_learning(output) is not None,
                steps=self.steps(ADAPTED),
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--model", default="brain")
    parser.add_argument("--cases", type=int, nargs="+", default=[1, 3, 5, 10, 20])
    parser.add_argument("--arms", nargs="+", default=[ADAPTED, "tiny", "unet"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--side", choices=["val", "test"], default="val")
    parser.add_argument(
        "--steps",
        type=lambda text: (text.split("=")[0], int(text.split("=")[1])),
        nargs="+",
        default=[],
        metavar="ARM=N",
        help="steps of an arm in place of the minutes",
    )
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    Curves(options).run()


if __name__ == "__main__":
    main()

"""What a comparison says of its systems, and whether two of them differ by more than chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from MaskSAMCore.data.dataset import Dataset
from MaskSAMCore.evaluation import read_summary
from MaskSAMCore.research.comparison.folder import Folder, read_record
from MaskSAMCore.research.comparison.systems import System, Training
from MaskSAMCore.training.run_folder import TrainingRecord, read_validation


@dataclass(frozen=True)
class Row:
    """A line of the table; figures are NaN where they are not known.

    Attributes:
        system: its name.
        network: the preset, the run that was given, or the checkpoint.
        dice: of each class, mean and standard deviation over the cases.
        mean, spread: mean and standard deviation over the cases of the mean over the classes.
        surface_dice, hd95: at 1 mm, and in mm: means over cases and classes.
        tunable, total: parameters that are trained, and all of them.
        seconds: a volume, mean.
        memory: peak, in bytes.
        minutes, iterations: of the training until its best weights.
        per_case: case to the mean Dice over its classes.
        problem: why there are no figures; empty where there are.
    """

    system: str
    network: str
    dice: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    mean: float = math.nan
    spread: float = math.nan
    surface_dice: float = math.nan
    hd95: float = math.nan
    tunable: float = math.nan
    total: float = math.nan
    seconds: float = math.nan
    memory: float = math.nan
    minutes: float = math.nan
    iterations: float = math.nan
    per_case: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Pair:
    """Two systems on the same cases.

    Attributes:
        first, second: their names.
        cases: how many both have.
        difference: mean of the first's Dice less the second's.
        p: of Wilcoxon's signed-rank test, two-sided; 1 where all cases are alike.
        p_holm: the same, corrected for the number of pairs (Holm).
    """

    first: str
    second: str
    cases: int
    difference: float
    p: float
    p_holm: float


def make_row(
    folder: Folder, system: System, training: Training | None, dataset: Dataset, problem: str
) -> Row:
    """The line of a system, from what its stages left in the folder."""
    network = system.checkpoint
    if training is not None:
        network = training.preset or str(training.given)
    if problem:
        return Row(system.name, network, problem=problem)
    summary = read_summary(folder.summary(system.name))
    facts = read_record(folder.facts(system.name))
    per_case = {
        case["prediction_file"].removesuffix(".nii.gz"): mean_of(
            [metrics["Dice"] for metrics in case["metrics"].values()]
        )
        for case in summary["metric_per_case"]
    }
    dice = {}
    for name, value in zip(dataset.classes, dataset.values, strict=True):
        found = [case["metrics"][str(value)]["Dice"] for case in summary["metric_per_case"]]
        dice[name] = mean_of(found), spread_of(found)
    overall: dict[str, Any] = summary["foreground_mean"]
    values = list(per_case.values())
    minutes, iterations = _training_facts(folder, training)
    return Row(
        system=system.name,
        network=network,
        dice=dice,
        mean=mean_of(values),
        spread=spread_of(values),
        surface_dice=float(overall.get("surface_dice_1mm", math.nan)),
        hd95=float(overall.get("hd95_mm", math.nan)),
        tunable=float(facts.get("tunable", math.nan)),
        total=float(facts.get("total", math.nan)),
        seconds=mean_of([facts["seconds"][case] for case in per_case]),
        memory=float(facts.get("peak_memory", 0)) or math.nan,
        minutes=minutes,
        iterations=iterations,
        per_case=per_case,
    )


def _training_facts(folder: Folder, training: Training | None) -> tuple[float, float]:
    if training is None:
        return 0.0, 0.0
    run = folder.run(training.name) if training.given is None else training.given
    found = read_validation(run)
    minutes = TrainingRecord.load(run).max_minutes
    return (
        float(found.get("minutes", math.nan if minutes is None else minutes)),
        float(found.get("iteration", math.nan)),
    )


def compared_pairs(rows: Sequence[Row]) -> list[Pair]:
    """Every pair of systems with figures, by Wilcoxon's signed-rank test over their cases."""
    found = []
    for one, other in combinations([row for row in rows if not row.problem], 2):
        both = [
            case
            for case, value in one.per_case.items()
            if math.isfinite(value) and math.isfinite(other.per_case.get(case, math.nan))
        ]
        if both:
            difference = np.array([one.per_case[c] - other.per_case[c] for c in both])
            p = float(wilcoxon(difference).pvalue) if np.any(difference) else 1.0
            mean = float(difference.mean())
            found.append((one.system, other.system, len(both), mean, p))
    corrected = holm([pair[-1] for pair in found])
    return [Pair(*pair, p) for pair, p in zip(found, corrected, strict=True)]


def holm(values: Sequence[float]) -> list[float]:
    """Holm's correction of p-values of several tests."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    corrected = [0.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = largest
    return corrected


def mean_of(values: Sequence[float]) -> float:
    """The mean of those that are numbers; NaN where none is."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def spread_of(values: Sequence[float]) -> float:
    """The standard deviation (n - 1) of those that are finite; NaN where fewer than two are."""
    known = [value for value in values if math.isfinite(value)]
    return float(np.std(known, ddof=1)) if len(known) > 1 else math.nan

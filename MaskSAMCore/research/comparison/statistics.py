"""Figures of each system, and tests of the differences between systems."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    """A row of the table; unknown figures are NaN.

    Attributes:
        system: name of the system.
        network: the system's preset, given run, or checkpoint.
        dice: mean and standard deviation over the cases of the Dice of each class.
        mean: mean over the cases of the mean Dice over the classes.
        spread: standard deviation over the cases of the mean Dice over the classes.
        surface_dice: mean surface Dice at 1 mm over cases and classes.
        hd95: mean 95 % Hausdorff distance over cases and classes in mm.
        tunable: number of trained parameters.
        total: number of all parameters.
        seconds: mean time per volume.
        memory: peak memory in bytes.
        minutes: training time until the best weights.
        iterations: training iterations until the best weights.
        per_case: mean Dice over the classes, by case.
        seeds: mean Dice by seed, NaN for a failed seed; empty without several seeds. With several
            seeds, all figures are means over the seeds that succeeded, and standard deviations are
            those between seeds.
        problem: reason for a row without figures, else empty.
        seed_problems: reason for the failure of each failed seed, if another seed succeeded.
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
    seeds: Mapping[int, float] = field(default_factory=dict)
    problem: str = ""
    seed_problems: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """A comparison of two systems on the same cases.

    Attributes:
        first: name of the first system.
        second: name of the second system.
        cases: number of cases with a figure for both.
        difference: mean over the cases of the first Dice minus the second.
        p: p-value of Wilcoxon's signed-rank test, two-sided; 1 if no case differs.
        p_holm: p-value corrected for the number of pairs by Holm's method.
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
    """Return the row of a system from the files of its stages.

    Args:
        folder: the comparison's folder.
        system: the system.
        training: the system's training, None for a checkpoint.
        dataset: dataset with the classes.
        problem: reason for a row without figures, or empty.
    """
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
    """Return the minutes and the iterations of a training until its best weights."""
    if training is None:
        return 0.0, 0.0
    if training.is_nnunet:
        facts = read_record(folder.finished(training.name))
        return float(facts["minutes"]), float(facts["iterations"])
    run = folder.run_of(training)
    found = read_validation(run)
    minutes = TrainingRecord.load(run).max_minutes
    return (
        float(found.get("minutes", math.nan if minutes is None else minutes)),
        float(found.get("iteration", math.nan)),
    )


def over_seeds(rows: Mapping[int, Sequence[Row]]) -> list[Row]:
    """Return one row for each system with the means over its seeds.

    Args:
        rows: rows by seed. Systems that are not trained here have a row for the first seed only.
    """
    found: dict[str, dict[int, Row]] = {}
    for seed, each in rows.items():
        for row in each:
            found.setdefault(row.system, {})[seed] = row
    return [_mean_row(by_seed) for by_seed in found.values()]


def _mean_row(rows: Mapping[int, Row]) -> Row:
    """Return a row with the means of a system's rows over the seeds that succeeded."""
    known = {seed: row for seed, row in rows.items() if not row.problem}
    first = next(iter((known or rows).values()))
    if not known:
        return first

    each = list(known.values())
    dice = {}
    for name in first.dice:
        means = [row.dice[name][0] for row in each]
        dice[name] = mean_of(means), spread_of(means)
    return replace(
        first,
        dice=dice,
        spread=spread_of([row.mean for row in each]),
        per_case={case: mean_of([row.per_case[case] for row in each]) for case in first.per_case},
        seeds={seed: row.mean for seed, row in rows.items()},
        seed_problems={seed: row.problem for seed, row in rows.items() if row.problem},
        mean=mean_of([row.mean for row in each]),
        surface_dice=mean_of([row.surface_dice for row in each]),
        hd95=mean_of([row.hd95 for row in each]),
        seconds=mean_of([row.seconds for row in each]),
        memory=mean_of([row.memory for row in each]),
        minutes=mean_of([row.minutes for row in each]),
        iterations=mean_of([row.iterations for row in each]),
    )


def compared_pairs(rows: Sequence[Row]) -> list[Pair]:
    """Test every pair of systems with figures by Wilcoxon's signed-rank test over their cases."""
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
    """Return p-values corrected by Holm's method."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    corrected = [0.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = largest
    return corrected


def mean_of(values: Sequence[float]) -> float:
    """Return the mean of the values that are not NaN, or NaN if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def spread_of(values: Sequence[float]) -> float:
    """Return the sample standard deviation of the finite values, or NaN for fewer than two."""
    known = [value for value in values if math.isfinite(value)]
    return float(np.std(known, ddof=1)) if len(known) > 1 else math.nan

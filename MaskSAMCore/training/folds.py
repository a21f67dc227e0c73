"""Cross-validation: one training for each fold, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from MaskSAMCore.data.case_cache import CaseCache
from MaskSAMCore.data.dataset import examine_dataset
from MaskSAMCore.data.splits import Fold, find_split
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.training.checkpoint import is_stopped, newest_checkpoint
from MaskSAMCore.training.fit import (
    FitOptions,
    changed_option,
    chosen_facts,
    chosen_preset,
    fit,
    validation_changes,
)
from MaskSAMCore.training.run_folder import (
    BEST,
    CASES,
    RUN_FILE,
    TrainingRecord,
    best_dice,
    last_iteration,
)


def fold_run(folder: Path, index: int) -> Path:
    """Return the folder of a fold's run."""
    return folder / f"fold_{index}"


def fit_folds(
    options: FitOptions,
    count: int,
    report: Callable[[str], None] = print,
    config_changes: Mapping[str, Any] | None = None,
    settings_changes: Mapping[str, Any] | None = None,
) -> list[float]:
    """Train all folds of a cross-validation, each in a folder of its own.

    Args:
        options: choices of the user; ``run`` is the folder of the folds' runs. With ``resume``
            finished folds are left as they are, the one that was stopped is continued, and further
            ones are begun, with the time budget of the last one unless ``max_minutes`` is given.
        count: number of folds.
        report: function that receives lines of text for the user.
        config_changes: fields to change in the preset's network.
        settings_changes: fields to change in the preset's hyperparameters.

    Returns:
        Best mean Dice on the validation cases of each fold, up to the one that was stopped.

    Raises:
        MaskSAMError: a fold cannot be trained, see :func:`fit`, or a resumed fold was begun with
            other cases or other options.
        KeyboardInterrupt: Ctrl-C was pressed; no further fold is begun.
    """
    runs = [fold_run(options.run, index) for index in range(count)]
    begun = [run for run in runs if (run / RUN_FILE).exists()]
    if begun and not options.resume:
        raise MaskSAMError(
            f"{begun[0]} already holds a training: add --resume to continue, or choose another"
            " folder"
        )
    if begun:
        _check_same(options, runs, begun, config_changes, settings_changes)
    cache = CaseCache(options.cache or options.run / CASES)
    budget = options.max_minutes
    scores: list[float] = []
    started = time.monotonic()
    for index, run in enumerate(runs):
        if run in begun and options.max_minutes is None:
            budget = TrainingRecord.load(run).max_minutes
        if run in begun and is_finished(run, budget):
            scores.append(best_dice(run))
            report(f"fold {index} is finished: best validation Dice {scores[-1]:.4f}")
            continue
        report(f"fold {index} of 0 to {count - 1}, in {run}")
        own = replace(
            options,
            run=run,
            fold=Fold(index, count),
            max_minutes=budget,
            resume=run in begun,
            cache=cache.folder,
        )
        if options.stop_after is not None:
            minutes = (time.monotonic() - started) / 60
            own = replace(own, stop_after=max(options.stop_after - minutes, 0.0))
        scores.append(fit(own, report, config_changes, settings_changes))
        if is_stopped(run):
            return scores
    if options.cache is None:
        cache.remove_others(())
    report(
        f"validation Dice over {count} folds: mean {mean(scores):.4f}, standard deviation"
        f" {stdev(scores):.4f}"
    )
    return scores


def is_finished(run: Path, max_minutes: float | None = None) -> bool:
    """Return whether a training has spent its budget, and its last weights were validated.

    Args:
        run: folder of the training.
        max_minutes: time budget over all parts of the training; None for the recorded budget.
    """
    record, checkpoint = TrainingRecord.load(run), newest_checkpoint(run)
    if checkpoint is None or not (run / BEST).is_file():
        return False
    if last_iteration(run) != checkpoint.iteration:
        return False
    budget = record.max_minutes if max_minutes is None else max_minutes
    if budget is not None:
        return checkpoint.minutes >= budget
    return checkpoint.iteration >= record.settings.iterations


def _check_same(
    options: FitOptions,
    runs: Sequence[Path],
    begun: Sequence[Path],
    config_changes: Mapping[str, Any] | None,
    settings_changes: Mapping[str, Any] | None,
) -> None:
    """Raise an error if a fold was begun with other cases or choices than those of the command.

    Args:
        options: choices of the user.
        runs: folders of all folds.
        begun: folders of the folds that were begun.
        config_changes: fields to change in the preset's network.
        settings_changes: fields to change in the preset's hyperparameters.
    """
    preset = chosen_preset(options, config_changes or {}, settings_changes or {})
    chosen = chosen_facts(options, preset)
    dataset, problems = examine_dataset(options.dataset, options.targets)
    for index, run in enumerate(runs):
        if run not in begun:
            continue
        record = TrainingRecord.load(run)
        if (record.preset, record.seed) != (preset.name, options.seed):
            raise MaskSAMError(
                f"{run} was begun with --preset {record.preset} --seed {record.seed}: give these"
                " again"
            )
        if record.settings.replace(**validation_changes(options)) != preset.training:
            raise MaskSAMError(
                f"{run} was begun with other hyperparameters: give the options of its first command"
            )
        for name in ("orientation", "spacing", "patch", "started_from", "set"):
            if record.facts.get(name) != chosen.get(name):
                raise MaskSAMError(
                    f"{run} was begun with another {changed_option(name)}: give the options of its"
                    " first command"
                )
        split, split_problems = find_split(dataset, options.splits, Fold(index, len(runs)))
        problems += split_problems
        same = options.dataset.resolve().name == record.dataset and record.split == split
        if not problems and not (same and record.values == dataset.values):
            raise MaskSAMError(
                f"{run} was begun with other cases: give the dataset, --folds and --splits of its"
                " first command"
            )
    if problems:
        raise MaskSAMError("; ".join(problems))

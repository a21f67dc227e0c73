"""Comparison of systems: train, segment, evaluate and tabulate; finished parts are kept."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from MaskSAMCore.data.dataset import Dataset, open_dataset
from MaskSAMCore.data.patients import parted_patients
from MaskSAMCore.data.splits import held_out_cases, split_cases
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.evaluation import evaluate, surfaces_available, write_summary
from MaskSAMCore.inference.device import choose_device
from MaskSAMCore.presets import find_preset
from MaskSAMCore.research.comparison.folder import (
    Folder,
    made_by_others,
    read_record,
    write_record,
)
from MaskSAMCore.research.comparison.stage import Job
from MaskSAMCore.research.comparison.statistics import Row, compared_pairs, make_row, over_seeds
from MaskSAMCore.research.comparison.systems import DEFAULT_SYSTEMS, System, Training, find_systems
from MaskSAMCore.research.comparison.tables import write_seeds, write_tables
from MaskSAMCore.training.overrides import change_preset
from MaskSAMCore.training.preset import PlanConstraints
from MaskSAMCore.training.run_folder import TrainingRecord


@dataclass(frozen=True)
class CompareOptions:
    """Choices of the user for a comparison.

    Attributes:
        dataset: an nnU-Net dataset folder.
        output: the comparison's folder; an earlier comparison in it is continued.
        systems: names of systems, see `systems.find_systems`.
        splits: JSON file with "train" and "val" cases, and optionally "test" cases, to evaluate on
            cases that no training chose its weights on; None for the default split of a training.
        max_minutes: time budget of each training; None for a budget of iterations.
        iterations: number of iterations of each training; None for a budget of time.
        settings: settings to change in all presets, "key=value".
        device: "auto", "cpu", "cuda" or "mps".
        workers: processes that augment windows in each training.
        seed: seed of each training.
        seeds: seeds to train every system with, in place of ``seed``; figures are then means over
            the seeds.
        orientation: orientation of all plans, or None.
        runs: folders of finished trainings by name.
        presets: preset names by training, in place of the defaults.
        sam_checkpoint: weights of a frozen SAM, for presets with one.
        command: the shell command, which is shown with the results.
    """

    dataset: Path
    output: Path
    systems: tuple[str, ...] = DEFAULT_SYSTEMS
    splits: Path | None = None
    max_minutes: float | None = 60.0
    iterations: int | None = None
    settings: tuple[str, ...] = ()
    device: str = "auto"
    workers: int = 1
    seed: int = 0
    seeds: tuple[int, ...] = ()
    orientation: str | None = None
    runs: Mapping[str, Path] = field(default_factory=dict)
    presets: Mapping[str, str] = field(default_factory=dict)
    sam_checkpoint: Path | None = None
    command: str = ""


def run_process(job_file: Path) -> int:
    """Run the job of a file in a separate process and return the exit status.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, or a signal arrived. By then, a training has
            completed its step and saved a checkpoint, unless Ctrl-C was pressed twice.
    """
    command = [sys.executable, "-m", "MaskSAMCore.research.comparison.stage", str(job_file)]
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # Ctrl-C reaches the stage's process by itself, but SIGTERM does not. On Windows,
            # terminate() would kill the process.
            if sys.platform != "win32":
                process.terminate()
            try:
                process.wait()
            except KeyboardInterrupt:
                process.kill()
            raise


def compare(
    options: CompareOptions,
    report: Callable[[str], None] = print,
    run_stage: Callable[[Path], int] = run_process,
) -> list[Row]:
    """Compare systems and write the tables.

    A system that fails, whose training fails, or whose checkpoint is not installed gets a row with
    the reason; the comparison continues with the others.

    Args:
        options: choices of the user.
        report: function that receives lines of text for the user.
        run_stage: function that runs the job of a file and returns the exit status.

    Raises:
        MaskSAMError: an option is invalid, a given run was trained on the cases, the folder has a
            comparison under other terms, or no system could be evaluated.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MaskSAMError("the tables need matplotlib: pip install masksam[train]")
    systems, trainings = find_systems(options.systems, options.runs, options.presets)
    for training in trainings.values():
        if training.is_ours:
            preset = change_preset(find_preset(training.preset), options.settings)
            if options.orientation is not None and "orientation" in preset.changes:
                raise MaskSAMError(
                    "--orientation and --set orientation are the same: leave one out"
                )
            # All systems, nnU-Net included, share one budget, which is shown with the results.
            if "iterations" in preset.changes:
                raise MaskSAMError("--set iterations would change the budget: give --iterations")
    if options.settings and not any(training.is_ours for training in trainings.values()):
        raise MaskSAMError("--set changes presets, and no system is trained with one: leave it out")
    # Check the orientation before the terms are recorded, since they bind all later commands.
    PlanConstraints(orientation=options.orientation)
    device = choose_device(options.device).device.type
    dataset = open_dataset(options.dataset)
    if dataset.scheme is not None:
        raise MaskSAMError(f"systems segment images, but {options.dataset} has only labelmaps")
    split = split_cases(dataset, options.splits)
    test = held_out_cases(dataset, options.splits)
    cases = test or split["val"]
    for training in trainings.values():
        if training.given is not None:
            check_given(training, dataset, cases)
    folder = Folder(options.output)
    folder.begin(_terms(options, split, cases, device))
    parts = [folder.of_seed(seed) for seed in options.seeds] or [folder]
    for training in trainings.values():
        _check_preset(training, parts)
    write_record(folder.split, {**split, "test": test})
    job = _job(options, folder, cases, device)
    facts = _facts(options, dataset, split, test)
    held_out = bool(test) and not any(map(partial(_validated_on, cases), trainings.values()))
    every: dict[int, list[Row]] = {}
    rows: list[Row] = []
    for seed, part in zip(options.seeds or (options.seed,), parts, strict=True):
        stages = _Stages(
            part, replace(job, folder=part.root.resolve(), seed=seed), report, run_stage
        )
        # Systems that are not trained here have the same results for all seeds.
        new = [s for s in systems if not every or _is_trained(trainings.get(s.training))]
        every[seed] = stages.rows(new, trainings, dataset, cases)
        rows = every[seed] if not options.seeds else over_seeds(every)
        facts["device"] = _device_name(part, new, device)
        if all(row.problem for row in rows):
            raise MaskSAMError(f"no system could be evaluated: {rows[0].problem}")
        write_tables(folder.root, rows, compared_pairs(rows), dataset.classes, facts, held_out)
        if options.seeds:
            write_seeds(folder.root, every, dataset.classes)
    shutil.rmtree(folder.cache, ignore_errors=True)
    report(f"the tables are in {folder.root / 'comparison.md'}, .csv and .png")
    return rows


def _terms(
    options: CompareOptions, split: Mapping[str, Sequence[str]], cases: list[str], device: str
) -> dict[str, object]:
    """Return the terms that all systems of a comparison share."""
    return {
        "dataset": options.dataset.resolve().name,
        "split": split,
        "cases": cases,
        "max_minutes": options.max_minutes,
        "iterations": options.iterations,
        "settings": list(options.settings) or None,
        "device": device,
        "seed": None if options.seeds else options.seed,
        "orientation": options.orientation,
    }


def _job(options: CompareOptions, folder: Folder, cases: list[str], device: str) -> Job:
    """Return the part of a job that all stages share."""
    file = options.sam_checkpoint
    return Job(
        stage="train",
        folder=folder.root.resolve(),
        dataset=options.dataset.resolve(),
        split=folder.split.resolve(),
        cache=folder.cache.resolve(),
        cases=tuple(cases),
        device=device,
        max_minutes=options.max_minutes,
        iterations=options.iterations,
        settings=options.settings,
        workers=options.workers,
        seed=options.seed,
        orientation=options.orientation,
        sam_checkpoint=None if file is None else file.resolve(),
    )


def check_given(training: Training, dataset: Dataset, cases: list[str]) -> None:
    """Check that a given run has the dataset's classes, by name and value, and was not trained on
    the cases.

    Raises:
        MaskSAMError: a check fails.
    """
    assert training.given is not None
    record = TrainingRecord.load(training.given)
    classes, expected = (
        ", ".join(f"{name} ({value})" for name, value in zip(of.classes, of.values, strict=True))
        for of in (record, dataset)
    )
    if classes != expected:
        raise MaskSAMError(
            f"the run '{training.name}' has the classes {classes}, but the dataset has {expected}:"
            " compare on the dataset that it was trained on"
        )
    seen = sorted(set(cases) & set(record.split["train"]))
    if seen:
        raise MaskSAMError(
            f"the run '{training.name}' was trained on cases of the comparison"
            f" ({', '.join(seen[:3])}): compare with the run's own --splits"
        )
    sides = {"the training": record.split["train"], "the comparison": cases}
    for problem in parted_patients(sides, dataset.patients):
        raise MaskSAMError(f"the run '{training.name}': {problem}")


def _validated_on(cases: Sequence[str], training: Training) -> bool:
    """Return whether a given run chose its weights on some of the cases."""
    if training.given is None:
        return False
    return not set(cases).isdisjoint(TrainingRecord.load(training.given).split["val"])


def _check_preset(training: Training, folders: Sequence[Folder]) -> None:
    """Check that a training of an earlier comparison in a folder has the same preset.

    Raises:
        MaskSAMError: the earlier training has another preset.
    """
    for folder in folders:
        earlier = read_record(folder.train_job(training.name)).get("training")
        if training.given is None and earlier and earlier["preset"] != training.preset:
            raise MaskSAMError(
                f"{folder.root} has '{training.name}' with the preset {earlier['preset']}, not"
                f" {training.preset}: choose another folder, or name the system after its preset"
            )


@dataclass(frozen=True)
class _Stages:
    """Runner of the unfinished stages of a seed.

    The methods `train` and `segment` return a problem, or an empty string.

    Attributes:
        folder: the comparison's folder, or that of one of its seeds.
        job: the part of a job that all stages share.
        report: function that receives lines of text for the user.
        run: function that runs the job of a file and returns the exit status.
    """

    folder: Folder
    job: Job
    report: Callable[[str], None]
    run: Callable[[Path], int]

    def rows(
        self,
        systems: Sequence[System],
        trainings: Mapping[str, Training],
        dataset: Dataset,
        cases: list[str],
    ) -> list[Row]:
        """Train, segment and evaluate systems, and return their rows."""
        rows = []
        problems: dict[str, str] = {}
        for system in systems:
            training = trainings.get(system.training)
            if training is not None and training.name not in problems:
                problems[training.name] = self.train(training)
            problem = (
                problems.get(system.training, "")
                or self.segment(system, training)
                or _evaluate(self.folder, system, dataset, cases)
            )
            if problem:
                self.report(f"{system.name} is left out: {problem}")
            rows.append(make_row(self.folder, system, training, dataset, problem))
        return rows

    def train(self, training: Training) -> str:
        """Train, unless the training is given or finished."""
        if training.given is not None or self.folder.finished(training.name).is_file():
            return ""
        self.report(f"training {training.name} (preset {training.preset})")
        job = replace(self.job, training=training)
        return self._do(self.folder.train_job(training.name), job)

    def segment(self, system: System, training: Training | None) -> str:
        """Segment all cases, unless their predictions exist."""
        known = read_record(self.folder.facts(system.name))
        run = None if training is None else self.folder.run_of(training)
        done = set() if made_by_others(known, run) else set(known.get("seconds", {}))
        predictions = self.folder.predictions(system.name)
        files = [predictions / f"{name}.nii.gz" for name in self.job.cases]
        if done >= set(self.job.cases) and all(path.is_file() for path in files):
            return ""
        self.report(f"segmenting {len(self.job.cases)} cases with {system.name}")
        job = replace(self.job, stage="segment", system=system, training=training)
        return self._do(self.folder.segment_job(system.name), job)

    def _do(self, path: Path, job: Job) -> str:
        write_record(path, job.to_dict())
        error = path.with_suffix(".error")
        error.unlink(missing_ok=True)
        status = self.run(path)
        if status == 0:
            return ""
        problem = str(read_record(error).get("error", ""))
        if problem:
            return problem
        if status < 0:
            return f"its process was ended by signal {-status}; the memory may be exhausted"
        return f"its process failed with status {status}; see its output above"


def _evaluate(folder: Folder, system: System, dataset: Dataset, cases: list[str]) -> str:
    """Compute and save the metrics of a system; return a problem, or an empty string."""
    predictions = folder.predictions(system.name)
    try:
        summary = evaluate(
            predictions, dataset.folder / "labelsTr", dataset.values, surfaces_available()
        )
    except MaskSAMError as error:
        return str(error)
    if len(summary["metric_per_case"]) != len(cases):
        return f"{predictions} has other files than the labelmaps of the cases"
    write_summary(summary, folder.summary(system.name))
    return ""


def _is_trained(training: Training | None) -> bool:
    """Return whether a comparison trains a system itself."""
    return training is not None and training.given is None


def _facts(
    options: CompareOptions, dataset: Dataset, split: Mapping[str, Sequence[str]], test: list[str]
) -> dict[str, str]:
    """Return descriptions of the terms of a comparison, by name."""
    cases = test or split["val"]
    return {
        "dataset": dataset.name,
        "cases": f"{len(cases)} {'test' if test else 'validation'} cases",
        "training cases": str(len(split["train"])),
        "budget": _budget(options),
        "settings": ", ".join(options.settings),
        "device": options.device,
        "seeds" if options.seeds else "seed": ", ".join(map(str, options.seeds or [options.seed])),
        "command": options.command,
    }


def _budget(options: CompareOptions) -> str:
    if options.max_minutes is None:
        return f"{options.iterations} iterations of training each"
    return f"{options.max_minutes:g} minutes of training each"


def _device_name(folder: Folder, systems: Sequence[System], kind: str) -> str:
    found = [read_record(folder.facts(system.name)).get("device") for system in systems]
    return next((str(device) for device in found if device), kind)

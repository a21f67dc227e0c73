"""Trains, segments, measures and tabulates; what is done already is not done again."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from MaskSAMCore.data.dataset import Dataset, open_dataset
from MaskSAMCore.data.splits import held_out_cases, split_cases
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.evaluation import evaluate, surfaces_available, write_summary
from MaskSAMCore.inference.device import choose_device
from MaskSAMCore.research.comparison.folder import Folder, read_record, write_record
from MaskSAMCore.research.comparison.statistics import Row, compared_pairs, make_row
from MaskSAMCore.research.comparison.systems import DEFAULT_SYSTEMS, System, Training, find_systems
from MaskSAMCore.research.comparison.tables import write_tables
from MaskSAMCore.training.run_folder import TrainingRecord


@dataclass(frozen=True)
class CompareOptions:
    """What a person decides about a comparison.

    Attributes:
        dataset: an nnU-Net dataset folder.
        output: the comparison's folder; an earlier one is gone on with.
        systems: names, see `systems.find_systems`.
        splits: a JSON file with "train" and "val", and "test" to measure on other cases than those
            that weights are chosen on; None as in training.
        max_minutes: time budget of each training.
        device: "auto", "cpu", "cuda" or "mps".
        workers: processes that draw windows, in each training.
        seed: of each training.
        orientation: of all plans, or None.
        runs: finished trainings by name.
        presets: other presets for trainings by name.
        sam_checkpoint: weights of a frozen SAM, for presets with one.
        command: the shell command, for the table.
    """

    dataset: Path
    output: Path
    systems: tuple[str, ...] = DEFAULT_SYSTEMS
    splits: Path | None = None
    max_minutes: float = 60.0
    device: str = "auto"
    workers: int = 1
    seed: int = 0
    orientation: str | None = None
    runs: Mapping[str, Path] = field(default_factory=dict)
    presets: Mapping[str, str] = field(default_factory=dict)
    sam_checkpoint: Path | None = None
    command: str = ""


def compare(options: CompareOptions, report: Callable[[str], None] = print) -> list[Row]:
    """Compares systems and writes the tables.

    A system that fails, whose training fails, or whose checkpoint is not there, has a line with the
    reason; the others go on.

    Args:
        options: what, where and how long.
        report: receives lines for people.

    Raises:
        MaskSAMError: an option cannot work, a given run has seen the cases, the folder holds a
            comparison under other terms, or no system at all could be measured.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MaskSAMError("the tables need matplotlib: pip install masksam[train]")
    systems, trainings = find_systems(options.systems, options.runs, options.presets)
    device = choose_device(options.device).device.type
    dataset = open_dataset(options.dataset)
    split = split_cases(dataset, options.splits)
    test = held_out_cases(dataset, options.splits)
    cases = test or split["val"]
    for training in trainings.values():
        if training.given is not None:
            check_given(training, dataset, cases)
    folder = Folder(options.output)
    folder.begin(
        {
            "dataset": options.dataset.resolve().name,
            "split": split,
            "cases": cases,
            "max_minutes": options.max_minutes,
            "device": device,
            "seed": options.seed,
            "orientation": options.orientation,
        }
    )
    write_record(folder.root / "split.json", {**split, "test": test})
    common = {
        "folder": str(folder.root.resolve()),
        "dataset": str(options.dataset.resolve()),
        "max_minutes": options.max_minutes,
        "device": device,
        "workers": options.workers,
        "seed": options.seed,
        "orientation": options.orientation,
        "sam_checkpoint": options.sam_checkpoint and str(options.sam_checkpoint.resolve()),
        "cases": cases,
    }
    failed = {
        name: problem
        for name, training in trainings.items()
        if (problem := _trained(folder, training, common, report))
    }
    rows = []
    for system in systems:
        problem = failed.get(system.training, "")
        problem = problem or _segmented(
            folder, system, trainings.get(system.training), common, report
        )
        if not problem:
            problem = _measured(folder, system, dataset, cases)
        if problem:
            report(f"{system.name} is left out: {problem}")
        rows.append(make_row(folder, system, trainings.get(system.training), dataset, problem))
    if all(row.problem for row in rows):
        raise MaskSAMError(f"no system could be measured: {rows[0].problem}")
    facts = {
        "dataset": dataset.name,
        "cases": f"{len(cases)} {'test' if test else 'validation'} cases",
        "training cases": str(len(split["train"])),
        "budget": f"{options.max_minutes:g} minutes of training each",
        "device": _device(folder, systems, device),
        "seed": str(options.seed),
        "command": options.command,
    }
    write_tables(folder.root, rows, compared_pairs(rows), dataset.classes, facts, bool(test))
    report(f"the tables are in {folder.root / 'comparison.md'}, .csv and .png")
    return rows


def check_given(training: Training, dataset: Dataset, cases: list[str]) -> None:
    """A run that was trained before must know the dataset's classes and not its cases.

    Raises:
        MaskSAMError: it does not.
    """
    assert training.given is not None
    record = TrainingRecord.load(training.given)
    if record.values != dataset.values:
        raise MaskSAMError(
            f"the run '{training.name}' has the classes {', '.join(record.classes)}, the dataset"
            f" {', '.join(dataset.classes)}"
        )
    seen = sorted(set(cases) & set(record.split["train"]))
    if seen:
        raise MaskSAMError(
            f"the run '{training.name}' was trained on cases that it would be measured on"
            f" ({', '.join(seen[:3])}): compare on its own --splits"
        )


def _trained(
    folder: Folder, training: Training, common: dict[str, Any], report: Callable[[str], None]
) -> str:
    """Trains where that is to be done; what went wrong, or nothing."""
    if training.given is not None or folder.finished(training.name).is_file():
        return ""
    report(f"training {training.name} (preset {training.preset})")
    job = {"stage": "train", "training": training.to_dict(), **common}
    return _run(folder.root / "jobs" / f"train-{training.name}.json", job)


def _segmented(
    folder: Folder,
    system: System,
    training: Training | None,
    common: dict[str, Any],
    report: Callable[[str], None],
) -> str:
    """Segments what is to be segmented; what went wrong, or nothing."""
    done = set(read_record(folder.facts(system.name)).get("seconds", {}))
    there = (folder.predictions(system.name) / f"{name}.nii.gz" for name in common["cases"])
    if done >= set(common["cases"]) and all(path.is_file() for path in there):
        return ""
    report(f"segmenting {len(common['cases'])} cases with {system.name}")
    of_training = None if training is None else training.to_dict()
    job = {"stage": "segment", "system": asdict(system), "training": of_training, **common}
    return _run(folder.root / "jobs" / f"segment-{system.name}.json", job)


def _run(path: Path, job: dict[str, Any]) -> str:
    """A stage in a process of its own; what went wrong, or nothing."""
    write_record(path, job)
    error = path.with_suffix(".error")
    error.unlink(missing_ok=True)
    command = [sys.executable, "-m", "MaskSAMCore.research.comparison.stage", str(path)]
    status = subprocess.run(command, check=False).returncode
    if status == 0:
        return ""
    told = str(read_record(error).get("error", ""))
    if told:
        return told
    if status < 0:
        return f"its process was ended by signal {-status}; perhaps the memory ran out"
    return f"its process failed with status {status}; what it said stands above"


def _measured(folder: Folder, system: System, dataset: Dataset, cases: list[str]) -> str:
    """Metrics of a system by the same code for all; what went wrong, or nothing."""
    references = dataset.folder / "labelsTr"
    try:
        summary = evaluate(
            folder.predictions(system.name), references, dataset.values, surfaces_available()
        )
    except MaskSAMError as error:
        return str(error)
    if len(summary["metric_per_case"]) != len(cases):
        return f"{folder.predictions(system.name)} holds other files than the cases' labelmaps"
    write_summary(summary, folder.summary(system.name))
    return ""


def _device(folder: Folder, systems: list[System], kind: str) -> str:
    found = [read_record(folder.facts(system.name)).get("device") for system in systems]
    return next((str(device) for device in found if device), kind)

"""Folder of a comparison.

- ``comparison.json``: the terms that all systems share; ``split.json``: the cases.
- ``runs/NAME``: a training; ``runs/NAME.json``: present once the training has finished.
- ``models/NAME``: the bundle of a training.
- ``systems/NAME``: ``predictions``; ``cases.json`` with times, memory, parameters and the SHA-256
  of the weights; ``summary.json`` with the metrics.
- ``comparison.md``, ``comparison.csv``, ``comparison.png``, ``cases.csv``, ``tests.csv``: the
  results.
- ``jobs``: the stages' jobs and their errors.
- ``cache``: the preprocessed cases, until the comparison is complete.

A comparison with several seeds has ``seed_0``, ``seed_1``, ... with the runs, models, systems and
jobs of each seed, and ``seeds.csv`` with their results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import read_json, sha256, write_json
from MaskSAMCore.research.comparison.systems import Training
from MaskSAMCore.training.run_folder import BEST


@dataclass(frozen=True)
class Folder:
    """Paths of a comparison.

    Attributes:
        root: the comparison's folder.
    """

    root: Path

    @property
    def cache(self) -> Path:
        """Folder of the preprocessed cases, which all trainings share."""
        return self.root / "cache"

    @property
    def split(self) -> Path:
        """File with the cases."""
        return self.root / "split.json"

    def of_seed(self, seed: int) -> Folder:
        """Return the folder of one of several seeds."""
        return Folder(self.root / f"seed_{seed}")

    def run(self, training: str) -> Path:
        """Return the run folder of a training."""
        return self.root / "runs" / training

    def run_of(self, training: Training) -> Path:
        """Return the run folder of a training, which may be a given one outside this folder."""
        return self.run(training.name) if training.given is None else training.given

    def finished(self, training: str) -> Path:
        """Return the file that exists once a training has finished."""
        return self.root / "runs" / f"{training}.json"

    def model(self, training: str) -> Path:
        """Return the bundle of a training."""
        return self.root / "models" / training

    def predictions(self, system: str) -> Path:
        """Return the folder of a system's labelmaps."""
        return self.root / "systems" / system / "predictions"

    def facts(self, system: str) -> Path:
        """Return the file with a system's times, memory and parameters."""
        return self.root / "systems" / system / "cases.json"

    def summary(self, system: str) -> Path:
        """Return the file with a system's metrics."""
        return self.root / "systems" / system / "summary.json"

    def train_job(self, training: str) -> Path:
        """Return the file of the job of a training."""
        return self.root / "jobs" / f"train-{training}.json"

    def segment_job(self, system: str) -> Path:
        """Return the file of the job of a system's segmentations."""
        return self.root / "jobs" / f"segment-{system}.json"

    def begin(self, terms: dict[str, Any]) -> None:
        """Record the terms that all systems share.

        Raises:
            MaskSAMError: the folder has a comparison under other terms, or other files.
        """
        path = self.root / "comparison.json"
        if not path.is_file():
            if self.root.is_dir() and any(self.root.iterdir()):
                raise MaskSAMError(f"{self.root} is not empty: choose a new folder as -o")
            self.root.mkdir(parents=True, exist_ok=True)
            write_record(path, terms)
            return
        known = read_record(path)
        changed = [key for key in terms if known.get(key) != json.loads(json.dumps(terms[key]))]
        if changed:
            raise MaskSAMError(
                f"{self.root} has a comparison with another {' and '.join(changed)}: choose"
                " another folder, because its systems could not be compared"
            )


def weights_of(run: Path | None) -> str:
    """Return the SHA-256 of a run's best weights; empty for a checkpoint and for nnU-Net's runs."""
    return "" if run is None or not (run / BEST).is_file() else sha256(run / BEST)


def made_by_others(facts: Mapping[str, Any], run: Path | None) -> bool:
    """Return whether a system's predictions were made with other weights than a run has now.

    Args:
        facts: content of the system's ``cases.json``, which lacks "weights" if an older version
            wrote it.
        run: folder of the training; None for a checkpoint.
    """
    return "weights" in facts and facts["weights"] != weights_of(run)


def write_record(path: Path, values: Any) -> None:
    """Write a JSON file of the comparison, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, values)


def read_record(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of the comparison, empty if there is no such file.

    Raises:
        MaskSAMError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        values = read_json(path)
    except MaskSAMError as error:
        raise MaskSAMError(f"{error}: remove it and run again") from error
    if not isinstance(values, dict):
        raise MaskSAMError(f"{path} is damaged: remove it and run again")
    return values

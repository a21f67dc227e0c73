"""The folder of a comparison: what is in it, and that it goes on with what it began with.

``comparison.json``: under which terms. ``split.json``: the cases. ``runs/NAME``: trainings, and
``runs/NAME.json`` once one is finished. ``models/NAME``: their bundles. ``systems/NAME``:
predictions, ``cases.json`` (times, memory, parameters), ``summary.json``. ``comparison.md``,
``.csv``, ``.png``; ``cases.csv``, ``tests.csv``: the results. ``jobs``: what stages were told.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import read_json, write_json


@dataclass(frozen=True)
class Folder:
    """Paths of a comparison."""

    root: Path

    def run(self, training: str) -> Path:
        """Of a training."""
        return self.root / "runs" / training

    def finished(self, training: str) -> Path:
        """A file that is there once a training is finished."""
        return self.root / "runs" / f"{training}.json"

    def model(self, training: str) -> Path:
        """Of its bundle."""
        return self.root / "models" / training

    def predictions(self, system: str) -> Path:
        """Of a system's labelmaps."""
        return self.root / "systems" / system / "predictions"

    def facts(self, system: str) -> Path:
        """Of what was measured while it segmented."""
        return self.root / "systems" / system / "cases.json"

    def summary(self, system: str) -> Path:
        """Of its metrics."""
        return self.root / "systems" / system / "summary.json"

    def begin(self, terms: dict[str, Any]) -> None:
        """Writes down under which terms systems are compared.

        Raises:
            MaskSAMError: the folder holds a comparison under other terms.
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
                f"{self.root} holds a comparison with another {' and '.join(changed)}: choose"
                " another folder, for only alike is comparable"
            )


def write_record(path: Path, values: Any) -> None:
    """Write a JSON file of the comparison, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, values)


def read_record(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of the comparison, empty if there is no such file.

    Raises:
        MaskSAMError: it is damaged.
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

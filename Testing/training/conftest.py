"""A generated dataset and two trainings on it, shared by the tests of training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from MaskSAMCore.presets.small import TINY
from MaskSAMCore.training.checkpoint import newest_checkpoint
from MaskSAMCore.training.fit import FitOptions, fit
from Testing.helpers.short_run import (
    QUICK,
    SHORT,
    SMALL,
    ShortRun,
    checkpoint,
    write_gapped_dataset,
)


@pytest.fixture(scope="session")
def dataset(made_once: Callable[..., Path]) -> Path:
    return made_once("dataset", lambda folder: write_gapped_dataset(folder / "data")) / "data"


@pytest.fixture(scope="session")
def trained(dataset: Path, made_once: Callable[..., Path]) -> Path:
    """Return a run whose weights find both classes."""

    def fill(folder: Path) -> None:
        options = FitOptions(dataset, folder / "run", TINY, device="cpu", workers=0)
        fit(options, lambda _: None, SMALL, QUICK)

    return made_once("trained", fill) / "run"


@pytest.fixture(scope="session")
def short(dataset: Path, made_once: Callable[..., Path]) -> ShortRun:
    """Return a run of a few steps with seed 5, validated as often as the time allows."""

    def fill(folder: Path) -> None:
        run = folder / "run"
        lines: list[str] = []
        steps: list[int] = []

        def report(line: str) -> None:
            lines.append(line)
            if line.startswith("validation Dice"):
                steps.append(checkpoint(run)["global_step"] if newest_checkpoint(run) else 0)

        options = FitOptions(
            dataset,
            run,
            TINY,
            device="cpu",
            workers=0,
            seed=5,
            checkpoint_seconds=1e9,
            validation_share=1.0,
            validation_minutes=1e-6,
            report_seconds=0,
        )
        fit(options, report, SMALL, SHORT)
        (folder / "reported.json").write_text(json.dumps([lines, steps]), encoding="utf-8")

    folder = made_once("short", fill)
    lines, steps = json.loads((folder / "reported.json").read_text(encoding="utf-8"))
    return ShortRun(dataset, folder / "run", lines, steps)

"""A generated dataset and two trainings on it, shared by the tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from MaskSAMCore.presets.small import TINY
from MaskSAMCore.training.callbacks import newest_checkpoint
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
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gapped_dataset(tmp_path_factory.mktemp("dataset") / "data")


@pytest.fixture(scope="session")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose weights find both classes."""
    run = tmp_path_factory.mktemp("trained") / "run"
    fit(FitOptions(dataset, run, TINY, device="cpu", workers=0), lambda _: None, SMALL, QUICK)
    return run


@pytest.fixture(scope="session")
def short(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> ShortRun:
    """A run of a few steps with seed 5 that is validated after each step."""
    run = tmp_path_factory.mktemp("short") / "run"
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
        validation_minutes=1e-6,
        report_seconds=0,
    )
    fit(options, report, SMALL, SHORT)
    return ShortRun(dataset, run, lines, steps)

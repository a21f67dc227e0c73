"""Helpers to run the shell command in tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from MaskSAMCore.cli import main
from Testing.helpers.paths import ROOT


def error_line(capfd: pytest.CaptureFixture[str]) -> str:
    """Return the one line of error that a command printed."""
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("masksam:")]
    assert len(lines) == 1
    assert lines[0].startswith("masksam: error: ")
    return lines[0]


def error_of(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run a command that must fail and return its error."""
    assert main(arguments) == 2
    return error_line(capfd)


def run_process(
    arguments: list[str], more: dict[str, str] | None = None, **how: object
) -> subprocess.CompletedProcess[str]:
    """Run the shell command in a process of its own, with ``more`` environment variables."""
    return subprocess.run(
        [sys.executable, "-m", "MaskSAMCore.cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(more or {})},
        text=True,
        timeout=600,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how},
    )


@contextmanager
def without_reader(name: str) -> Iterator[None]:
    """Replace ``stdout`` or ``stderr`` by a pipe without a reader within a block."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, name, closed)
        yield


@contextmanager
def without_space(name: str) -> Iterator[None]:
    """Replace ``stdout`` or ``stderr`` by a file on a full disk within a block."""
    with pytest.MonkeyPatch.context() as patch, open("/dev/full", "w") as full:
        patch.setattr(sys, name, full)
        yield


def headings_of(output: str) -> list[str]:
    """Return the headings of the first table in an output, with their wrapped lines joined."""
    heading = output[output.index("\u250f") : output.index("\u2521")].splitlines()[1:]
    lines = [line.strip("\u2503").split("\u2503") for line in heading]
    return [" ".join(" ".join(parts).split()) for parts in zip(*lines, strict=True)]

"""Helpers for tests of the worker: requests, recorded callbacks, and waiting."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from MaskSAMCore.geometry import Volume
from MaskSAMSlicerLib.worker import client as worker_client
from MaskSAMSlicerLib.worker.client import Job, SegmentRequest, WorkerError
from Testing.helpers.time_limits import LONG

# These class names are not ASCII.
UNICODE_NAMES = ("Bright 明", "Därk")
MATRIX = np.diag([-1.0, -1.0, 2.0, 1.0])


class WorkerClient(worker_client.WorkerClient):
    """The client, with time limits that a busy machine does not reach."""

    def __init__(
        self,
        *arguments: Any,
        start_seconds: float = LONG,
        hang_seconds: float = LONG,
        **options: Any,
    ) -> None:
        super().__init__(
            *arguments, start_seconds=start_seconds, hang_seconds=hang_seconds, **options
        )


class Calls:
    """Record of a job's callbacks.

    Attributes:
        progress: arguments of `on_progress`.
        done: results passed to `on_done`.
        errors: errors passed to `on_error`.
    """

    def __init__(self) -> None:
        self.progress: list[tuple[str, float, float | None]] = []
        self.done: list[Any] = []
        self.errors: list[WorkerError] = []

    @property
    def stages(self) -> list[str]:
        """Stages that were reported."""
        return [stage for stage, _, _ in self.progress]

    def callbacks(self) -> dict[str, Callable[..., None]]:
        """Return the callbacks as keyword arguments for a method of the client."""
        return {
            "on_progress": lambda *report: self.progress.append(report),
            "on_done": self.done.append,
            "on_error": self.errors.append,
        }


def known_model(folder: Path, name: str) -> Path:
    """Create a folder whose name selects a model of the known worker, such as "slow"; return it."""
    (folder / name).mkdir(exist_ok=True)
    return folder / name


def request(
    array: np.ndarray, model: object, matrix: np.ndarray = MATRIX, **options: Any
) -> SegmentRequest:
    """Return a request to segment an array."""
    return SegmentRequest([Volume(array, matrix, "MR häd")], str(model), **options)


def wait_for_error(client: WorkerClient, job: Job, calls: Calls) -> WorkerError:
    """Wait for a job that fails, and return its error, which must have been reported once."""
    with pytest.raises(WorkerError) as failure:
        client.wait(job)
    for _ in range(20):
        client.poll()
    assert calls.errors == [failure.value] and calls.done == []
    assert job.error is failure.value and job.result is None
    assert "\n" not in str(failure.value)
    return failure.value


def wait_until(
    condition: Callable[[], bool],
    client: WorkerClient | None = None,
    what: str = "the condition",
    calls: Calls | None = None,
) -> None:
    """Wait until a condition holds.

    Args:
        condition: function that returns whether the condition holds.
        client: client to poll meanwhile.
        what: name of the condition, for the message of a failure.
        calls: callbacks of a job whose error ends the wait at once.
    """
    end = time.monotonic() + LONG
    while not condition():
        assert calls is None or not calls.errors, (calls.errors, calls.errors[0].details)
        if time.monotonic() > end:
            pytest.fail(f"{what} was not reached within {LONG} s")
        if client is not None:
            client.poll()
        time.sleep(0.01)


def wait_for_stage(client: WorkerClient, calls: Calls, stage: str) -> None:
    """Poll until a stage of a job is reported."""
    wait_until(lambda: stage in calls.stages, client, stage, calls)


def end_of(pid: int | None) -> Callable[[], bool]:
    """Return a condition that holds once a process has ended, even if its ID is reused."""
    assert pid is not None  # psutil would take None for the current process
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return lambda: True
    return lambda: has_ended(process)


def has_ended(process: psutil.Process) -> bool:
    """Return whether a process has ended."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True

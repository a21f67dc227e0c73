"""What the tests of the worker share: a tiny model, a volume, a client that is closed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from MaskSAMCore.geometry import Volume
from MaskSAMSlicerLib.worker import client as worker_client
from MaskSAMSlicerLib.worker.client import SegmentRequest, WorkerError
from Testing.helpers.paths import ROOT

__all__ = ["ROOT", "SegmentRequest", "WorkerClient", "WorkerError"]

# A loaded machine may take long over anything; no test waits so long when all is well.
LONG = 300.0
# Class names outside ASCII.
UNICODE_NAMES = ("Bright 明", "Därk")


class WorkerClient(worker_client.WorkerClient):
    """As it ships, but for its patience: the known worker imports PyTorch before it greets."""

    def __init__(self, *where: object, hang_seconds: float = LONG, **how: object) -> None:
        super().__init__(*where, hang_seconds=hang_seconds, **how)


class Heard:
    """Callbacks that remember what they were told."""

    def __init__(self) -> None:
        self.progress: list[tuple[str, float, float | None]] = []
        self.done: list[dict] = []
        self.errors: list[WorkerError] = []

    def __call__(self) -> dict:
        return {
            "on_progress": lambda *report: self.progress.append(report),
            "on_done": self.done.append,
            "on_error": self.errors.append,
        }


def fails(client: WorkerClient, job, heard: Heard) -> WorkerError:
    """The one error of a job."""
    with pytest.raises(WorkerError) as failure:
        client.wait(job)
    for _ in range(20):
        client.poll()
    assert heard.errors == [failure.value] and heard.done == []
    assert job.error is failure.value and job.result is None
    assert "\n" not in str(failure.value)
    return failure.value


def known_model(folder: Path, name: str) -> Path:
    """Return the folder of a model that the known worker runs by its name, such as "slow"."""
    (folder / name).mkdir(exist_ok=True)
    return folder / name


def request(array: np.ndarray, model: object, matrix: np.ndarray | None = None, **more: object):
    matrix = np.diag([-1.0, -1.0, 2.0, 1.0]) if matrix is None else matrix
    return SegmentRequest([Volume(array, matrix, "MR häd")], str(model), **more)


def until(
    condition,
    client: WorkerClient | None = None,
    what: str = "it",
    heard: Heard | None = None,
) -> None:
    """Poll until something is so; an error of the job that is heard ends it at once."""
    end = time.monotonic() + LONG
    while not condition():
        assert heard is None or not heard.errors, (heard.errors, heard.errors[0].details)
        assert time.monotonic() < end, f"{what} did not happen"
        if client is not None:
            client.poll()
        time.sleep(0.01)


def end_of(pid: int | None) -> Callable[[], bool]:
    """Whether a process has ended; one that comes to have its number later is another."""
    assert pid is not None  # psutil would take it for this very process
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return lambda: True
    return lambda: has_ended(process)


def has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True

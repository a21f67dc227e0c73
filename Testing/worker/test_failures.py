"""Cancelled jobs, and workers that fail, crash or are killed: one error, and the next run works."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from Testing.helpers.paths import KNOWN_WORKER, ROOT
from Testing.helpers.threshold_model import two_blobs
from Testing.helpers.worker_tools import (
    LONG,
    Calls,
    WorkerClient,
    WorkerError,
    end_of,
    known_model,
    request,
    wait_for_error,
    wait_for_stage,
    wait_until,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX's signals and limits")

LIMITED_WORKER = (sys.executable, str(ROOT / "Testing" / "helpers" / "limited_worker.py"))


def assert_works(client: WorkerClient, folder: Path) -> None:
    ask = request(two_blobs(), known_model(folder, "threshold"))
    np.testing.assert_array_equal(client.wait(client.segment(ask)).labelmap, two_blobs())


def start(client: WorkerClient, model: Path, stage: str, array: np.ndarray | None = None):
    """Start a job, and return it with its callbacks once it has reached a stage."""
    calls = Calls()
    array = two_blobs() if array is None else array
    job = client.segment(request(array, model), **calls.callbacks())
    wait_for_stage(client, calls, stage)
    return job, calls


def assert_cancel_ends(client: WorkerClient, folder: Path, model: str, stage: str) -> None:
    job, calls = start(client, known_model(folder, model), stage)
    client.cancel()
    assert wait_for_error(client, job, calls).kind == "cancelled"
    reports = len(calls.progress)
    assert_works(client, folder)
    assert len(calls.progress) == reports


@pytest.mark.parametrize(
    ("model", "stage"),
    [("slow_loading", "Loading the model"), ("slow", "Segmenting"), ("hanging", "Segmenting")],
)
def test_a_cancel_ends_a_job_at_any_stage(
    known: WorkerClient, tmp_path: Path, model: str, stage: str
):
    assert_cancel_ends(known, tmp_path, model, stage)


def test_a_cancel_ends_a_job_while_pytorch_is_imported(tmp_path: Path):
    client = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER)
    try:
        assert_cancel_ends(client, tmp_path, "threshold", "Starting PyTorch")
    finally:
        client.close()


def test_a_worker_that_stops_a_cancelled_job_in_time_is_used_again(tmp_path: Path):
    # A busy machine may need more than the usual time to stop a job.
    client = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER, cancel_seconds=LONG)
    try:
        job, calls = start(client, known_model(tmp_path, "slow"), "Segmenting")
        pid = client.pid
        client.cancel()
        assert wait_for_error(client, job, calls).kind == "cancelled"
        assert_works(client, tmp_path)
        long = np.zeros((3000, 8, 8), dtype=np.float32)
        long[0] = 0.25
        model = known_model(tmp_path, "many_slabs")
        job, calls = start(client, model, "Writing the labels", long)
        client.cancel()
        assert wait_for_error(client, job, calls).kind == "cancelled"
        assert_works(client, tmp_path)
        assert client.pid == pid
    finally:
        client.close()


def test_a_cancel_ends_jobs_that_were_not_sent_yet(known: WorkerClient, threshold: Path):
    calls = [Calls() for _ in range(3)]
    jobs = [known.segment(request(two_blobs(), threshold), **one.callbacks()) for one in calls]
    known.cancel()
    known.cancel()
    for job, one in zip(jobs, calls, strict=True):
        assert wait_for_error(known, job, one).kind == "cancelled"
    assert_works(known, threshold.parent)


def test_a_job_requested_after_a_cancel_is_not_cancelled(known: WorkerClient, tmp_path: Path):
    job, calls = start(known, known_model(tmp_path, "hanging"), "Segmenting")
    known.cancel()
    later = Calls()
    second = known.segment(
        request(two_blobs(), known_model(tmp_path, "threshold")), **later.callbacks()
    )
    assert wait_for_error(known, job, calls).kind == "cancelled"
    np.testing.assert_array_equal(known.wait(second).labelmap, two_blobs())
    assert later.errors == [] and len(later.done) == 1


def test_waiting_with_a_time_limit_cancels_the_job(known: WorkerClient, tmp_path: Path):
    job, calls = start(known, known_model(tmp_path, "slow"), "Segmenting")
    with pytest.raises(WorkerError) as failure:
        known.wait(job, timeout=0.1)
    assert failure.value.kind == "cancelled"
    assert calls.errors == [failure.value]


def test_a_killed_worker_is_reported_and_replaced(known: WorkerClient, tmp_path: Path):
    job, calls = start(known, known_model(tmp_path, "hanging"), "Segmenting")
    pid = known.pid
    os.kill(pid, signal.SIGKILL)
    error = wait_for_error(known, job, calls)
    assert error.kind == "crashed"
    assert "ended by the system" in str(error) and "nothing was changed" in str(error)
    assert_works(known, tmp_path)
    assert known.pid != pid


def test_a_fault_in_a_library_is_reported_as_a_crash(known: WorkerClient, tmp_path: Path):
    calls = Calls()
    ask = request(two_blobs(), known_model(tmp_path, "crashing"))
    error = wait_for_error(known, known.segment(ask, **calls.callbacks()), calls)
    assert error.kind == "crashed" and "crashed" in str(error)


def test_a_worker_that_was_killed_between_jobs_is_replaced(known: WorkerClient, tmp_path: Path):
    assert_works(known, tmp_path)
    pid = known.pid
    ended = end_of(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(ended)  # the client does not poll
    assert_works(known, tmp_path)
    assert known.pid != pid


def test_an_internal_error_is_reported_with_its_traceback(tmp_path: Path):
    log: list[str] = []
    client = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER, on_log=log.append)
    try:
        calls = Calls()
        ask = request(two_blobs(), known_model(tmp_path, "failing"))
        job = client.segment(ask, **calls.callbacks())
        error = wait_for_error(client, job, calls)
        assert error.kind == "internal"
        assert "RuntimeError: a genuine fault" in str(error)
        assert "Traceback" in error.details and "known_models.py" in error.details
        assert error.details in log
        pid = client.pid
        assert_works(client, tmp_path)
        assert client.pid == pid
    finally:
        client.close()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "raise ImportError('DLL load failed\\nwhile importing _C')",
            "ImportError: DLL load failed",
        ),
        ("from torch import _C", "ImportError: cannot import name '_C'"),
        ("raise OSError('[WinError 206] The filename is too long')", "WinError 206"),
    ],
)
def test_a_pytorch_that_was_installed_incompletely_is_reported_with_the_remedy(
    bundle: Path, tmp_path: Path, line: str, message: str
):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(line)
    client = WorkerClient(core_folder=ROOT, environment={"PYTHONPATH": str(tmp_path)})
    try:
        calls = Calls()
        job = client.segment(request(two_blobs(), bundle), **calls.callbacks())
        error = wait_for_error(client, job, calls)
        assert error.kind == "refused"
        assert "PyTorch is damaged (" in str(error) and message in str(error)
        assert "uninstall it in the module PyTorch" in str(error)
    finally:
        client.close()


@pytest.mark.parametrize("model", ["huge_tensor", "huge_array"])
def test_too_little_memory_is_reported_with_advice(known: WorkerClient, tmp_path: Path, model: str):
    calls = Calls()
    ask = request(two_blobs(), known_model(tmp_path, model))
    error = wait_for_error(known, known.segment(ask, **calls.callbacks()), calls)
    assert error.kind == "memory"
    assert "close other programs" in str(error) and "smaller" in str(error)
    assert_works(known, tmp_path)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_a_memory_limit_of_the_system_is_reported_as_too_little_memory(bundle: Path):
    client = WorkerClient(core_folder=ROOT, command=LIMITED_WORKER)
    try:
        calls = Calls()
        large = np.zeros((600, 400, 400), dtype=np.float32)
        large[:, :, ::2] = 1
        job = client.segment(request(large, bundle), **calls.callbacks())
        error = wait_for_error(client, job, calls)
        assert error.kind == "memory", error.details
        assert "close other programs" in str(error)
    finally:
        client.close()


def test_a_volume_that_cannot_be_written_is_refused(tmp_path: Path):
    client = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER)
    try:
        client.wait(client.devices())
        folder = client.folder
        wait_until(lambda: not list(folder.iterdir()), client, "an empty folder")
        folder.rmdir()
        folder.write_text("in the way")
        calls = Calls()
        ask = request(two_blobs(), known_model(tmp_path, "threshold"))
        error = wait_for_error(client, client.segment(ask, **calls.callbacks()), calls)
        assert error.kind == "refused"
        folder.unlink()
        assert_works(client, tmp_path)  # the folder is created again
    finally:
        client.close()


def test_a_stopped_worker_is_ended_and_never_blocks_a_poll(tmp_path: Path):
    # The limit counts from the handshake on, so PyTorch is imported before it.
    command = (*KNOWN_WORKER, "--preload")
    client = WorkerClient(core_folder=ROOT, command=command, hang_seconds=3.0)
    try:
        job, calls = start(client, known_model(tmp_path, "hanging"), "Segmenting")
        ended = end_of(client.pid)
        psutil.Process(client.pid).suspend()
        # A poll that waited for the worker would never return.
        while not job.done:
            client.poll()
            time.sleep(0.05)
        error = wait_for_error(client, job, calls)
        assert error.kind == "crashed" and "has not answered" in str(error)
        wait_until(ended, client, "the end of the stopped process")
        assert_works(client, tmp_path)
    finally:
        client.close()

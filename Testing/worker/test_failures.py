"""Whatever becomes of the worker: one clear error, and the next run works."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from Testing.helpers.paths import KNOWN_WORKER
from Testing.helpers.small_bundle import small_bundle
from Testing.helpers.threshold_model import two_blobs
from Testing.helpers.worker_tools import (
    LONG,
    ROOT,
    Heard,
    WorkerClient,
    WorkerError,
    end_of,
    fails,
    known_model,
    request,
    until,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits are POSIX's")


@pytest.fixture
def known():
    one = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER)
    yield one
    one.close()


def works(client: WorkerClient, folder: Path) -> None:
    result = client.wait(client.segment(request(two_blobs(), known_model(folder, "threshold"))))
    np.testing.assert_array_equal(result.labelmap, two_blobs())


def started(client: WorkerClient, array, model, stage: str):
    """A job that has reached a stage."""
    heard = Heard()
    job = client.segment(request(array, model), **heard())
    until(lambda: any(said[0] == stage for said in heard.progress), client, stage, heard)
    return job, heard


@pytest.mark.parametrize(
    ("model", "stage"),
    [
        ("threshold", "Starting PyTorch"),
        ("lazy", "Loading the model"),
        ("slow", "Segmenting"),
        ("deaf", "Segmenting"),
    ],
)
def test_cancel_ends_a_run_wherever_it_is(
    known: WorkerClient, tmp_path: Path, model: str, stage: str
):
    job, heard = started(known, two_blobs(), known_model(tmp_path, model), stage)
    known.cancel()
    assert fails(known, job, heard).kind == "cancelled"
    reports = len(heard.progress)
    works(known, tmp_path)
    assert len(heard.progress) == reports


def test_a_worker_that_obeys_a_cancel_stays_warm(tmp_path: Path):
    known = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER, cancel_seconds=LONG)
    works(known, tmp_path)
    pid = known.pid
    job, heard = started(known, two_blobs(), known_model(tmp_path, "slow"), "Segmenting")
    known.cancel()
    assert fails(known, job, heard).kind == "cancelled"
    works(known, tmp_path)
    assert known.pid == pid
    known.close()


def test_cancel_while_labels_are_written(tmp_path: Path):
    client = WorkerClient(core_folder=ROOT, command=(*KNOWN_WORKER, "--small-slabs"))
    try:
        long = np.zeros((3000, 8, 8), dtype=np.float32)
        job, heard = started(client, long, known_model(tmp_path, "threshold"), "Writing the labels")
        client.cancel()
        assert fails(client, job, heard).kind == "cancelled"
        works(client, tmp_path)
    finally:
        client.close()


def test_cancel_before_anything_was_sent(known: WorkerClient, tmp_path: Path):
    heard = [Heard() for _ in range(3)]
    model = known_model(tmp_path, "threshold")
    jobs = [known.segment(request(two_blobs(), model), **one()) for one in heard]
    known.cancel()
    known.cancel()
    for job, one in zip(jobs, heard, strict=True):
        assert fails(known, job, one).kind == "cancelled"
    works(known, tmp_path)


def test_a_run_asked_for_after_a_cancel_is_not_lost_with_it(known: WorkerClient, tmp_path: Path):
    job, heard = started(known, two_blobs(), known_model(tmp_path, "deaf"), "Segmenting")
    known.cancel()
    after = Heard()
    second = known.segment(request(two_blobs(), known_model(tmp_path, "threshold")), **after())
    assert fails(known, job, heard).kind == "cancelled"
    np.testing.assert_array_equal(known.wait(second).labelmap, two_blobs())
    assert after.errors == [] and len(after.done) == 1


def test_waiting_with_a_time_limit_cancels(known: WorkerClient, tmp_path: Path):
    job, heard = started(known, two_blobs(), known_model(tmp_path, "slow"), "Segmenting")
    with pytest.raises(WorkerError) as failure:
        known.wait(job, timeout=0.1)
    assert failure.value.kind == "cancelled"
    assert heard.errors == [failure.value]


def test_a_killed_worker_is_told_and_replaced(known: WorkerClient, tmp_path: Path):
    job, heard = started(known, two_blobs(), known_model(tmp_path, "deaf"), "Segmenting")
    pid = known.pid
    os.kill(pid, signal.SIGKILL)
    error = fails(known, job, heard)
    assert error.kind == "crashed"
    assert "ended by the system" in str(error) and "nothing was changed" in str(error)
    works(known, tmp_path)
    assert known.pid != pid


def test_a_fault_in_a_library_is_a_crash(known: WorkerClient, tmp_path: Path):
    heard = Heard()
    job = known.segment(request(two_blobs(), known_model(tmp_path, "deadly")), **heard())
    error = fails(known, job, heard)
    assert error.kind == "crashed" and "crashed" in str(error)
    works(known, tmp_path)


def test_a_worker_that_died_unnoticed_is_replaced(known: WorkerClient, tmp_path: Path):
    works(known, tmp_path)
    pid = known.pid
    ended = end_of(pid)
    os.kill(pid, signal.SIGKILL)
    until(ended)
    works(known, tmp_path)
    assert known.pid != pid


def test_an_error_of_ours_is_told_with_its_traceback(tmp_path: Path):
    log: list[str] = []
    known = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER, on_log=log.append)
    works(known, tmp_path)
    pid = known.pid
    heard = Heard()
    job = known.segment(request(two_blobs(), known_model(tmp_path, "broken")), **heard())
    error = fails(known, job, heard)
    assert error.kind == "internal"
    assert "RuntimeError: a genuine fault" in str(error)
    assert "Traceback" in error.details and "known_worker.py" in error.details
    assert error.details in log
    works(known, tmp_path)
    assert known.pid == pid
    known.close()


@pytest.mark.parametrize("model", ["hungry", "greedy"])
def test_too_little_memory_is_told_with_advice(known: WorkerClient, tmp_path: Path, model: str):
    heard = Heard()
    job = known.segment(request(two_blobs(), known_model(tmp_path, model)), **heard())
    error = fails(known, job, heard)
    assert error.kind == "memory"
    assert "close other programs" in str(error) and "smaller" in str(error)
    works(known, tmp_path)


def test_a_process_that_may_not_have_the_memory_says_so(tmp_path: Path):
    """The real model, under a real limit that leaves no room for it."""
    wrapper = tmp_path / "limited.py"
    wrapper.write_text(
        "import resource\n"
        "import MaskSAMCore.inference\n"
        "from MaskSAMCore.worker.server import main\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "limit = used + (400 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "main()\n",
        encoding="utf-8",
    )
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux's /proc")
    model = small_bundle(tmp_path / "small")
    client = WorkerClient(core_folder=ROOT, command=[sys.executable, str(wrapper)])
    try:
        heard = Heard()
        large = np.zeros((600, 400, 400), dtype=np.float32)
        large[:, :, ::2] = 1
        job = client.segment(request(large, model), **heard())
        error = fails(client, job, heard)
        assert error.kind == "memory", error.details
        assert "close other programs" in str(error)
    finally:
        client.close()


def test_no_room_for_the_volume_is_told(known: WorkerClient, tmp_path: Path):
    works(known, tmp_path)
    folder = known.folder
    until(lambda: not list(folder.iterdir()), known)
    folder.rmdir()
    folder.write_text("in the way")
    heard = Heard()
    job = known.segment(request(two_blobs(), known_model(tmp_path, "threshold")), **heard())
    assert fails(known, job, heard).kind == "refused"
    folder.unlink()
    works(known, tmp_path)  # makes the folder again


def test_a_worker_stopped_in_its_tracks_does_not_stop_the_panel(tmp_path: Path):
    client = WorkerClient(
        core_folder=ROOT, command=KNOWN_WORKER, hang_seconds=3.0, start_seconds=LONG
    )
    try:
        job, heard = started(client, two_blobs(), known_model(tmp_path, "deaf"), "Segmenting")
        ended = end_of(client.pid)
        psutil.Process(client.pid).suspend()
        polls: list[float] = []
        while not job.done:
            began = time.monotonic()
            client.poll()
            polls.append(time.monotonic() - began)
            time.sleep(0.05)
        # A poll that waited for the worker would wait for ever; a single one may be held up by
        # whatever else the machine does.
        print(f"longest poll: {1000 * max(polls):.1f} ms")
        assert sorted(polls)[len(polls) // 2] < 0.5
        error = fails(client, job, heard)
        assert error.kind == "crashed" and "has not answered" in str(error)
        until(ended, client, "the end of a stopped process")
        works(client, tmp_path)
    finally:
        client.close()

"""Jobs end even if the main thread keeps Python's lock between polls, as Slicer's does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from Testing.helpers.paths import KNOWN_WORKER, ROOT
from Testing.helpers.threshold_model import two_blobs
from Testing.helpers.worker_tools import LONG, Calls, WorkerClient, known_model, request
from Testing.host.python_lock import child_ends_with_lock, kept_lock, sleep_with_lock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's waitid")


@pytest.fixture
def client():
    """Client of a new worker without a launcher, so that its process is a child of this one."""
    one = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER)
    yield one
    one.close()


def poll_until(client: WorkerClient, condition: Callable[[], bool]) -> None:
    """Poll as a timer of the panel does, holding the lock in between."""
    for _ in range(int(LONG / 0.05)):
        client.poll()
        if condition():
            return
        sleep_with_lock(0.05)
    pytest.fail(f"the condition was not reached within {LONG} s")


def test_a_worker_that_ignores_a_cancel_ends_without_any_other_thread(
    client: WorkerClient, tmp_path: Path
):
    calls = Calls()
    ask = request(two_blobs(), known_model(tmp_path, "hanging"))
    with kept_lock():
        job = client.segment(ask, **calls.callbacks())
        poll_until(client, lambda: "Segmenting" in calls.stages)
        pid = client.pid
        client.cancel()
        poll_until(client, lambda: job.done)
        assert child_ends_with_lock(pid, LONG)
        assert client.needs_polling  # until the process is reaped
        poll_until(client, lambda: not client.needs_polling)
    assert job.error.kind == "cancelled"


def test_a_job_ends_and_its_files_are_gone_as_soon_as_nothing_is_left_to_poll_for(
    client: WorkerClient, tmp_path: Path
):
    folder = client.folder
    assert folder is None and not client.needs_polling
    with kept_lock():
        job = client.segment(request(two_blobs(), known_model(tmp_path, "threshold")))
        poll_until(client, lambda: not client.needs_polling)
        left = list(client.folder.iterdir())
    np.testing.assert_array_equal(job.result.labelmap, two_blobs())
    assert left == []


def test_the_files_of_a_cancelled_job_are_gone_as_soon_as_nothing_is_left_to_poll_for(
    client: WorkerClient, tmp_path: Path
):
    model = known_model(tmp_path, "threshold")
    with kept_lock():
        job = client.segment(request(two_blobs(), model, session="one"))
        client.cancel()
        client.close_session("one")
        poll_until(client, lambda: not client.needs_polling)
        left = list(client.folder.iterdir())
    assert job.error.kind == "cancelled"
    assert left == []

"""Life of a worker and of its files: nothing is left behind, whichever process ends first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest

from MaskSAMCore.data.corrections import read_corrections
from MaskSAMCore.io.files import locked
from Testing.helpers.paths import KNOWN_WORKER, ROOT
from Testing.helpers.threshold_model import two_blobs
from Testing.helpers.worker_tools import (
    LONG,
    Calls,
    WorkerClient,
    end_of,
    known_model,
    request,
    wait_until,
)

WORKER_PARENT = (sys.executable, str(ROOT / "Testing" / "helpers" / "worker_parent.py"))


def parent(tmp_path: Path, model: str, then: str) -> tuple[subprocess.Popen, Path]:
    """Start a program with a worker that runs a job; return it and its temporary folder."""
    temporary = tmp_path / "témp"
    temporary.mkdir()
    process = subprocess.Popen(
        [*WORKER_PARENT, str(known_model(tmp_path, model)), then],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(temporary), "TEMP": str(temporary)},
    )
    return process, temporary


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX's signals")
@pytest.mark.parametrize("model", ["slow", "hanging"])
def test_a_killed_program_leaves_neither_worker_nor_files(tmp_path: Path, model: str):
    process, temporary = parent(tmp_path, model, "hang")
    pid = int(process.stdout.readline())
    ended = end_of(pid)
    assert psutil.pid_exists(pid) and list(temporary.iterdir())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_until(ended, what="the worker's end")
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX's signals")
def test_the_worker_of_a_killed_program_keeps_all_corrections_first(tmp_path: Path):
    folder = tmp_path / "kept"
    folder.mkdir()
    with locked(folder):  # no correction can be kept in a locked folder
        process, temporary = parent(tmp_path, "kept", "keep")
        ended = end_of(int(process.stdout.readline()))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert list(temporary.iterdir())
    wait_until(ended, what="the worker's end")
    assert set(read_corrections(folder).checked) == {"first", "second"}
    names = {path.name for path in folder.iterdir()}
    assert names == {"dataset.json", "imagesTr", "labelsTr"}
    assert list(temporary.iterdir()) == []


def test_a_program_that_exits_leaves_neither_worker_nor_files(tmp_path: Path):
    process, temporary = parent(tmp_path, "hanging", "exit")
    ended = end_of(int(process.stdout.readline()))
    process.communicate(timeout=LONG)
    assert process.returncode == 0
    wait_until(ended, what="the worker's end")
    assert list(temporary.iterdir()) == []


def test_closing_during_a_job_leaves_nothing_and_the_client_can_be_used_again(
    tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = known_model(tmp_path, "hanging")
    client = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER)
    calls = Calls()
    job = client.segment(request(two_blobs(), model), **calls.callbacks())
    wait_until(lambda: bool(calls.progress), client, "progress", calls)
    ended = end_of(client.pid)
    client.close()
    client.close()
    assert job.done and job.error.kind == "cancelled"
    assert calls.errors == [] and calls.done == []  # the panel may be closed already
    assert not client.running
    wait_until(ended, what="the worker's end")
    assert list(tmp_path.iterdir()) == [model]
    job = client.segment(request(two_blobs(), known_model(tmp_path, "threshold")))
    np.testing.assert_array_equal(client.wait(job).labelmap, two_blobs())
    client.close()


def test_a_client_that_was_never_used_can_be_closed():
    client = WorkerClient(core_folder=ROOT)
    client.poll()
    client.cancel()
    client.close()


def test_a_worker_that_ended_while_idle_is_replaced(tmp_path: Path):
    client = WorkerClient(core_folder=ROOT, command=(*KNOWN_WORKER, "--idle-minutes", "0.05"))
    try:
        pids = set()
        for _ in range(2):
            job = client.segment(request(two_blobs(), known_model(tmp_path, "threshold")))
            np.testing.assert_array_equal(client.wait(job).labelmap, two_blobs())
            pid = client.pid
            pids.add(pid)
            wait_until(end_of(pid), what="the worker's end")  # the client does not poll
        assert len(pids) == 2
    finally:
        client.close()

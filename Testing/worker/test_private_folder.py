"""Private folders of clients, and removal of those that crashed programs have left."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from MaskSAMSlicerLib.worker.private_folder import process_start, remove_abandoned
from Testing.helpers.paths import ROOT
from Testing.helpers.worker_tools import WorkerClient, wait_until


def host_in_names() -> str:
    return socket.gethostname().replace("-", "_").replace(".", "_")


def ended_process() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_only_folders_of_ended_processes_are_removed(tmp_path: Path):
    host, ended = host_in_names(), ended_process()
    me, start = os.getpid(), process_start(os.getpid())
    gone = [f"masksam-{host}-{ended}-{start + 900}-x", f"masksam-{host}-{me}-{start + 900}-x"]
    kept = [
        f"masksam-{host}-{me}-{start}-x",
        f"masksam-{host}-{me}-0-x",
        f"masksam-another_host-{ended}-{start}-x",
        "masksam-demo",
        "other",
    ]
    for name in gone + kept:
        (tmp_path / name).mkdir()
        (tmp_path / name / "volume-1.raw").write_bytes(b"x")
    remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


@pytest.mark.skipif(
    sys.platform != "linux", reason="the time is counted from the boot on Linux only"
)
def test_the_start_time_of_a_process_does_not_move_with_the_clock():
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        after = time.clock_gettime(time.CLOCK_BOOTTIME)
        assert before - 2 < process_start(process.pid) < after + 2
        process.stdin.close()
    assert process_start(process.pid) is None


def test_the_next_client_removes_the_folder_of_a_crashed_program(tmp_path: Path, monkeypatch):
    host, ended = host_in_names(), ended_process()
    left = tmp_path / f"masksam-{host}-{ended}-1-x"
    left.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    client = WorkerClient(core_folder=ROOT)
    client.devices()
    wait_until(lambda: not left.exists(), client)
    client.close()
    assert list(tmp_path.iterdir()) == []

"""Programs that are not a worker, or end too early: the error names the reason."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from MaskSAMSlicerLib.worker.process import describe_exit
from Testing.helpers.paths import LAUNCHER, ROOT
from Testing.helpers.threshold_model import two_blobs
from Testing.helpers.worker_tools import (
    LONG,
    Calls,
    WorkerClient,
    WorkerError,
    end_of,
    request,
    wait_for_error,
    wait_until,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX's process groups")


def fake(name: str, *arguments: object) -> list[str]:
    """Return the command that runs a program of `fake_worker`."""
    script = ROOT / "Testing" / "helpers" / "fake_worker.py"
    return [sys.executable, str(script), name, *map(str, arguments)]


def fail(client: WorkerClient) -> WorkerError:
    """Start a job that fails, and return its error."""
    calls = Calls()
    job = client.segment(request(two_blobs(), "any"), **calls.callbacks())
    return wait_for_error(client, job, calls)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("exit_with_a_message", "start", "no module of that name"),
        ("exit_silently", "start", "ended at once with status 0"),
        ("print_text", "protocol", "Hello"),
        ("print_an_endless_line", "protocol", "xxx"),
        ("print_other_json", "protocol", "[1, 2]"),
        ("be_newer", "protocol", "protocol 2, this module protocol 1"),
        ("refuse", "protocol", "too old"),
        ("exit_after_the_first_request", "crashed", "status 3"),
        ("hang", "start", "has not answered"),
        ("hang_after_the_handshake", "crashed", "has not answered"),
    ],
)
def test_the_error_names_the_reason_why_a_program_is_not_a_worker(
    monkeypatch, name: str, kind: str, message: str
):
    # Without this variable, Python buffers its output in blocks.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    start_seconds = 1.0 if name == "hang" else LONG
    hang_seconds = 1.0 if name == "hang_after_the_handshake" else LONG
    client = WorkerClient(
        command=fake(name), start_seconds=start_seconds, hang_seconds=hang_seconds
    )
    try:
        for _ in range(2):
            calls = Calls()
            job = client.segment(request(two_blobs(), "any"), **calls.callbacks())
            ended = end_of(client.pid)
            error = wait_for_error(client, job, calls)
            assert error.kind == kind
            assert message in str(error)
            wait_until(ended, client, "the program's end")
    finally:
        client.close()


def test_the_process_number_stays_until_the_end_is_reported():
    client = WorkerClient(command=fake("exit_with_a_message"))
    job = client.segment(request(two_blobs(), "any"))
    pid = client.pid
    wait_until(end_of(pid))
    assert client.pid == pid and not client.running
    with pytest.raises(WorkerError, match="no module of that name"):
        client.wait(job)
    assert client.pid is None
    client.close()


@pytest.mark.parametrize("group", ["worker's group", "own group"])
def test_a_child_that_holds_the_pipes_does_not_delay_the_error(tmp_path: Path, group: str):
    number = tmp_path / "number"
    client = WorkerClient(command=fake("leave_a_child", group, number))
    try:
        assert fail(client).kind == "start"
        child = int(number.read_text())
        if group == "own group":
            os.kill(child, signal.SIGKILL)
        wait_until(end_of(child), what="the child's end")
    finally:
        client.close()


def test_all_output_is_read_before_an_exit_is_reported():
    """The client polls late, and its log is slow."""
    log: list[str] = []

    def write_slowly(text: str) -> None:
        time.sleep(0.001)
        log.append(text)

    client = WorkerClient(command=fake("exit_after_much_output"), on_log=write_slowly)
    job = client.devices()
    wait_until(end_of(client.pid))
    try:
        # The answer counts, although the program answered a request that it never read.
        assert client.wait(job).auto.name == "cpu"
        lines = [f"line {n}" for n in range(300)]
        wait_until(lambda: [line for line in log if line.startswith("line")] == lines, client)
    finally:
        client.close()


@pytest.mark.parametrize("python", ["/no/such/python", "/etc/passwd"])
def test_the_error_names_an_interpreter_that_cannot_run(python: str):
    client = WorkerClient(python=python, core_folder=ROOT)
    calls = Calls()
    job = client.segment(request(two_blobs(), "any"), **calls.callbacks())
    assert not client.running and client.pid is None
    assert not job.done  # callbacks are called from `poll` only
    error = wait_for_error(client, job, calls)
    assert error.kind == "start" and python in str(error)
    client.close()


def test_the_error_names_a_package_that_is_missing():
    client = WorkerClient(command=[sys.executable, "-S", "-E", "-m", "MaskSAMCore.worker"])
    error = fail(client)
    assert error.kind == "start" and "No module named" in str(error)
    client.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
@pytest.mark.parametrize("handshake", [True, False], ids=["in a job", "at the start"])
def test_a_launcher_hides_the_status_of_a_crash_but_not_the_crash(number: int, handshake: bool):
    client = WorkerClient(command=[*LAUNCHER, *fake("die", int(number), int(handshake))])
    error = fail(client)
    assert error.kind == ("crashed" if handshake else "start")
    assert "crashed, or was ended by the system, often because the memory ran out" in str(error)
    client.close()


def test_an_exit_through_a_launcher_keeps_its_status_and_message():
    client = WorkerClient(command=[*LAUNCHER, *fake("exit_after_the_first_request")])
    assert "status 3" in str(fail(client))
    client.close()
    client = WorkerClient(command=[*LAUNCHER, *fake("exit_with_a_message")])
    assert "no module of that name" in str(fail(client))
    client.close()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (-9, "the memory ran out"),
        (137, "the memory ran out"),
        (-11, "crashed"),
        (139, "crashed"),
        (0xC0000005, "crashed"),
        (3, "status 3"),
    ],
)
def test_an_exit_status_is_described_for_a_process_a_launcher_and_windows(status: int, words: str):
    assert words in describe_exit(status)

"""Programs that are no worker, or end before their time: what is told, and what is left of them."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from Testing.helpers.threshold_model import two_blobs
from Testing.helpers.worker_tools import (
    LONG,
    ROOT,
    Heard,
    WorkerClient,
    WorkerError,
    end_of,
    fails,
    request,
    until,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and groups are POSIX's")

FAKES = {
    "exits": ("import sys; sys.exit('no module of that name')", "start", "no module of that name"),
    "is silent and exits": ("", "start", "ended at once with status 0"),
    "prints rubbish": ("print('Hello\\xff'); import time; time.sleep(300)", "protocol", "Hello"),
    "prints no line": (
        "import sys; sys.stdout.write('x' * (17 << 20)); sys.stdout.flush()\n"
        "import time; time.sleep(300)",
        "protocol",
        "xxx",
    ),
    "prints another JSON": ("print('[1, 2]'); import time; time.sleep(300)", "protocol", "[1, 2]"),
    "is newer": (
        'print(\'{"id": "initialize", "result": {"protocol": 2}}\', flush=True)\n'
        "import time; time.sleep(300)",
        "protocol",
        "protocol 2, this module protocol 1",
    ),
    "refuses": (
        'print(\'{"id": "initialize", "error": {"code": -32001, "message": "too old"}}\')\n'
        "import sys; sys.stdout.flush(); sys.stdin.read()",
        "protocol",
        "too old",
    ),
    "greets and ends": (
        'print(\'{"id": "initialize", "result": {"protocol": 1}}\', flush=True)\n'
        "input(); input(); import sys; sys.exit(3)",
        "crashed",
        "status 3",
    ),
    "hangs": ("import time; time.sleep(300)", "start", "has not answered"),
    "hangs later": (
        'print(\'{"id": "initialize", "result": {"protocol": 1}}\', flush=True)\n'
        "import time; time.sleep(300)",
        "crashed",
        "has not answered",
    ),
}


@pytest.mark.parametrize("name", FAKES)
def test_a_program_that_is_no_worker_is_told_apart(tmp_path: Path, monkeypatch, name: str):
    program, kind, message = FAKES[name]
    script = tmp_path / "fälscher.py"
    script.write_text(program, encoding="utf-8")
    hang = 1.0 if name.startswith("hangs") else LONG
    start = 1.0 if name == "hangs" else LONG
    # As on a machine where nothing was set to make Python speak at once.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    client = WorkerClient(
        command=[sys.executable, str(script)], hang_seconds=hang, start_seconds=start
    )
    try:
        for _ in range(2):
            heard = Heard()
            job = client.segment(request(two_blobs(), "any"), **heard())
            ended = end_of(client.pid)
            error = fails(client, job, heard)
            assert error.kind == kind
            assert message in str(error)
            until(ended, client, "its end")
    finally:
        client.close()


def test_the_number_of_a_worker_that_has_just_ended_is_known(tmp_path: Path):
    client = WorkerClient(command=[sys.executable, "-c", "import sys; sys.exit('soon')"])
    job = client.segment(request(two_blobs(), "any"))
    pid = client.pid
    until(end_of(pid))
    assert client.pid == pid and not client.running
    with pytest.raises(WorkerError, match="soon"):
        client.wait(job)
    assert client.pid is None
    client.close()


@pytest.mark.parametrize("left", ["in its group", "on its own"])
def test_what_a_worker_left_running_holds_up_no_error(tmp_path: Path, left: str):
    """A child that has the worker's pipes, and writes to them, while the worker is gone."""
    number = tmp_path / "number"
    chatter = "import time\nwhile True: print('x' * 1000, file=sys.stderr); time.sleep(0.001)"
    script = tmp_path / "leaves.py"
    script.write_text(
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {('import sys;' + chatter)!r}],"
        f" start_new_session={left == 'on its own'})\n"
        f"open({str(number)!r}, 'w').write(str(child.pid))\n"
        "sys.exit(3)\n",
        encoding="utf-8",
    )
    client = WorkerClient(command=[sys.executable, str(script)])
    heard = Heard()
    job = client.segment(request(two_blobs(), "any"), **heard())
    try:
        assert fails(client, job, heard).kind == "start"
        child = int(number.read_text())
        if left == "on its own":
            os.kill(child, signal.SIGKILL)
        until(end_of(child), what="the child's end")
    finally:
        client.close()


def test_the_last_words_of_a_worker_are_heard_before_it_is_judged(tmp_path: Path):
    """However late the client looks, and however little time a look has."""
    script = tmp_path / "brief.py"
    script.write_text(
        "import sys\n"
        "for n in range(300): print('line', n, file=sys.stderr)\n"
        'print(\'{"id": "initialize", "result": {"protocol": 1}}\')\n'
        'print(\'{"id": 1, "result": {"choices": [], "auto": {"name": "x", "reason": "y"}}}\')\n'
        "sys.exit(3)\n",
        encoding="utf-8",
    )
    log: list[str] = []

    def slowly(text: str) -> None:
        time.sleep(0.001)
        log.append(text)

    client = WorkerClient(command=[sys.executable, str(script)], on_log=slowly)
    job = client.devices()
    until(end_of(client.pid))
    try:
        # It was ended before the question went out, and yet the answer is there: take it.
        assert client.wait(job).auto.name == "x"
        said = [f"line {n}" for n in range(300)]
        until(lambda: [line for line in log if line.startswith("line")] == said, client)
    finally:
        client.close()


@pytest.mark.parametrize("python", ["/no/such/python", "/etc/passwd"])
def test_an_interpreter_that_cannot_run_is_told(python: str):
    client = WorkerClient(python=python, core_folder=ROOT)
    heard = Heard()
    job = client.segment(request(two_blobs(), "any"), **heard())
    assert not client.running and client.pid is None
    assert not job.done  # callbacks come out of poll alone
    error = fails(client, job, heard)
    assert error.kind == "start" and python in str(error)
    client.close()


def test_a_package_that_is_nowhere_is_told(tmp_path: Path):
    client = WorkerClient(command=[sys.executable, "-S", "-E", "-m", "MaskSAMCore.worker"])
    heard = Heard()
    job = client.segment(request(two_blobs(), "any"), **heard())
    error = fails(client, job, heard)
    assert error.kind == "start" and "No module named" in str(error)
    client.close()

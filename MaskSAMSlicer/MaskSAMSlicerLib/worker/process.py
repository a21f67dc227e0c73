"""Worker process: pipes read and written by threads, exit status, and ending its process tree.

In Slicer the main thread holds Python's global interpreter lock while Qt waits for events, so that
other threads advance only while the application runs Python code, such as a timer that polls the
client. The threads here therefore only carry data; the process is ended on the calling thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from MaskSAMCore.worker import protocol
from MaskSAMCore.worker.protocol import MAX_MESSAGE_BYTES, Request, encode_line

_LINES_KEPT = 400
# Longest wait for the last output of a process that has ended. A pause of this program counts as
# one short interval, because the reading threads may not have run during the pause.
_SECONDS_FOR_LAST_OUTPUT = 2.0
_LONGEST_INTERVAL_SECONDS = 0.1
# Longest wait for the end of a killed process, when the client is closed.
_SECONDS_TO_END = 5.0
# PythonSlicer is a launcher: it prints this line and exits with status 1 if its child crashed or
# was killed, whatever the signal.
_LAUNCHER_REPORT = re.compile(r"error: \[.*\] exit abnormally\b")
_WINDOWS_FAULTS = (0xC0000005, 0xC000001D, 0xC00000FD, 0xC0000374, 0xC0000409)


class WorkerProcess:
    """A worker process and its pipes; only `close` waits.

    Args:
        command: command line.
        environment: environment variables.
        folder: current folder of the process.

    Attributes:
        pid: process ID; that of the launcher if the command starts one.
        messages: messages received; None marks a line that is not a message.
        log: lines of stderr not yet shown.
        invalid_line: beginning of the line that is not a message; empty if there is none.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str], folder: Path) -> None:
        self.messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.log: deque[str] = deque(maxlen=_LINES_KEPT)
        self.invalid_line = ""
        self._tail: deque[str] = deque(maxlen=_LINES_KEPT)
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._ended = False
        self._checked_at = 0.0
        self._waited_seconds = 0.0
        self._killed = False
        options: dict[str, Any] = (
            {"creationflags": subprocess.CREATE_NO_WINDOW}
            if sys.platform == "win32"
            else {"start_new_session": True}  # a new process group, so that children end with it
        )
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=str(folder),  # it holds nothing that Python could import by mistake
            env=environment,
            **options,
        )
        self.pid = self._process.pid
        self._reader = self._start(self._read)
        self._logger = self._start(self._read_log)
        self._start(self._write)

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message for the writing thread."""
        self._outgoing.put(encode_line(message))

    @property
    def running(self) -> bool:
        """True until the process has ended."""
        return self._poll() is None

    @property
    def status(self) -> int | None:
        """Exit status, once the process has ended and all its output was taken from the queues."""
        status = self._poll()
        if status is None:
            return None
        now = time.monotonic()
        self._waited_seconds += min(now - self._checked_at, _LONGEST_INTERVAL_SECONDS)
        self._checked_at = now
        reading = self._reader.is_alive() or self._logger.is_alive()
        # A child of the process may hold the pipes open for ever, and write to them.
        if (reading or self.log) and self._waited_seconds < _SECONDS_FOR_LAST_OUTPUT:
            return None
        return status if self.messages.empty() else None

    @property
    def tail(self) -> str:
        """Last lines of stderr."""
        return "\n".join(list(self._tail))

    def kill(self) -> None:
        """End the process and all its children, without waiting until they have ended."""
        if not self._killed:
            self._killed = True
            self._outgoing.put(None)
            if self._poll() is None:
                kill_tree(self._process)

    def close(self, seconds: float) -> None:
        """Ask the process to end; kill it and its children if it still runs after some seconds."""
        self.send(Request(protocol.SHUTDOWN, {}, 0).to_json())
        self._outgoing.put(None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        if self.running:
            self.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_SECONDS_TO_END)

    def _poll(self) -> int | None:
        status = self._process.poll()
        if status is not None and not self._ended:
            self._ended = True
            self._checked_at = time.monotonic()
            # The group is killed at once, because its ID may be reused later.
            _kill_group(self.pid)
        return status

    def _start(self, target: Any) -> threading.Thread:
        thread = threading.Thread(target=target, name=f"worker {target.__name__}", daemon=True)
        thread.start()
        return thread

    def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        while True:
            try:
                line = stream.readline(MAX_MESSAGE_BYTES)
            except (OSError, ValueError):
                break
            if not line:
                break
            try:
                message = json.loads(line.decode("utf-8"))
            except ValueError:
                message = None
            if not isinstance(message, dict):
                self.invalid_line = line[:200].decode("utf-8", "replace").strip()
                message = None
            self.messages.put(message)
            if message is None:
                break
        # Further output is discarded, so that the process never waits for a reader.
        with contextlib.suppress(OSError, ValueError), stream:
            while stream.read(1 << 16):
                pass

    def _read_log(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        with contextlib.suppress(OSError, ValueError), stream:
            while True:
                line = stream.readline(1 << 16)
                if not line:
                    break
                text = line.decode("utf-8", "replace").rstrip()
                self._tail.append(text)
                self.log.append(text)

    def _write(self) -> None:
        stream = self._process.stdin
        assert stream is not None
        with contextlib.suppress(OSError, ValueError):
            while True:
                line = self._outgoing.get()
                if line is None:
                    break
                stream.write(line)
                stream.flush()


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a running process and its children, because PythonSlicer only launches the worker."""
    try:
        import psutil
    except ImportError:
        psutil = None
    children: list[Any] = []
    if psutil is not None:
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(process.pid).children(recursive=True)
    if sys.platform == "win32":
        if psutil is None:
            subprocess.run(
                ["taskkill", "/T", "/F", "/PID", str(process.pid)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                creationflags=subprocess.CREATE_NO_WINDOW,
                check=False,
            )
    _kill_group(process.pid)
    with contextlib.suppress(OSError):
        process.kill()
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()


def _kill_group(pid: int) -> None:
    """Kill the process group of a process; do nothing on Windows, which has none."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)


def crash_reason(status: int, tail: str = "") -> str:
    """Return in words why a process crashed or was killed; empty if it exited by itself.

    Args:
        status: exit status of the process, or of the launcher that started it.
        tail: last lines of stderr.
    """
    # A shell reports a signal as 128 plus its number, Windows a fault as a large number.
    number = -status if status < 0 else status - 128
    if number == 9:
        return "was ended by the system, often because the memory ran out"
    if number in (4, 6, 7, 8, 11) or status in _WINDOWS_FAULTS:
        return "crashed"
    if status == 1 and _LAUNCHER_REPORT.match(last_line(tail)):
        return "crashed, or was ended by the system, often because the memory ran out"
    return ""


def describe_exit(status: int, tail: str = "") -> str:
    """Return one line for the user about the exit of a process; see `crash_reason`."""
    reason = crash_reason(status, tail) or f"ended unexpectedly (status {status})"
    return (
        f"the segmentation process {reason}: nothing was changed; try again, with a smaller region"
        " of interest (ROI) or fewer other programs if it happens again"
    )


def last_line(text: str) -> str:
    """Return the last line that is not blank; in a Python traceback, the error message."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def worker_environment(core_folder: Path | None, extra: dict[str, str] | None) -> dict[str, str]:
    """Return the environment variables of a worker: this process's, with MaskSAMCore importable.

    Output is unbuffered, because the last block of buffered output is lost in a crash.

    Args:
        core_folder: folder that holds the package MaskSAMCore; None if it is installed.
        extra: further variables.
    """
    environment = {
        **os.environ,
        "PYTHONUTF8": "1",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUNBUFFERED": "1",
        **(extra or {}),
    }
    if home := environment.get("MASKSAM_HOME"):  # the worker runs in another folder
        environment["MASKSAM_HOME"] = os.path.abspath(os.path.expanduser(home))
    if core_folder is not None:
        paths = [str(core_folder), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment

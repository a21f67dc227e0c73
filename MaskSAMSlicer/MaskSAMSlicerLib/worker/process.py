"""A running worker: its pipes, read and written by threads, and how all of it is ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# No message is longer: a line beyond is rubbish.
_LONGEST_MESSAGE = 16 << 20
_LINES_KEPT = 400
# After the process's end its last words are waited for no longer than this. A pause of this program
# counts as one look only: it is no proof that the threads that read had their turn.
_SECONDS_FOR_LAST_WORDS = 2.0
_SECONDS_OF_A_LOOK = 0.1
_WINDOWS_FAULTS = (0xC0000005, 0xC000001D, 0xC00000FD, 0xC0000374, 0xC0000409)


class WorkerProcess:
    """A worker that has been started; nothing here ever waits, but `close`.

    Attributes:
        messages: what came in: objects, or None for a line that is no message.
        log: lines of stderr, not yet shown.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str], folder: Path) -> None:
        self.messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.log: deque[str] = deque(maxlen=_LINES_KEPT)
        self.rubbish = ""
        self._tail: deque[str] = deque(maxlen=_LINES_KEPT)
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._ended = False
        self._looked_at = 0.0
        self._waited = 0.0
        self._killed = False
        how: dict[str, Any] = (
            {"creationflags": subprocess.CREATE_NO_WINDOW}
            if sys.platform == "win32"
            else {"start_new_session": True}  # a process group of its own, to be ended together
        )
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=str(folder),  # nothing lies there that Python could import by mistake
            env=environment,
            **how,
        )
        self.pid = self._process.pid
        self._reader = self._start(self._read)
        self._logger = self._start(self._read_log)
        self._start(self._write)

    def send(self, message: dict[str, Any]) -> None:
        """Send a message, some time soon."""
        line = json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False) + "\n"
        self._outgoing.put(line.encode("utf-8", "backslashreplace"))

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._poll() is None

    @property
    def status(self) -> int | None:
        """The exit status, once it has ended and all it said was taken from the queues."""
        status = self._poll()
        if status is None:
            return None
        now = time.monotonic()
        self._waited += min(now - self._looked_at, _SECONDS_OF_A_LOOK)
        self._looked_at = now
        speaks = self._reader.is_alive() or self._logger.is_alive()
        # A child of it may hold the pipes open for ever, and write to them.
        if (speaks or self.log) and self._waited < _SECONDS_FOR_LAST_WORDS:
            return None
        return status if self.messages.empty() else None

    @property
    def tail(self) -> str:
        """The last lines of stderr."""
        return "\n".join(list(self._tail))

    def kill(self) -> None:
        """End it and all its children; returns at once."""
        if not self._killed:
            self._killed = True
            self._outgoing.put(None)
            self._start(self._kill)

    def close(self, seconds: float) -> None:
        """Say goodbye, and kill what is left after some seconds."""
        self.send({"id": 0, "method": "shutdown", "params": {}})
        self._outgoing.put(None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        if self.running:
            self._kill()

    def _poll(self) -> int | None:
        status = self._process.poll()
        if status is not None and not self._ended:
            self._ended = True
            self._looked_at = time.monotonic()
            # At once: later its number may be another process's.
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
                line = stream.readline(_LONGEST_MESSAGE)
            except (OSError, ValueError):
                break
            if not line:
                break
            try:
                message = json.loads(line.decode("utf-8"))
            except ValueError:
                message = None
            if not isinstance(message, dict):
                self.rubbish = line[:200].decode("utf-8", "replace").strip()
                message = None
            self.messages.put(message)
            if message is None:
                break
        # What comes after rubbish is thrown away, so that the process never waits for us.
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

    def _kill(self) -> None:
        if self._poll() is not None:
            return
        kill_tree(self._process)
        self._ended = True
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that runs, and its children: PythonSlicer only launches the real one."""
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
    """Kill what a process started and left, where the system knows groups of processes."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)


def why_it_ended(status: int) -> str:
    """What a person is told of an exit status."""
    # A launcher reports a signal as 128 and more, Windows a fault as a large number.
    number = -status if status < 0 else status - 128
    if number == 9:
        why = "was ended by the system, often because the memory ran out"
    elif number in (4, 6, 7, 8, 11) or status in _WINDOWS_FAULTS:
        why = "crashed"
    else:
        why = f"ended unexpectedly (status {status})"
    return (
        f"the segmentation process {why}: nothing was changed; try again, with a smaller region of"
        " interest (ROI) or fewer other programs if it happens again"
    )


def last_line(text: str) -> str:
    """The last line with anything on it: of a Python error, what it says."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def worker_environment(core_folder: Path | None, extra: dict[str, str] | None) -> dict[str, str]:
    """The environment of a worker: this process's, and where MaskSAMCore is.

    What it, and a library in it, prints comes at once, not in blocks of which the last is lost.
    """
    environment = {
        **os.environ,
        "PYTHONUTF8": "1",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUNBUFFERED": "1",
        **(extra or {}),
    }
    if core_folder is not None:
        paths = [str(core_folder), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment

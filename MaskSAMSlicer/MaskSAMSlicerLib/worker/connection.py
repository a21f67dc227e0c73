"""Connection to one worker process: handshake, messages, and checks that it is alive."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from MaskSAMCore.worker import protocol
from MaskSAMCore.worker.protocol import (
    PROTOCOL_VERSION,
    InitializeParams,
    InitializeResult,
    Request,
    RequestError,
)
from MaskSAMSlicerLib.worker.jobs import Job, WorkerError
from MaskSAMSlicerLib.worker.process import WorkerProcess, crash_reason, last_line

# A worker that has been silent for this long is pinged.
PING_SECONDS = 5.0
# Longest interval between two checks that counts as silence of the worker; a longer one means that
# this program or the machine was paused.
_LONGEST_INTERVAL_SECONDS = 1.0


class Connection:
    """Connection to one worker, from its start to its end; only `close` waits.

    Args:
        command: command line of the worker.
        environment: environment variables of the worker.
        folder: private folder of this client; the worker removes it if this program crashes.
        start_seconds: longest silence of a worker that starts, after which it counts as hung.
        hang_seconds: longest silence of a worker that has started, after which it counts as hung.

    Attributes:
        ready: True once the worker has answered the handshake.

    Raises:
        WorkerError: the process cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        folder: Path,
        start_seconds: float,
        hang_seconds: float,
    ) -> None:
        try:
            self._process = WorkerProcess(command, environment, folder)
        except OSError as error:
            reason = f"{command[0]}: {error.strerror or error}"
            text = f"the segmentation process cannot start: {reason}"
            raise WorkerError("start", text) from error
        self.ready = False
        self._pid = self._process.pid
        self._start_seconds = start_seconds
        self._hang_seconds = hang_seconds
        self._silent_seconds = 0.0
        self._pinged = False
        self._checked_at = time.monotonic()
        self.send(protocol.INITIALIZE, InitializeParams(str(folder)).to_json(), "initialize")

    @property
    def running(self) -> bool:
        """True until the process has ended."""
        return self._process.running

    @property
    def pid(self) -> int:
        """Process ID of the worker; until the handshake, that of its launcher."""
        return self._pid

    @property
    def tail(self) -> str:
        """Last lines of the worker's stderr."""
        return self._process.tail

    def send(self, method: str, params: dict[str, Any], number: int | str | None = None) -> None:
        """Send a request, or a notification if there is no number."""
        self._process.send(Request(method, params, number).to_json())

    def next_line(self) -> str | None:
        """Return the next line of the worker's stderr; None if there is none yet."""
        return self._process.log.popleft() if self._process.log else None

    def next_message(self) -> dict[str, Any] | None:
        """Return the next message; None if there is none yet.

        Raises:
            WorkerError: the output is not a message, or the worker is of another version.
        """
        while True:
            try:
                message = self._process.messages.get_nowait()
            except queue.Empty:
                return None
            if message is None:
                line = self._process.invalid_line
                text = f"the segmentation process printed a line that is not a message: '{line}'"
                raise WorkerError("protocol", text, self.tail)
            self._silent_seconds, self._pinged = 0.0, False
            if message.get("id") == "initialize":
                self._finish_handshake(message)
            elif message.get("id") != "ping":
                return message

    def check(self, expecting: bool) -> int | None:
        """Return the exit status once the process has ended, else None; ping a silent worker.

        Args:
            expecting: True if the worker has an unanswered request.

        Raises:
            WorkerError: the worker could not start, or hangs.
        """
        now = time.monotonic()
        passed, self._checked_at = now - self._checked_at, now
        status = self._process.status
        if status is not None and not self.ready:
            crash = crash_reason(status, self.tail)
            reason = last_line(self.tail) or f"it ended at once with status {status}"
            reason = f"it {crash}" if crash else reason
            text = f"the segmentation process cannot start: {reason}"
            raise WorkerError("start", text, self.tail)
        if status is not None:
            return status
        if self.ready and not expecting:
            self._silent_seconds = 0.0
            return None
        self._silent_seconds += min(passed, _LONGEST_INTERVAL_SECONDS)
        if self._silent_seconds > (self._hang_seconds if self.ready else self._start_seconds):
            kind = "crashed" if self.ready else "start"
            silent = f"has not answered for {self._silent_seconds:.0f} seconds"
            text = f"the segmentation process {silent} and was ended: try again"
            raise WorkerError(kind, text, self.tail)
        if self.ready and self._silent_seconds > PING_SECONDS and not self._pinged:
            self._pinged = True
            self.send(protocol.PING, {}, "ping")
        return None

    def kill(self) -> None:
        """End the process and all its children, without waiting until they have ended."""
        self._process.kill()

    def close(self, seconds: float) -> None:
        """Ask the process to end; kill it and its children if it still runs after some seconds."""
        self._process.close(seconds)

    def _finish_handshake(self, message: dict[str, Any]) -> None:
        error, result = message.get("error"), message.get("result")
        if isinstance(error, dict):
            raise WorkerError.from_answer(RequestError.from_json(error))
        answer = InitializeResult.from_json(result if isinstance(result, dict) else {})
        if answer.protocol != PROTOCOL_VERSION:
            raise WorkerError(
                "protocol",
                f"the segmentation process uses protocol {answer.protocol}, this module protocol"
                f" {PROTOCOL_VERSION}: update the older of the two",
                self.tail,
            )
        self.ready = True
        self._pid = answer.pid or self._pid


class StallMonitor:
    """Monitor of the running job's progress, for a worker that answers pings.

    It only gives notice: a large model on a slow machine may be busy all the time, and the user can
    cancel.

    Args:
        seconds: time without progress after which a notice is due, and again after each multiple of
            it.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: tuple[int, int] | None = None
        self._idle_seconds = 0.0
        self._due = seconds
        self._checked_at = 0.0

    def check(self, job: Job | None, now: float) -> str | None:
        """Return the notice for the user that is due now, if any.

        Args:
            job: running job; None while the worker is idle.
            now: time of a monotonic clock in seconds.
        """
        passed, self._checked_at = now - self._checked_at, now
        current = None if job is None else (job.id, job.reports)
        if job is None or current != self._last:
            self._last, self._idle_seconds, self._due = current, 0.0, self._seconds
            return None
        self._idle_seconds += min(passed, _LONGEST_INTERVAL_SECONDS)
        if self._idle_seconds < self._due:
            return None
        self._due += self._seconds
        duration = _duration(self._idle_seconds)
        return f"{job.stage or job.method}: no progress for {duration}: wait, or cancel"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

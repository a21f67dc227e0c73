"""A worker as one that is greeted, listened to and looked after, so that no failure goes unseen."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from MaskSAMSlicerLib.worker.jobs import WorkerError, error_of
from MaskSAMSlicerLib.worker.process import WorkerProcess, last_line

PROTOCOL = 1
# After so long without a word the worker is asked whether it is there.
PING_SECONDS = 5.0


class Connection:
    """One worker from its start to its end; nothing here ever waits, but `close`.

    Args:
        command: starts it.
        environment: for it.
        folder: of this client alone; the worker removes it when this program crashes.
        hang_seconds: without any word for so long, it is taken for hung.

    Attributes:
        ready: it has answered the greeting.

    Raises:
        WorkerError: it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        folder: Path,
        hang_seconds: float,
    ) -> None:
        try:
            self._process = WorkerProcess(command, environment, folder)
        except OSError as error:
            reason = f"{command[0]}: {error.strerror or error}"
            raise WorkerError(
                "start", f"the segmentation process cannot start: {reason}"
            ) from error
        self.ready = False
        self._pid = self._process.pid
        self._hang_seconds = hang_seconds
        self._silent = 0.0
        self._pinged = False
        self._looked_at = time.monotonic()
        hello = {"protocol": PROTOCOL, "client": "MaskSAMSlicer", "folder": str(folder)}
        self.send("initialize", hello, "initialize")

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.running

    @property
    def pid(self) -> int:
        """Of the worker itself, once it has said it; a launcher's until then."""
        return self._pid

    @property
    def tail(self) -> str:
        """The last lines of its stderr."""
        return self._process.tail

    def send(self, method: str, params: dict[str, Any], number: int | str | None = None) -> None:
        """Send a request, or without a number a notification."""
        message: dict[str, Any] = {"method": method, "params": params}
        self._process.send(message if number is None else {"id": number, **message})

    def next_line(self) -> str | None:
        """The next line of its stderr, if there is one."""
        return self._process.log.popleft() if self._process.log else None

    def next_message(self) -> dict[str, Any] | None:
        """The next message, if there is one.

        Raises:
            WorkerError: it says what is no message, or it is of another version.
        """
        while True:
            try:
                message = self._process.messages.get_nowait()
            except queue.Empty:
                return None
            if message is None:
                said = self._process.rubbish
                text = f"the segmentation process says what is no message: '{said}'"
                raise WorkerError("protocol", text, self.tail)
            self._silent, self._pinged = 0.0, False
            if message.get("id") == "initialize":
                self._greeted(message)
            elif message.get("id") != "ping":
                return message

    def look_after(self, expecting: bool) -> int | None:
        """Its exit status, once it has ended.

        Args:
            expecting: whether it owes an answer.

        Raises:
            WorkerError: it could not start, or hangs.
        """
        now = time.monotonic()
        passed, self._looked_at = now - self._looked_at, now
        status = self._process.status
        if status is not None and not self.ready:
            reason = last_line(self.tail) or f"it ended at once with status {status}"
            text = f"the segmentation process cannot start: {reason}"
            raise WorkerError("start", text, self.tail)
        if status is not None:
            return status
        if self.ready and not expecting:
            self._silent = 0.0
            return None
        # A break of this program, or of the machine, is not the worker's silence.
        self._silent += min(passed, 1.0)
        if self._silent > self._hang_seconds:
            kind = "crashed" if self.ready else "start"
            text = f"the segmentation process has not answered for {self._silent:.0f} seconds"
            raise WorkerError(kind, f"{text} and was ended: try again", self.tail)
        if self.ready and self._silent > PING_SECONDS and not self._pinged:
            self._pinged = True
            self.send("ping", {}, "ping")
        return None

    def kill(self) -> None:
        """End it and all its children; returns at once."""
        self._process.kill()

    def close(self, seconds: float) -> None:
        """Say goodbye, and kill what is left after some seconds."""
        self._process.close(seconds)

    def _greeted(self, message: dict[str, Any]) -> None:
        error, result = message.get("error"), message.get("result")
        if isinstance(error, dict):
            raise error_of(error)
        other = result.get("protocol") if isinstance(result, dict) else None
        if not isinstance(result, dict) or other != PROTOCOL:
            raise WorkerError(
                "protocol",
                f"the segmentation process speaks protocol {other}, this module protocol {PROTOCOL}"
                ": update the older of the two",
                self.tail,
            )
        self.ready = True
        self._pid = int(result.get("pid") or self._pid)

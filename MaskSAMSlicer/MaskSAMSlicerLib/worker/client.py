"""Talks to the process that segments, without ever blocking the one that shows.

Example:
    >>> client = WorkerClient(core_folder=Path("SlicerMaskSAM"))
    >>> job = client.segment(SegmentRequest([array], [ijk_to_ras], ["MR head"], "hippocampus"))
    >>> labelmap = client.wait(job)["labelmap"]

A panel calls `poll` every 50 ms instead of `wait`, and gets its callbacks from there.
"""

from __future__ import annotations

import atexit
import queue
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from MaskSAMSlicerLib.worker.connection import Connection
from MaskSAMSlicerLib.worker.exchange import Event, Exchange, run_events
from MaskSAMSlicerLib.worker.jobs import (
    DoneCallback,
    ErrorCallback,
    Job,
    ProgressCallback,
    SegmentRequest,
    WorkerError,
    cancelled,
    error_of,
)
from MaskSAMSlicerLib.worker.patience import Patience
from MaskSAMSlicerLib.worker.process import why_it_ended, worker_environment
from MaskSAMSlicerLib.worker.requests import Requests

__all__ = ["Job", "SegmentRequest", "WorkerClient", "WorkerError"]

# What the worker gets to stop by itself after a cancel.
CANCEL_SECONDS = 0.7
# `poll` leaves what comes later to the next one.
POLL_SECONDS = 0.004
# A job that a worker never took up is given to so many fresh ones.
_RESTARTS = 2


class WorkerClient(Requests):
    """One worker process, started when it is needed and again when it ended.

    All methods are for one thread, and callbacks come on that thread, out of `poll` or `wait`.

    Args:
        python: the interpreter: Slicer's PythonSlicer, or this one.
        core_folder: where the package MaskSAMCore lies, if it is not installed.
        environment: variables to add to this process's.
        on_log: receives lines for the log.
        command: what to run in place of the interpreter with the worker.
        hang_seconds: without any word for so long, the worker is taken for hung. Importing PyTorch
            from a slow disk keeps it silent for a while.
        stalled_seconds: without progress for so long, though the worker answers, the log and the
            job's `on_progress` are told.
    """

    def __init__(
        self,
        python: str | Path | None = None,
        core_folder: Path | None = None,
        environment: dict[str, str] | None = None,
        on_log: Callable[[str], None] | None = None,
        *,
        command: Sequence[str] | None = None,
        hang_seconds: float = 120.0,
        stalled_seconds: float = 180.0,
    ) -> None:
        self._command = list(command or (str(python or sys.executable), "-m", "MaskSAMCore.worker"))
        self._environment = worker_environment(core_folder, environment)
        self._on_log = on_log
        self._hang_seconds = hang_seconds
        self._patience = Patience(stalled_seconds)
        self._jobs: dict[int, Job] = {}
        self._number = 0
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._exchange: Exchange | None = None
        self._connection: Connection | None = None
        self._kill_at: float | None = None

    @property
    def running(self) -> bool:
        """Whether there is a worker."""
        return self._connection is not None and self._connection.running

    @property
    def pid(self) -> int | None:
        """The worker's process number, until `poll` has seen its end; None without one."""
        return None if self._connection is None else self._connection.pid

    def start(self) -> None:
        """Start the worker where there is none. Where that fails, the next job says so too."""
        try:
            self._connect()
        except WorkerError as error:
            self._log(str(error))

    def segment(
        self,
        request: SegmentRequest,
        on_progress: ProgressCallback | None = None,
        on_done: DoneCallback | None = None,
        on_error: ErrorCallback | None = None,
    ) -> Job:
        """Segment a volume; returns at once. The result's `labelmap` is an array [K, J, I].

        The arrays must not change until the first progress is reported: they are copied meanwhile.
        """
        job = self._ask("segment", request.params(), on_progress, on_done, on_error)
        if self._exchange is not None:
            self._exchange.share(job, request, self._fail)
        return job

    def close_session(self, session: str) -> None:
        """Let go of a volume that is held open."""
        if self.running:
            self._ask("close_session", {"session": session})
        if self._exchange is not None:
            self._exchange.forget_session(session)

    def cancel(self) -> None:
        """Stop everything that runs or waits; each ends in a WorkerError "cancelled"."""
        for job in self._jobs.values():
            if job.cancelling:
                continue
            job.cancelling = True
            if job.sent and self._connection is not None:
                self._connection.send("cancel", {"id": job.id})
                self._kill_at = time.monotonic() + CANCEL_SECONDS
            else:
                self._later(job, cancelled())

    def poll(self) -> None:
        """Take in what has come, call back, and see after the worker; never blocks."""
        until = time.monotonic() + POLL_SECONDS
        run_events(self._events, until)
        if self._exchange is not None:
            run_events(self._exchange.events, until)
        connection = self._connection
        if connection is not None:
            self._listen(connection, until)
        # A callback may have ended it.
        if connection is not None and self._connection is connection:
            self._send_what_is_ready(connection)
            self._look_after(connection)

    def close(self) -> None:
        """End the worker and remove the private folder; jobs end silently as cancelled."""
        atexit.unregister(self.close)
        for job in list(self._jobs.values()):
            job.fail(cancelled(), silently=True)
        self._jobs.clear()
        connection = self._disconnect()
        if connection is not None:
            connection.close(1.0)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()

    def _ask(
        self,
        method: str,
        params: dict[str, Any],
        on_progress: ProgressCallback | None = None,
        on_done: DoneCallback | None = None,
        on_error: ErrorCallback | None = None,
    ) -> Job:
        self._number += 1
        job = Job(self._number, method, params, on_progress, on_done, on_error)
        self._jobs[job.id] = job
        self._connect_for([job])
        return job

    def _connect(self) -> None:
        if self._connection is not None:
            return
        try:
            if self._exchange is None:
                self._exchange = Exchange()
                atexit.register(self.close)
            folder = self._exchange.files.made()
        except OSError as error:
            text = f"there is no place for temporary files: {error.strerror or error}"
            raise WorkerError("start", text) from error
        self._connection = Connection(self._command, self._environment, folder, self._hang_seconds)

    def _connect_for(self, jobs: list[Job]) -> None:
        try:
            self._connect()
        except WorkerError as error:
            for job in jobs:
                self._later(job, error)

    def _disconnect(self) -> Connection | None:
        connection, self._connection, self._kill_at = self._connection, None, None
        return connection

    def _listen(self, connection: Connection, until: float) -> None:
        while time.monotonic() < until:
            line = connection.next_line()
            if line is None:
                break
            self._log(line)
        while self._connection is connection:
            try:
                message = connection.next_message()
            except WorkerError as error:
                self._give_up(connection, error)
                return
            if message is None:
                return
            self._take(message)
            if time.monotonic() > until:
                return

    def _take(self, message: dict[str, Any]) -> None:
        params = message.get("params")
        job = self._jobs.get(message["id"]) if isinstance(message.get("id"), int) else None
        if message.get("method") == "progress" and isinstance(params, dict):
            reported = self._jobs.get(params.get("id", 0))
            if reported is not None:
                reported.report(params)
        elif message.get("method") == "log" and isinstance(params, dict):
            self._log(str(params.get("text", "")))
        elif job is not None:
            self._take_answer(job, message.get("result"), message.get("error"))

    def _take_answer(self, job: Job, result: Any, error: Any) -> None:
        job.answered = True
        if isinstance(error, dict):
            self._fail(job, error_of(error))
        elif not isinstance(result, dict):
            self._fail(job, WorkerError("protocol", "the segmentation process gave no result"))
        elif job.method == "segment" and self._exchange is not None:
            self._exchange.read_back(job, result, self._succeed, self._fail)
        else:
            self._succeed(job, result)

    def _send_what_is_ready(self, connection: Connection) -> None:
        """In the order of asking; nothing to one that has ended, so that no job is lost with it."""
        if not connection.running:
            return
        for job in self._jobs.values():
            if not (connection.ready and job.ready):
                return
            if not (job.sent or job.cancelling):
                job.sent = True
                connection.send(job.method, job.params, job.id)

    def _look_after(self, connection: Connection) -> None:
        owed = [job for job in self._jobs.values() if job.sent and not job.answered]
        try:
            status = connection.look_after(expecting=bool(owed))
        except WorkerError as error:
            self._give_up(connection, error)
            return
        if status is not None:
            why = why_it_ended(status)
            if status != 0:
                self._log(why)
            # What it never took up is given to the next: it ended, for idleness or otherwise, just
            # when it was wanted again.
            lost = [job for job in owed if job.heard or job.cancelling]
            self._replace(connection, lost, WorkerError("crashed", why, connection.tail))
        elif self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_at = None
            lost = [job for job in owed if job.cancelling]
            if lost:
                self._replace(connection, lost, cancelled())
        else:
            self._look_for_progress(owed[0] if owed else None)

    def _look_for_progress(self, job: Job | None) -> None:
        remark = self._patience.look(job, time.monotonic())
        if job is not None and remark is not None:
            self._log(remark)
            job.remark(remark)

    def _replace(self, connection: Connection, lost: list[Job], error: WorkerError) -> None:
        """End a worker; a fresh one takes over the jobs that are not lost with it."""
        self._disconnect()
        connection.kill()
        kept = [job for job in self._jobs.values() if not job.answered and job not in lost]
        for job in kept:
            job.sent, job.heard, job.restarts = False, False, job.restarts + 1
        lost = lost + [job for job in kept if job.restarts > _RESTARTS]
        kept = [job for job in kept if job.restarts <= _RESTARTS]
        if kept:
            self._connect_for(kept)
        for job in lost:
            self._fail(job, error)

    def _give_up(self, connection: Connection, error: WorkerError) -> None:
        """End a worker that is of no use, and with it all jobs."""
        self._disconnect()
        connection.kill()
        self._log(str(error))
        for job in list(self._jobs.values()):
            if not job.answered:
                self._fail(job, error)

    def _later(self, job: Job, error: WorkerError) -> None:
        """Callbacks come out of `poll` alone."""
        self._events.put(lambda: self._fail(job, error))

    def _succeed(self, job: Job, result: dict[str, Any]) -> None:
        if job.cancelling:
            self._fail(job, cancelled())
        elif self._forget(job):
            job.succeed(result)

    def _fail(self, job: Job, error: WorkerError) -> None:
        if self._forget(job):
            job.fail(cancelled() if job.cancelling else error)

    def _forget(self, job: Job) -> bool:
        if self._jobs.pop(job.id, None) is None:
            return False
        if job.method == "segment" and self._exchange is not None:
            self._exchange.release(job)
        return True

    def _log(self, text: str) -> None:
        if self._on_log is not None and text:
            self._on_log(text)

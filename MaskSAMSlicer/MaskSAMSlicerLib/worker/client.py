"""Client of the segmentation process; it never blocks the application.

Example:
    >>> client = WorkerClient(core_folder=Path("SlicerMaskSAM"))
    >>> job = client.segment(SegmentRequest([volume], "hippocampus"))
    >>> labelmap = client.wait(job).labelmap

A panel calls `poll` every 50 ms instead of `wait`, as long as `needs_polling` is true; `poll` calls
the callbacks.
"""

from __future__ import annotations

import atexit
import queue
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from MaskSAMCore.callbacks import ProgressCallback
from MaskSAMCore.worker import protocol
from MaskSAMCore.worker.protocol import (
    AdaptParams,
    AdaptResult,
    AddModelParams,
    AddModelResult,
    DevicesResult,
    KeepCorrectionsResult,
    LogMessage,
    ModelParams,
    ProgressMessage,
    ProtocolError,
    RequestError,
    SegmentResult,
    SessionParams,
    ValidationMessage,
)
from MaskSAMSlicerLib.worker.connection import Connection, StallMonitor
from MaskSAMSlicerLib.worker.jobs import (
    CorrectedCase,
    DoneCallback,
    ErrorCallback,
    ExportDicomRequest,
    Job,
    SegmentedVolume,
    SegmentRequest,
    ValidationCallback,
    WorkerError,
)
from MaskSAMSlicerLib.worker.process import describe_exit, worker_environment
from MaskSAMSlicerLib.worker.volume_transfer import Event, VolumeTransfer, run_events

__all__ = [
    "CorrectedCase",
    "ExportDicomRequest",
    "Job",
    "SegmentRequest",
    "SegmentedVolume",
    "WorkerClient",
    "WorkerError",
]

# A call of `poll` stops after this time and leaves the remaining work to the next call.
POLL_SECONDS = 0.004
# Methods whose requests refer to files of this client.
_WITH_FILES = (protocol.SEGMENT, protocol.EXPORT_DICOM, protocol.KEEP_CORRECTIONS)
# Largest number of fresh workers that a job is passed to before it fails.
_MAX_RESTARTS = 2


class WorkerClient:
    """Client of one worker process, which is started when needed and again after it has ended.

    All methods must be called on one thread. `poll` and `wait` call the callbacks on this thread.

    Args:
        python: interpreter, such as Slicer's PythonSlicer; None for the running one.
        core_folder: folder that holds the package MaskSAMCore; None if it is installed.
        environment: environment variables in addition to this process's.
        on_log: receives lines for the log.
        command: command line of the worker; None to run the package with the interpreter.
        hang_seconds: longest silence of a worker before it is killed; importing PyTorch from a slow
            disk keeps a worker silent for a while.
        start_seconds: longest silence of a starting worker; None for `hang_seconds`.
        stalled_seconds: time without progress after which the log and the job's `on_progress`
            receive a notice, although the worker answers pings.
        cancel_seconds: time for the worker to stop a cancelled job before it is killed.
        low_priority: whether the worker runs at low processor priority.
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
        start_seconds: float | None = None,
        stalled_seconds: float = 180.0,
        cancel_seconds: float = 0.7,
        low_priority: bool = False,
    ) -> None:
        self._command = list(command or (str(python or sys.executable), "-m", "MaskSAMCore.worker"))
        if low_priority:
            self._command.append("--low-priority")
        self._environment = worker_environment(core_folder, environment)
        self._on_log = on_log
        self._hang_seconds = hang_seconds
        self._start_seconds = hang_seconds if start_seconds is None else start_seconds
        self._cancel_seconds = cancel_seconds
        self._stalls = StallMonitor(stalled_seconds)
        self._jobs: dict[int, Job] = {}
        self._number = 0
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._transfer: VolumeTransfer | None = None
        self._connection: Connection | None = None
        self._killed: list[Connection] = []
        self._kill_at: float | None = None

    @property
    def running(self) -> bool:
        """True while a worker is running."""
        return self._connection is not None and self._connection.running

    @property
    def needs_polling(self) -> bool:
        """True while `poll` has work: jobs, messages, files, or a killed worker that still ends."""
        unfinished = self._jobs or self._killed or not self._events.empty()
        return bool(unfinished) or (self._transfer is not None and self._transfer.busy)

    @property
    def pid(self) -> int | None:
        """Process ID of the worker, until `poll` notices its end; None without a worker."""
        return None if self._connection is None else self._connection.pid

    @property
    def folder(self) -> Path | None:
        """Private folder for shared files; None before the first job and after `close`."""
        return None if self._transfer is None else self._transfer.files.folder

    def segment(
        self,
        request: SegmentRequest,
        on_progress: ProgressCallback | None = None,
        on_done: DoneCallback | None = None,
        on_error: ErrorCallback | None = None,
    ) -> Job:
        """Segment a volume; return at once. The result is a `SegmentedVolume`.

        The volume's voxels must not change before the first progress report, because they are
        copied until then.
        """
        job = self._submit(
            protocol.SEGMENT, None, SegmentResult.from_json, on_progress, on_done, on_error
        )
        if self._transfer is not None:
            self._transfer.send(job, request, self._fail)
        return job

    def close_session(self, session: str) -> None:
        """Close a session of the worker, and remove its files."""
        if self.running:
            self._submit(protocol.CLOSE_SESSION, SessionParams(session).to_json())
        if self._transfer is not None:
            self._transfer.files.forget_session(session)

    def devices(
        self, on_done: DoneCallback | None = None, on_error: ErrorCallback | None = None
    ) -> Job:
        """List the devices that the network can run on. The result is a `DevicesResult`."""
        return self._submit(protocol.DEVICES, {}, DevicesResult.from_json, None, on_done, on_error)

    def download(
        self,
        name: str,
        on_progress: ProgressCallback | None = None,
        on_done: DoneCallback | None = None,
        on_error: ErrorCallback | None = None,
    ) -> Job:
        """Download a model of the catalog; call it only when the user has asked for it."""
        params = ModelParams(name).to_json()
        return self._submit(protocol.DOWNLOAD, params, dict, on_progress, on_done, on_error)

    def add_model(
        self,
        path: str | Path,
        on_progress: ProgressCallback | None = None,
        on_done: DoneCallback | None = None,
        on_error: ErrorCallback | None = None,
    ) -> Job:
        """Verify a bundle or SAM weights and keep a copy. The result is an `AddModelResult`."""
        params = AddModelParams(str(Path(path).absolute())).to_json()
        return self._submit(
            protocol.ADD_MODEL, params, AddModelResult.from_json, on_progress, on_done, on_error
        )

    def export_dicom(
        self,
        request: ExportDicomRequest,
        on_progress: ProgressCallback | None = None,
        on_done: DoneCallback | None = None,
        on_error: ErrorCallback | None = None,
    ) -> Job:
        """Write a labelmap as a DICOM segmentation; return at once."""
        job = self._submit(protocol.EXPORT_DICOM, None, dict, on_progress, on_done, on_error)
        if self._transfer is not None:
            try:
                job.params = self._transfer.files.share_labelmap(job.id, request).to_json()
            except WorkerError as error:
                self._fail_later(job, error)
        return job

    def keep_corrections(
        self,
        cases: Sequence[CorrectedCase],
        folder: Path,
        channels: Sequence[str] = (),
        on_progress: ProgressCallback | None = None,
        on_done: DoneCallback | None = None,
        on_error: ErrorCallback | None = None,
    ) -> Job:
        """Add corrected cases to a folder. The result is a `KeepCorrectionsResult`.

        The voxels are copied before this method returns.

        Args:
            cases: cases to keep.
            folder: folder of the cases, which need not exist yet.
            channels: names of the channels; empty if they are unknown.
            on_progress, on_done, on_error: callbacks, see `Job`.
        """
        read = KeepCorrectionsResult.from_json
        job = self._submit(protocol.KEEP_CORRECTIONS, None, read, on_progress, on_done, on_error)
        if self._transfer is not None:
            files = self._transfer.files
            try:
                job.params = files.share_corrections(job.id, cases, folder, channels).to_json()
            except WorkerError as error:
                self._fail_later(job, error)
        return job

    def adapt(
        self,
        params: AdaptParams,
        on_progress: ProgressCallback | None = None,
        on_done: DoneCallback | None = None,
        on_error: ErrorCallback | None = None,
        on_validation: ValidationCallback | None = None,
    ) -> Job:
        """Adapt a model to corrected cases. The result is an `AdaptResult`."""
        read, values = AdaptResult.from_json, params.to_json()
        return self._submit(
            protocol.ADAPT, values, read, on_progress, on_done, on_error, on_validation
        )

    def remove_model(
        self,
        name: str,
        on_progress: ProgressCallback | None = None,
        on_done: DoneCallback | None = None,
        on_error: ErrorCallback | None = None,
    ) -> Job:
        """Remove a model that the user downloaded or added."""
        params = ModelParams(name).to_json()
        return self._submit(protocol.REMOVE_MODEL, params, dict, on_progress, on_done, on_error)

    def cancel(self) -> None:
        """Cancel all jobs; each ends with a WorkerError of the kind "cancelled"."""
        for job in self._jobs.values():
            if job.cancelling:
                continue
            job.cancelling = True
            if job.sent and self._connection is not None:
                self._connection.send(protocol.CANCEL, {"id": job.id})
                self._kill_at = time.monotonic() + self._cancel_seconds
            else:
                self._fail_later(job, WorkerError.cancelled())

    def poll(self) -> None:
        """Read the messages that have arrived and call the callbacks; return at once."""
        until = time.monotonic() + POLL_SECONDS
        run_events(self._events, until)
        if self._transfer is not None:
            run_events(self._transfer.events, until)
        self._killed = [connection for connection in self._killed if connection.running]
        connection = self._connection
        if connection is not None:
            self._read(connection, until)
        # A callback may have closed the client.
        if connection is not None and self._connection is connection:
            self._send_ready_jobs(connection)
            self._check(connection)

    def wait(
        self,
        job: Job,
        timeout: float | None = None,
        on_idle: Callable[[], None] | None = None,
    ) -> Any:
        """Poll until a job has ended, and return its result.

        Args:
            job: job to wait for.
            timeout: seconds after which all jobs are cancelled; None to wait for ever.
            on_idle: called between polls, to keep the application responsive.

        Raises:
            WorkerError: the job failed or was cancelled.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while not job.done:
            self.poll()
            if until is not None and time.monotonic() > until:
                self.cancel()
            if on_idle is not None:
                on_idle()
            if not job.done:
                time.sleep(0.01)
        if job.error is not None:
            raise job.error
        return job.result

    def close(self) -> None:
        """End the worker, remove the private folder, and cancel all jobs without any callback."""
        atexit.unregister(self.close)
        for job in list(self._jobs.values()):
            job.fail(WorkerError.cancelled(), silently=True)
        self._jobs.clear()
        connection = self._disconnect()
        if connection is not None:
            connection.close(1.0)
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            transfer.close()

    def _submit(
        self,
        method: str,
        params: dict[str, Any] | None,
        read_result: Callable[[dict[str, Any]], Any] = dict,
        on_progress: ProgressCallback | None = None,
        on_done: DoneCallback | None = None,
        on_error: ErrorCallback | None = None,
        on_validation: ValidationCallback | None = None,
    ) -> Job:
        self._number += 1
        callbacks = on_progress, on_done, on_error, on_validation
        job = Job(self._number, method, params, read_result, *callbacks)
        self._jobs[job.id] = job
        self._connect_for([job])
        return job

    def _connect(self) -> None:
        if self._connection is not None:
            return
        try:
            if self._transfer is None:
                self._transfer = VolumeTransfer()
                atexit.register(self.close)
            folder = self._transfer.files.ensure_folder()
        except OSError as error:
            text = f"there is no place for temporary files: {error.strerror or error}"
            raise WorkerError("start", text) from error
        self._connection = Connection(
            self._command, self._environment, folder, self._start_seconds, self._hang_seconds
        )

    def _connect_for(self, jobs: list[Job]) -> None:
        try:
            self._connect()
        except WorkerError as error:
            for job in jobs:
                self._fail_later(job, error)

    def _disconnect(self) -> Connection | None:
        connection, self._connection, self._kill_at = self._connection, None, None
        return connection

    def _kill(self, connection: Connection) -> None:
        """Kill a worker without waiting for its end."""
        self._disconnect()
        connection.kill()
        self._killed.append(connection)

    def _read(self, connection: Connection, until: float) -> None:
        while time.monotonic() < until:
            line = connection.next_line()
            if line is None:
                break
            self._log(line)
        while self._connection is connection:
            try:
                message = connection.next_message()
            except WorkerError as error:
                self._abandon(connection, error)
                return
            if message is None:
                return
            self._handle(connection, message)
            if time.monotonic() > until:
                return

    def _handle(self, connection: Connection, message: dict[str, Any]) -> None:
        method, number, params = message.get("method"), message.get("id"), message.get("params")
        if method in (protocol.PROGRESS, protocol.VALIDATION) and isinstance(params, dict):
            try:
                self._report(method, params)
            except ProtocolError as error:
                self._abandon(connection, WorkerError("protocol", str(error), connection.tail))
        elif method == protocol.LOG and isinstance(params, dict):
            self._log(LogMessage.from_json(params).text)
        elif isinstance(number, int) and number in self._jobs:
            self._handle_answer(self._jobs[number], message.get("result"), message.get("error"))

    def _report(self, method: str, params: dict[str, Any]) -> None:
        """Pass a report on to its job unless the job has ended.

        Raises:
            ProtocolError: the report is malformed.
        """
        number = params.get("id")
        job = self._jobs.get(number) if isinstance(number, int) else None
        if method == protocol.PROGRESS:
            progress = ProgressMessage.from_json(params)
            if job is not None:
                job.report(progress)
        else:
            validation = ValidationMessage.from_json(params)
            if job is not None:
                job.validate(validation)

    def _handle_answer(self, job: Job, result: Any, error: Any) -> None:
        job.answered = True
        if isinstance(error, dict):
            self._fail(job, WorkerError.from_answer(RequestError.from_json(error)))
            return
        try:
            if not isinstance(result, dict):
                raise ProtocolError("the segmentation process gave no result")
            result = job.read_result(result)
        except ProtocolError as wrong:
            self._fail(job, WorkerError("protocol", str(wrong)))
            return
        if job.method == protocol.SEGMENT and self._transfer is not None:
            self._transfer.receive(job, result, self._succeed, self._fail)
        else:
            self._succeed(job, result)

    def _send_ready_jobs(self, connection: Connection) -> None:
        """Send jobs in order, up to the first one that is not ready.

        A worker that has ended gets no jobs, because they would be lost.
        """
        if not connection.running:
            return
        for job in self._jobs.values():
            if not connection.ready or job.params is None:
                return
            if not (job.sent or job.cancelling):
                job.sent = True
                connection.send(job.method, job.params, job.id)

    def _check(self, connection: Connection) -> None:
        unanswered = [job for job in self._jobs.values() if job.sent and not job.answered]
        try:
            status = connection.check(expecting=bool(unanswered))
        except WorkerError as error:
            self._abandon(connection, error)
            return
        if status is not None:
            reason = describe_exit(status, connection.tail)
            if status != 0:
                self._log(reason)
            # The next worker gets the jobs that this one has not started, because a worker may
            # end, for example after idling, just when a job is sent.
            lost = [job for job in unanswered if job.started or job.cancelling]
            self._replace(connection, lost, WorkerError("crashed", reason, connection.tail))
        elif self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_at = None
            lost = [job for job in unanswered if job.cancelling]
            if lost:
                self._replace(connection, lost, WorkerError.cancelled())
        else:
            self._check_progress(unanswered[0] if unanswered else None)

    def _check_progress(self, job: Job | None) -> None:
        notice = self._stalls.check(job, time.monotonic())
        if job is not None and notice is not None:
            self._log(notice)
            job.remark(notice)

    def _replace(self, connection: Connection, lost: list[Job], error: WorkerError) -> None:
        """End a worker, fail the lost jobs, and give the other jobs to a fresh worker."""
        self._kill(connection)
        kept = [job for job in self._jobs.values() if not job.answered and job not in lost]
        for job in kept:
            job.sent, job.started, job.restarts = False, False, job.restarts + 1
        lost = lost + [job for job in kept if job.restarts > _MAX_RESTARTS]
        kept = [job for job in kept if job.restarts <= _MAX_RESTARTS]
        if kept:
            self._connect_for(kept)
        for job in lost:
            self._fail(job, error)

    def _abandon(self, connection: Connection, error: WorkerError) -> None:
        """End a faulty worker, and fail all jobs."""
        self._kill(connection)
        self._log(str(error))
        for job in list(self._jobs.values()):
            if not job.answered:
                self._fail(job, error)

    def _fail_later(self, job: Job, error: WorkerError) -> None:
        """Fail a job in the next `poll`, because only `poll` calls callbacks."""
        self._events.put(lambda: self._fail(job, error))

    def _succeed(self, job: Job, result: Any) -> None:
        if job.cancelling:
            self._fail(job, WorkerError.cancelled())
        elif self._remove(job):
            job.succeed(result)

    def _fail(self, job: Job, error: WorkerError) -> None:
        if self._remove(job):
            job.fail(WorkerError.cancelled() if job.cancelling else error)

    def _remove(self, job: Job) -> bool:
        if self._jobs.pop(job.id, None) is None:
            return False
        if job.method in _WITH_FILES and self._transfer is not None:
            self._transfer.release(job)
        return True

    def _log(self, text: str) -> None:
        if self._on_log is not None and text:
            self._on_log(text)

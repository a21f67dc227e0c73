"""Server of the worker process: one thread reads and answers at once, another runs the jobs."""

from __future__ import annotations

import argparse
import gc
import os
import queue
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from MaskSAMCore import __version__
from MaskSAMCore.allocation import keep_freed_memory, reserve_matrix_buffers
from MaskSAMCore.worker import protocol, shared_files
from MaskSAMCore.worker.cache import LoadSegmenter, ModelCache, load_segmenter
from MaskSAMCore.worker.failures import as_request_error
from MaskSAMCore.worker.jobs import JOBS, JobContext
from MaskSAMCore.worker.protocol import (
    PROTOCOL_VERSION,
    ErrorCode,
    InitializeParams,
    InitializeResult,
    LogMessage,
    ProgressMessage,
    Request,
    RequestError,
    ValidationMessage,
    encode_line,
)

# Time for a job to remove its files after the client has closed the pipe.
_SECONDS_TO_CLEAN_UP = 0.5
# Longest time to finish keeping corrections, of which a client that crashed has no other copy.
_SECONDS_TO_KEEP = 300.0
# Increment of the niceness of a low-priority worker; the highest niceness is 19.
_NICENESS = 10


class Channel:
    """Output of the worker; any thread may send messages, which are written whole."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def notify(self, message: ProgressMessage | ValidationMessage | LogMessage) -> None:
        """Send a notification."""
        self._send({"method": message.method, "params": message.to_json()})

    def answer(self, number: int | str, result: Mapping[str, Any]) -> None:
        """Answer a request."""
        self._send({"id": number, "result": result})

    def fail(self, number: int | str | None, error: RequestError) -> None:
        """Answer a request with an error."""
        self._send({"id": number, "error": error.to_json()})

    def _send(self, message: dict[str, Any]) -> None:
        line = encode_line(message)
        with self._lock:
            try:
                self._stream.write(line)
                self._stream.flush()
            except OSError:
                # The client has closed the pipe; the reading thread ends the process.
                return


class Server:
    """Server of one client, which ends the process when the client is gone or idle for long.

    Args:
        reader: stream of the client's messages.
        channel: output for answers and notifications.
        idle_seconds: seconds without a job after which the process ends.
        models: cache of models and sessions.
    """

    def __init__(
        self, reader: BinaryIO, channel: Channel, idle_seconds: float, models: ModelCache
    ) -> None:
        self._reader = reader
        self._channel = channel
        self._idle_seconds = idle_seconds
        self._models = models
        self._folder: Path | None = None
        self._waiting: queue.Queue[JobContext] = queue.Queue()
        self._lock = threading.Lock()
        self._pending: dict[int | str, JobContext] = {}
        self._restart_needed = False
        self._running: JobContext | None = None
        self._idle = threading.Event()
        self._job_thread = threading.Thread(target=self._run_jobs, name="jobs", daemon=True)

    def serve(self) -> None:
        """Read messages until the client closes its end; then end the process."""
        self._job_thread.start()
        for line in self._reader:
            if line.strip():
                self._receive(line)
        # Without a shutdown request the client has crashed, and cannot remove its folder.
        self._exit(self._folder)

    def _receive(self, line: bytes) -> None:
        number = None
        try:
            request = Request.from_line(line)
            number = request.id
            self._dispatch(request)
        except Exception as error:
            self._channel.fail(number, as_request_error(error))

    def _dispatch(self, request: Request) -> None:
        if request.method == protocol.CANCEL:
            self._cancel(request.params.get("id"))
        elif request.id is None:
            return  # an unknown notification, from a newer client, needs no answer
        elif request.method == protocol.PING:
            self._channel.answer(request.id, {})
        elif request.method == protocol.INITIALIZE:
            result = self._initialize(InitializeParams.from_json(request.params))
            self._channel.answer(request.id, result.to_json())
        elif request.method == protocol.SHUTDOWN:
            self._channel.answer(request.id, {})
            self._exit()
        elif request.method in JOBS:
            job = JobContext(request, self._models, self._channel.notify)
            with self._lock:
                if job.id in self._pending:
                    text = f"the id {job.id} is in use"
                    raise RequestError(ErrorCode.INVALID_REQUEST, text)
                self._pending[job.id] = job
            self._waiting.put(job)
        else:
            text = f"there is no method '{request.method}'"
            raise RequestError(ErrorCode.METHOD_NOT_FOUND, text)

    def _initialize(self, params: InitializeParams) -> InitializeResult:
        if params.protocol != PROTOCOL_VERSION:
            raise RequestError(
                ErrorCode.OTHER_PROTOCOL,
                f"MaskSAM {__version__} uses protocol {PROTOCOL_VERSION}, its client protocol"
                f" {params.protocol}: update the older of the two",
            )
        if params.folder is not None:
            self._folder = Path(params.folder)
            if self._folder.is_dir():
                # Embeddings that exceed the memory go to the client's folder: it is private, and
                # removed with the client.
                tempfile.tempdir = str(self._folder)
                shared_files.remove_embeddings(self._folder)
        return InitializeResult(PROTOCOL_VERSION, __version__, os.getpid())

    def _cancel(self, number: Any) -> None:
        with self._lock:
            job = self._pending.get(number)
            if job is None:
                return
            job.stop.set()
            waiting = job is not self._running
            if waiting:
                del self._pending[number]
        if waiting:
            self._channel.fail(number, RequestError(ErrorCode.CANCELLED, "cancelled"))

    def _run_jobs(self) -> None:
        while not self._restart_needed:
            try:
                job = self._waiting.get(timeout=self._idle_seconds)
            except queue.Empty:
                break
            with self._lock:
                if self._pending.get(job.id) is not job:
                    continue  # cancelled while it waited; another job may have its id by now
                self._running = job
                self._idle.clear()
            self._run(job)
        self._exit()

    def _run(self, job: JobContext) -> None:
        failure = None
        try:
            result = JOBS[job.method](job)
        except BaseException as error:
            failure = as_request_error(error)
        try:
            self._free_memory(failure)
        except Exception as error:
            # A device in a bad state may fail here too: the answer is still sent, but the next job
            # needs another process.
            self._channel.notify(LogMessage(f"cannot free memory: {error}", "error"))
            self._restart_needed = True
        # The job is removed before the answer is sent, so that the next request may have its id.
        with self._lock:
            self._running = None
            self._pending.pop(job.id, None)
        self._idle.set()
        if failure is None:
            self._channel.answer(job.id, result)
        else:
            if failure.traceback:
                self._channel.notify(LogMessage(failure.traceback, "error"))
            self._channel.fail(job.id, failure)

    def _free_memory(self, failure: RequestError | None) -> None:
        """Enforce the memory limit after a job; drop all models and sessions if memory ran out."""
        if failure is not None and failure.code == ErrorCode.OUT_OF_MEMORY:
            self._models.clear()
        elif failure is not None and failure.code == ErrorCode.INTERNAL_ERROR:
            self._models.close_sessions()  # they may be in any state
        elif "torch" in sys.modules:
            self._models.trim()
        if failure is not None:
            gc.collect()  # frames of the traceback hold volumes and thereby their files

    def _exit(self, folder: Path | None = None) -> None:
        """End the process without leaving unfinished files.

        Args:
            folder: folder to remove for a client that crashed, or None.
        """
        with self._lock:
            running = self._running
        if running is not None:
            if folder is not None and running.method == protocol.KEEP_CORRECTIONS:
                self._idle.wait(_SECONDS_TO_KEEP)
            running.stop.set()
            self._idle.wait(_SECONDS_TO_CLEAN_UP)
        shared_files.remove_unfinished()
        if self._folder is not None:
            shared_files.remove_embeddings(self._folder)
        if folder is not None:
            shared_files.remove_client_folder(folder)
        os._exit(0)


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return private copies of stdin and stdout, and redirect the standard ones.

    Any other reader of stdin then finds it empty, and output of libraries goes to stderr. On
    Windows this also keeps libraries that look at stdin from waiting for the thread that reads it.
    """
    sys.stdout.flush()
    reader, writer = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return reader, writer


def lower_priority() -> None:
    """Lower the priority of this process, so that other programs get the processor first."""
    if sys.platform == "win32":
        import psutil

        psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
    else:
        os.nice(_NICENESS)


def main(load: LoadSegmenter = load_segmenter) -> None:
    """Run the worker.

    Args:
        load: function that loads the segmenter of a model on a device.
    """
    parser = argparse.ArgumentParser(prog="python -m MaskSAMCore.worker", description=__doc__)
    parser.add_argument("--idle-minutes", type=float, default=15.0)
    parser.add_argument("--memory-gib", type=float, default=4.0)
    parser.add_argument("--low-priority", action="store_true")
    options = parser.parse_args()
    if options.low_priority:
        lower_priority()
    keep_freed_memory()
    reserve_matrix_buffers()
    reader, writer = take_pipes()
    # Windows cannot remove a folder that is the current folder of a process.
    os.chdir(Path(sys.executable).anchor)
    models = ModelCache(int(options.memory_gib * 2**30), load)
    Server(reader, Channel(writer), options.idle_minutes * 60, models).serve()

"""The worker's two threads: one reads and is always responsive, the other works."""

from __future__ import annotations

import argparse
import gc
import os
import queue
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, BinaryIO

from MaskSAMCore import __version__
from MaskSAMCore.worker import shared_files as sharing
from MaskSAMCore.worker.cache import Warm
from MaskSAMCore.worker.jobs import JOBS, Work
from MaskSAMCore.worker.protocol import (
    CANCELLED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    OTHER_PROTOCOL,
    OUT_OF_MEMORY,
    PROTOCOL,
    Channel,
    Request,
    RequestError,
    as_request_error,
    read_request,
)

# What a job gets to tidy up its own files once the client is gone.
_SECONDS_TO_TIDY = 0.5


class Server:
    """Serves one client, until it is gone or has been silent for long.

    Args:
        reader: the client's messages.
        channel: the way back.
        idle_seconds: without any job for so long the process ends.
        memory: bytes that models and sessions may hold between requests.
    """

    def __init__(
        self, reader: BinaryIO, channel: Channel, idle_seconds: float, memory: int
    ) -> None:
        self._reader = reader
        self._channel = channel
        self._idle_seconds = idle_seconds
        self._warm = Warm(memory)
        self._folder: Path | None = None
        self._waiting: queue.Queue[Request] = queue.Queue()
        self._lock = threading.Lock()
        self._pending: dict[int | str, Request] = {}
        self._spoilt = False
        self._running: Request | None = None
        self._idle = threading.Event()
        self._worker = threading.Thread(target=self._work, name="jobs", daemon=True)

    def serve(self) -> None:
        """Read until the client closes its end; then end the process."""
        self._worker.start()
        for line in self._reader:
            if line.strip():
                self._receive(line)
        # Closed without a goodbye: the client crashed, and with it went the owner of its folder.
        self._leave(self._folder)

    def _receive(self, line: bytes) -> None:
        number = None
        try:
            request = read_request(line)
            number = request.id
            self._dispatch(request)
        except RequestError as error:
            self._channel.fail(number, error)
        except Exception as error:
            self._channel.fail(number, as_request_error(error))

    def _dispatch(self, request: Request) -> None:
        if request.method == "cancel":
            self._cancel(request.params.get("id"))
        elif request.id is None:
            return  # a notification that is not known: from a newer client, of no consequence
        elif request.method == "ping":
            self._channel.answer(request.id, {})
        elif request.method == "initialize":
            self._channel.answer(request.id, self._initialized(request.params))
        elif request.method == "shutdown":
            self._channel.answer(request.id, {})
            self._leave()
        elif request.method in JOBS:
            with self._lock:
                if request.id in self._pending:
                    raise RequestError(INVALID_REQUEST, f"the id {request.id} is in use")
                self._pending[request.id] = request
            self._waiting.put(request)
        else:
            raise RequestError(METHOD_NOT_FOUND, f"there is no method '{request.method}'")

    def _initialized(self, params: Any) -> dict[str, Any]:
        if params.get("protocol") != PROTOCOL:
            raise RequestError(
                OTHER_PROTOCOL,
                f"MaskSAM {__version__} speaks protocol {PROTOCOL}, its caller protocol"
                f" {params.get('protocol')}: update the older of the two",
            )
        if params.get("folder"):
            self._folder = Path(str(params["folder"]))
            if self._folder.is_dir():
                # Embeddings that exceed the memory: private, and gone when the client is.
                tempfile.tempdir = str(self._folder)
                sharing.remove_embeddings(self._folder)
        return {"protocol": PROTOCOL, "version": __version__, "pid": os.getpid()}

    def _cancel(self, number: Any) -> None:
        with self._lock:
            request = self._pending.get(number)
            if request is None:
                return
            request.stop.set()
            waits = request is not self._running
            if waits:
                del self._pending[number]
        if waits:
            self._channel.fail(number, RequestError(CANCELLED, "cancelled"))

    def _work(self) -> None:
        while True:
            try:
                request = self._waiting.get(timeout=self._idle_seconds)
            except queue.Empty:
                self._leave()
                return
            with self._lock:
                if request.id is None or self._pending.get(request.id) is not request:
                    continue  # cancelled while it waited; its id may be another's by now
                self._running = request
                self._idle.clear()
            failure = None
            try:
                result = JOBS[request.method](Work(request, self._channel, self._warm))
            except BaseException as error:
                failure = as_request_error(error)
            try:
                self._tidy(failure)
            except Exception as error:
                # A device in a bad state can refuse even that: the answer must go out all the same,
                # and the next job needs another process.
                self._channel.notify("log", level="error", text=f"cannot tidy up: {error}")
                self._spoilt = True
            # Before the answer, so that a request sent upon it may use the same id.
            with self._lock:
                self._running = None
                self._pending.pop(request.id, None)
            self._idle.set()
            if failure is not None and failure.data is not None:
                text = str(failure.data.get("traceback", ""))
                self._channel.notify("log", level="error", text=text)
            if failure is None:
                self._channel.answer(request.id, result)
            else:
                self._channel.fail(request.id, failure)
            if self._spoilt:
                self._leave()
                return

    def _tidy(self, failure: RequestError | None) -> None:
        """Keep within the bound; after memory ran out, keep nothing."""
        if failure is not None and failure.code == OUT_OF_MEMORY:
            self._warm.forget()
        elif failure is not None and failure.code == INTERNAL_ERROR:
            self._warm.forget_sessions()  # they may be in any state
        elif "torch" in sys.modules:
            self._warm.trim()
        if failure is not None:
            gc.collect()  # frames of the traceback hold volumes, and these their files

    def _leave(self, folder: Path | None = None) -> None:
        """End the process, with nothing half-written left."""
        with self._lock:
            running = self._running
        if running is not None:
            running.stop.set()
            self._idle.wait(_SECONDS_TO_TIDY)
        sharing.discard_unfinished()
        if self._folder is not None:
            sharing.remove_embeddings(self._folder)
        if folder is not None:
            sharing.remove_folder(folder)
        os._exit(0)


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Private copies of stdin and stdout.

    What anything else reads from stdin is then empty, and what it prints goes to stderr. On Windows
    this also keeps libraries that look at stdin from waiting for the thread that reads it.
    """
    sys.stdout.flush()
    reader, writer = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return reader, writer


def main() -> None:
    """Run the worker."""
    parser = argparse.ArgumentParser(prog="python -m MaskSAMCore.worker", description=__doc__)
    parser.add_argument("--idle-minutes", type=float, default=15.0)
    parser.add_argument("--memory-gib", type=float, default=4.0)
    options = parser.parse_args()
    reader, writer = take_pipes()
    # Windows cannot remove the folder that a process stands in.
    os.chdir(Path(sys.executable).anchor)
    memory = int(options.memory_gib * 2**30)
    Server(reader, Channel(writer), options.idle_minutes * 60, memory).serve()

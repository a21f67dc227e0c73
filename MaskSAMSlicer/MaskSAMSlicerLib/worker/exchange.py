"""The slow part of handing volumes over, on threads, so that the caller is never kept waiting."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from MaskSAMSlicerLib.worker.files import SharedFiles, remove_abandoned
from MaskSAMSlicerLib.worker.jobs import Job, SegmentRequest, WorkerError

Event = Callable[[], None]


class Exchange:
    """Writes volumes, reads labelmaps and removes files in the background.

    Attributes:
        events: what is to be done on the caller's thread, next time it polls.

    Raises:
        OSError: there is no place for files.
    """

    def __init__(self) -> None:
        self.files = SharedFiles()
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._in_thread(remove_abandoned)

    def share(
        self, job: Job, request: SegmentRequest, on_error: Callable[[Job, WorkerError], None]
    ) -> None:
        """Write a job's volumes; it is then ready to be sent."""

        def work() -> None:
            try:
                shared = self.files.share(job.id, request, lambda: job.done or job.cancelling)
            except Exception as error:
                failure = _as_worker_error(error, "this volume cannot be handed over")
                self.events.put(lambda: on_error(job, failure))
            else:
                job.params.update(shared)
                job.ready = True
            if job.done:
                self.files.release(job.id)

        job.ready = False
        self._in_thread(work)

    def read_back(
        self,
        job: Job,
        result: dict[str, Any],
        on_done: Callable[[Job, dict[str, Any]], None],
        on_error: Callable[[Job, WorkerError], None],
    ) -> None:
        """Read a result's labelmap into memory."""

        def work() -> None:
            try:
                whole = {**result, "labelmap": self.files.read_labelmap(result["labelmap"])}
            except Exception as error:
                failure = _as_worker_error(error, "the labelmap cannot be read")
                self.events.put(lambda: on_error(job, failure))
            else:
                self.events.put(lambda: on_done(job, whole))

        self._in_thread(work)

    def release(self, job: Job) -> None:
        """Remove the files of a job that has ended, but for a session's."""
        self._in_thread(lambda: self.files.release(job.id))

    def forget_session(self, session: str) -> None:
        """Remove the files of a session."""
        self._in_thread(lambda: self.files.forget_session(session))

    def close(self) -> None:
        """Wait for what runs, for a short time, and remove everything."""
        self._closed = True
        for thread in self._threads:
            thread.join(2.0)
        self.files.remove()

    def _in_thread(self, work: Event) -> None:

        def run() -> None:
            work()
            if self._closed:
                self.files.remove()  # again: it may have written meanwhile

        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=run, name="masksam files", daemon=True)
        self._threads.append(thread)
        thread.start()


def run_events(events: queue.SimpleQueue[Event], until: float) -> None:
    """Do what is to be done, as far as the time allows."""
    while time.monotonic() < until:
        try:
            event = events.get_nowait()
        except queue.Empty:
            return
        event()


def _as_worker_error(error: Exception, what: str) -> WorkerError:
    if isinstance(error, WorkerError):
        return error
    return WorkerError("internal", f"{what}: {error or type(error).__name__}")

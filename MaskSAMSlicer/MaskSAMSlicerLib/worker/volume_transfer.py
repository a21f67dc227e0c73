"""Background transfer of volumes to the worker and of labelmaps back."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from MaskSAMCore.worker.protocol import SegmentResult
from MaskSAMSlicerLib.worker.jobs import Job, SegmentedVolume, SegmentRequest, WorkerError
from MaskSAMSlicerLib.worker.private_folder import remove_abandoned
from MaskSAMSlicerLib.worker.shared_files import SharedFiles

Event = Callable[[], None]


class VolumeTransfer:
    """Threads that write volumes and read labelmaps.

    Files are removed on the client's thread, because other threads may not advance in Slicer.

    Attributes:
        files: files of the client's private folder.
        events: callbacks for the client's thread, which calls them when it polls.

    Raises:
        OSError: there is no place for temporary files.
    """

    def __init__(self) -> None:
        self.files = SharedFiles()
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._sending: set[int] = set()
        self._closed = False
        self._in_thread(remove_abandoned)

    @property
    def busy(self) -> bool:
        """True while a volume is being written, or a callback waits."""
        return bool(self._sending) or not self.events.empty()

    def send(
        self, job: Job, request: SegmentRequest, on_error: Callable[[Job, WorkerError], None]
    ) -> None:
        """Write the volumes of a request; its job is ready once they are complete."""

        def work() -> None:
            try:
                params = self.files.share(job.id, request, lambda: job.done or job.cancelling)
            except Exception as error:
                failure = _as_worker_error(error, "this volume cannot be passed on")
                self.events.put(lambda: on_error(job, failure))
            else:
                job.params = params.to_json()
            self.events.put(lambda: self._sent(job))

        self._sending.add(job.id)
        self._in_thread(work)

    def receive(
        self,
        job: Job,
        result: SegmentResult,
        on_done: Callable[[Job, SegmentedVolume], None],
        on_error: Callable[[Job, WorkerError], None],
    ) -> None:
        """Read the labelmap of a result into memory."""

        def work() -> None:
            try:
                labelmap = self.files.read_labelmap(result.labelmap_file)
                whole = SegmentedVolume(**vars(result), labelmap=labelmap)
            except Exception as error:
                failure = _as_worker_error(error, "the labelmap cannot be read")
                self.events.put(lambda: on_error(job, failure))
            else:
                self.events.put(lambda: on_done(job, whole))

        self._in_thread(work)

    def release(self, job: Job) -> None:
        """Remove the files of a job that has ended, except those of a session."""
        # A file that is still being written is removed once it is complete.
        if job.id not in self._sending:
            self.files.release(job.id)

    def _sent(self, job: Job) -> None:
        self._sending.discard(job.id)
        if job.done:
            self.files.release(job.id)

    def close(self) -> None:
        """Wait a short time for the threads, and remove all files."""
        self._closed = True
        for thread in self._threads:
            thread.join(2.0)
        self.files.remove()

    def _in_thread(self, work: Event) -> None:

        def run() -> None:
            work()
            if self._closed:
                self.files.remove()  # the thread may have written a file after `close` removed all

        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=run, name="masksam files", daemon=True)
        self._threads.append(thread)
        thread.start()


def run_events(events: queue.SimpleQueue[Event], until: float) -> None:
    """Call the waiting callbacks until the monotonic clock reaches a time."""
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

"""Run over many cases on the workers of a Dask cluster.

Dask starts and restarts the workers, sends them the cases and notices the loss of a worker. The
client chooses the worker of each case, so that it knows which cases a lost worker was segmenting;
Dask itself would also blame cases that were still waiting on the worker.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from MaskSAMCore.cohort.case import Case, ImageSource
from MaskSAMCore.cohort.case_run import CaseSettings
from MaskSAMCore.cohort.dask_cluster import interrupts_handled
from MaskSAMCore.cohort.dask_worker import WorkerSettings, prepare, segment_case
from MaskSAMCore.cohort.record import CaseRecord
from MaskSAMCore.cohort.run import Watcher
from MaskSAMCore.cohort.table import CaseTable
from MaskSAMCore.errors import MaskSAMError, describe

if TYPE_CHECKING:
    from distributed import Client, Future

# Number of tries of a case whose worker is lost.
_TRIES = 2
# Number of workers lost while loading the model that ends a run without any ready worker.
_LOST_UNPREPARED = 3
# Seconds between checks of the cluster's workers.
_POLL_SECONDS = 0.5
# A record is small; it takes longer to arrive only if its worker is lost.
_RESULT_SECONDS = 30
_NO_WORKER_SECONDS = 10.0
# Least time between two attempts to replace processes on this computer.
_SCALE_SECONDS = 30.0
_GIVEN_UP = (
    f"its worker process ended {_TRIES} times while it was segmented, for example because the"
    " memory ran out: segment it on a computer with more memory"
)


@dataclass
class _Attempt:
    """A case to segment.

    Attributes:
        case: the case.
        lost: number of workers that were lost while they segmented the case.
    """

    case: Case
    lost: int = 0


@dataclass(frozen=True)
class _Task:
    """Work assigned to a worker.

    Attributes:
        worker: address of the worker.
        attempt: the case; None while the worker loads the model.
    """

    worker: str
    attempt: _Attempt | None = None


class DaskRun:
    """A run on the workers of a cluster.

    Workers that join later are used, and the work of a lost worker is done again. A case whose
    worker was lost is tried once more, alone on a worker, after all others.

    Args:
        client: client of the cluster.
        model: settings of the workers.
        settings: settings of the cases.
        table: table of the run.
        watcher: receiver of the progress.
        keep_going: whether the run goes on after an error of a case.
    """

    def __init__(
        self,
        client: Client,
        model: WorkerSettings,
        settings: CaseSettings,
        table: CaseTable,
        watcher: Watcher,
        keep_going: bool,
    ) -> None:
        self._client = client
        self._model = model
        self._settings = settings
        self._table = table
        self._watcher = watcher
        self._keep_going = keep_going
        self._waiting: deque[_Attempt] = deque()
        self._running: dict[Future, _Task] = {}
        self._finished: SimpleQueue[Future | None] = SimpleQueue()
        self._ready: set[str] = set()
        self._lost_unprepared = 0
        self._scaled = float("-inf")
        self._records: list[CaseRecord] = []
        self._cases = 0

    def run(self, cases: Sequence[Case]) -> list[CaseRecord]:
        """Segment cases, add the row of each to the table, and return their records.

        Raises:
            MaskSAMError: a worker has another version of the software or of the model, or cannot
                load the model; the scheduler is lost; or a case failed and the run does not keep
                going.
        """
        self._cases = len(cases)
        self._waiting.extend(map(_Attempt, cases))
        seen = time.monotonic()
        try:
            with interrupts_handled(lambda: self._finished.put(None)):
                while len(self._records) < self._cases:
                    threads = self._threads()
                    if threads:
                        seen = time.monotonic()
                    elif time.monotonic() - seen > _NO_WORKER_SECONDS:
                        seen = float("inf")
                        self._watcher.message("Waiting for a Dask worker")
                    self._replace_lost_processes()
                    self._take_back(threads)
                    self._prepare(threads)
                    self._place(threads)
                    self._collect()
        finally:
            self._client.cancel(list(self._running))
        return self._records

    def _threads(self) -> dict[str, int]:
        """Return the number of threads of each worker by its address.

        Raises:
            MaskSAMError: the scheduler does not answer.
        """
        try:
            found: dict[str, int] = self._client.nthreads()
        except (OSError, RuntimeError) as error:
            raise MaskSAMError(
                "the Dask scheduler was lost: start it again, and add --skip-existing to continue"
            ) from error
        return found

    def _replace_lost_processes(self) -> None:
        """Replace the processes on this computer that Dask has given up restarting."""
        cluster = self._client.cluster
        if cluster is None or len(cluster.workers) >= len(cluster.worker_spec):
            return
        if time.monotonic() - self._scaled > _SCALE_SECONDS:
            self._scaled = time.monotonic()
            cluster.scale(len(cluster.worker_spec))

    def _take_back(self, threads: dict[str, int]) -> None:
        """Take back the work of lost workers."""
        self._ready &= threads.keys()
        for future, task in list(self._running.items()):
            if task.worker not in threads:
                self._lose(future)

    def _lose(self, future: Future) -> None:
        task = self._running.pop(future)
        future.cancel()
        attempt = task.attempt
        if attempt is None:
            self._lost_unprepared += 1
            if self._lost_unprepared >= _LOST_UNPREPARED and not self._ready:
                raise MaskSAMError(
                    "Dask's workers end while they load the model: give them more memory"
                )
            return
        attempt.lost += 1
        if attempt.lost < _TRIES:
            self._waiting.append(attempt)
        else:
            self._finish(attempt.case, CaseRecord(attempt.case.name, "failed", _GIVEN_UP))

    def _prepare(self, threads: dict[str, int]) -> None:
        """Load the model on new workers."""
        known = self._ready | {task.worker for task in self._running.values()}
        for worker in threads.keys() - known:
            self._submit(_Task(worker), prepare, self._model)

    def _place(self, threads: dict[str, int]) -> None:
        """Send waiting cases to workers with free threads."""
        work: dict[str, list[_Attempt]] = {worker: [] for worker in self._ready}
        for task in self._running.values():
            if task.attempt is not None:
                work[task.worker].append(task.attempt)
        while self._waiting:
            attempt = self._waiting[0]
            free = [
                worker
                for worker, present in work.items()
                if not present
                or (len(present) < threads[worker] and not any(a.lost for a in [*present, attempt]))
            ]
            if not free:
                return
            worker = min(free, key=lambda one: len(work[one]))
            work[worker].append(self._waiting.popleft())
            self._start(attempt, worker)

    def _start(self, attempt: _Attempt, worker: str) -> None:
        case, settings = attempt.case, self._settings
        self._table.add(CaseRecord(case.name, "started", inputs=case.paths, output=case.output))
        self._watcher.started(case.name)
        self._show()
        if attempt.lost:
            # The worker may have been lost after it had written the outputs.
            settings = replace(settings, overwrite=True)
        task = _Task(worker, attempt)
        self._submit(task, segment_case, self._model, _absolute(case), settings)

    def _submit(self, task: _Task, function: object, *arguments: object) -> None:
        future = self._client.submit(
            function, *arguments, workers=[task.worker], pure=False, retries=0
        )
        self._running[future] = task
        future.add_done_callback(self._finished.put)

    def _collect(self) -> None:
        """Receive finished work; wait no longer than until the next check of the workers.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM was received.
        """
        try:
            futures = [self._finished.get(timeout=_POLL_SECONDS)]
            while not self._finished.empty():
                futures.append(self._finished.get())
        except Empty:
            return
        for future in futures:
            if future is None:
                raise KeyboardInterrupt
            # Work that was taken back is also reported, as a cancelled future.
            if future in self._running:
                self._receive(future)

    def _receive(self, future: Future) -> None:
        from distributed import CancelledError, KilledWorker, TimeoutError

        task = self._running[future]
        try:
            record = future.result(timeout=_RESULT_SECONDS)
        except (TimeoutError, CancelledError, KilledWorker):
            self._lose(future)
            return
        except MaskSAMError as error:
            raise MaskSAMError(
                f"the Dask worker at {task.worker} cannot be used: {error}"
            ) from error
        except Exception as error:
            raise MaskSAMError(
                f"the Dask worker at {task.worker} cannot run this version of MaskSAM"
                f" ({describe(error)}): install {self._model.software} there"
            ) from error
        del self._running[future]
        if task.attempt is None:
            self._ready.add(task.worker)
        else:
            self._finish(task.attempt.case, record)

    def _finish(self, case: Case, record: CaseRecord) -> None:
        record = replace(record, inputs=case.paths, output=case.output)
        self._table.add(record)
        self._records.append(record)
        self._watcher.finished(record)
        self._show()
        if record.status == "failed" and not self._keep_going:
            raise MaskSAMError(record.reason)

    def _show(self) -> None:
        workers = len({task.worker for task in self._running.values()} | self._ready)
        stage = f"{workers} workers" if workers != 1 else "1 worker"
        self._watcher.progress(stage, len(self._records) / self._cases, None)


def _absolute(case: Case) -> Case:
    """Return a case with absolute paths, because workers may have another working folder."""
    images = tuple(
        ImageSource(image.path.absolute(), tuple(file.absolute() for file in image.files))
        for image in case.images
    )
    return replace(case, images=images, output=case.output.absolute())

"""Work of a Dask worker: reading, segmenting and writing cases with one model that stays loaded."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

from MaskSAMCore.allocation import keep_freed_memory
from MaskSAMCore.cohort.case import Case
from MaskSAMCore.cohort.case_run import SOFTWARE, CaseRun, CaseSettings
from MaskSAMCore.cohort.record import CaseRecord
from MaskSAMCore.cohort.threads import limit_threads
from MaskSAMCore.cohort.warm_model import WarmModel
from MaskSAMCore.errors import MaskSAMError

# A worker may have several threads: one case is read or written while another is segmented.
_segmenting = Lock()


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of all workers of a run.

    Attributes:
        model: name of the model in the catalog, or path of its bundle.
        version: first digits of the SHA-256 of the model's weights.
        device: device for the model, see :meth:`Segmenter.from_model`.
        threads: CPU cores to use; None for as many as the worker was started with.
        folder: folder of the outputs.
        software: name and version of the software.
    """

    model: str
    version: str
    device: str
    threads: int | None
    folder: Path
    software: str = SOFTWARE


def dask_setup(worker: object) -> None:
    """Ignore Ctrl-C in a worker process on this computer; Dask calls this when the process starts.

    Ctrl-C reaches all processes of a terminal, but only the client decides how the run ends.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def prepare(settings: WorkerSettings) -> None:
    """Load the model on a worker.

    Raises:
        MaskSAMError: the worker has another version of the software or of the model, cannot load
            the model, or does not see the folder of the outputs.
    """
    if settings.software != SOFTWARE:
        raise MaskSAMError(f"it has {SOFTWARE}, but this run needs {settings.software}")
    if not settings.folder.is_dir():
        raise MaskSAMError(
            f"it does not see {settings.folder}: start it where the folders of the run are mounted"
        )
    _model_of(settings)


def segment_case(settings: WorkerSettings, case: Case, case_settings: CaseSettings) -> CaseRecord:
    """Read, segment and write a case, and return its record; an error becomes a failed record."""
    model = _model_of(settings)
    run = CaseRun(case, case_settings)
    run.read()
    with _segmenting:
        run.segment(model.segmenter)
        model.restore(run.error)
    run.write()
    return run.record


def _model_of(settings: WorkerSettings) -> WarmModel:
    return _warm_model(settings.model, settings.version, settings.device, settings.threads)


@lru_cache(maxsize=1)
def _warm_model(name: str, version: str, device: str, threads: int | None) -> WarmModel:
    from MaskSAMCore.inference import Segmenter

    keep_freed_memory()
    if threads is not None:
        limit_threads(threads)
    model = WarmModel(lambda: Segmenter.from_model(name, device))
    found = model.segmenter.version
    if found != version:
        raise MaskSAMError(f"its model {name} has version {found}, but this run needs {version}")
    return model

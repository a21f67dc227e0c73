"""Requests to the worker, their results and errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from MaskSAMCore.callbacks import ProgressCallback
from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.labels import Label
from MaskSAMCore.worker.protocol import (
    ErrorCode,
    ProgressMessage,
    RequestError,
    SegmentResult,
    ValidationMessage,
)

DoneCallback = Callable[[Any], None]
# Arguments: minutes of learning, and the mean Dice on held-out cases.
ValidationCallback = Callable[[float, float], None]
ErrorCallback = Callable[["WorkerError"], None]

_KINDS = {
    ErrorCode.REFUSED: "refused",
    ErrorCode.OTHER_PROTOCOL: "protocol",
    ErrorCode.CANCELLED: "cancelled",
    ErrorCode.OUT_OF_MEMORY: "memory",
    ErrorCode.CANNOT_RESUME: "changed",
    ErrorCode.INTERNAL_ERROR: "internal",
}


class WorkerError(Exception):
    """Error of a job, with a message of one line for the user.

    Attributes:
        kind: "refused" (the user can correct it), "changed" (the model or the cases of an
            interrupted learning have changed, so that it cannot be resumed), "cancelled", "memory",
            "protocol" (the worker is of another version, or not MaskSAM at all), "crashed",
            "internal" (a fault of MaskSAM) or "start".
        details: text for the log: a traceback, or the last lines of the worker's stderr.
    """

    def __init__(self, kind: str, message: str, details: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.details = details

    @classmethod
    def cancelled(cls) -> WorkerError:
        """Return the error of a cancelled job."""
        return cls("cancelled", "cancelled")

    @classmethod
    def from_answer(cls, error: RequestError) -> WorkerError:
        """Return the error for an error response of the worker."""
        # All other codes are JSON-RPC's own, so client and worker use different protocols.
        kind = next((kind for code, kind in _KINDS.items() if code == error.code), "protocol")
        return cls(kind, error.message or "no reason was given", error.traceback)


@dataclass
class SegmentRequest:
    """A volume to segment.

    Attributes:
        volumes: channels of the volume, all on one grid unless `resample`.
        model: name in the catalog, or path of a bundle.
        roi: region to process, in IJK voxel edges; None for the whole volume.
        boxes: boxes of classes, in IJK voxel edges.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        tta: test-time augmentation, "none" or "mirror".
        session: key under which the worker holds the volume open, so that other boxes on the same
            volume cost only a decode; None to close it at once.
        resume: True if the session should exist already; the result notes if it did not.
        overwrite: True lets classes with boxes take voxels of classes without boxes.
        resample: True resamples channels to the grid of the first one.
    """

    volumes: Sequence[Volume]
    model: str
    roi: Box | None = None
    boxes: Sequence[Box] = ()
    device: str = "auto"
    tta: str = "none"
    session: str | None = None
    resume: bool = False
    overwrite: bool = False
    resample: bool = False


@dataclass(frozen=True)
class SegmentedVolume(SegmentResult):
    """Result of a segmentation, with its voxels in memory.

    Attributes:
        labelmap: integers [K, J, I], on the grid of the first channel.
    """

    labelmap: np.ndarray


@dataclass(frozen=True)
class ExportDicomRequest:
    """A labelmap to write as a DICOM segmentation.

    Attributes:
        labelmap: unsigned integers [K, J, I], 0 or values of the labels.
        ijk_to_ras: 4 x 4 matrix from voxel indices (i, j, k) of the labelmap to RAS, in the space
            of the source series.
        labels: classes with their codes.
        source: files of the source series, or a folder that holds them.
        instances: UIDs of the images of the source series.
        model: name of the model that made the segmentation.
        version: version of the model; empty if unknown.
        corrected: whether the user prompted or corrected the segmentation.
        output: file to write.
        report: file for the report of the volumes; None for no report.
    """

    labelmap: np.ndarray
    ijk_to_ras: np.ndarray
    labels: Sequence[Label]
    source: Sequence[Path]
    instances: Sequence[str]
    model: str
    version: str
    corrected: bool
    output: Path
    report: Path | None = None


@dataclass(frozen=True)
class CorrectedCase:
    """A volume with the classes that the user has corrected.

    Attributes:
        name: name of the case.
        channels: images, all on one grid.
        labelmap: unsigned integers [K, J, I] on the grid of the channels, 0 or values of the
            classes.
        labels: classes with their values in the labelmap; a class may have no voxels.
        checked: names of the classes that are correct in the labelmap.
        corrected: names of the checked classes that the user has made or changed.
    """

    name: str
    channels: Sequence[Volume]
    labelmap: np.ndarray
    labels: Sequence[Label]
    checked: Sequence[str]
    corrected: Collection[str] = ()


class Job:
    """A request, from the call of the client to its result or error.

    Args:
        number: id of the request.
        method: method of the request.
        params: parameters of the request, as JSON; None while its files are being written.
        read_result: converts the `result` of the answer.
        on_progress: receives stage, fraction done and seconds left.
        on_done: receives the result.
        on_error: receives the WorkerError.
        on_validation: receives the minutes of learning and the Dice on held-out cases.

    Attributes:
        id: id of the request.
        params: parameters of the request, as JSON; None while its files are being written.
        done: True once the job has ended, with a result or an error.
        result: result of the worker; for a segmentation, a `SegmentedVolume`.
        error: error that the job ended with; None if it has not failed.
        stage: stage of the last progress report, in words.
        reports: number of progress reports.
        sent: True once the request was sent to the current worker.
        started: True once the current worker has reported progress.
        answered: True once the worker has answered.
        cancelling: True once the job is being cancelled.
        restarts: number of workers that ended before they started the job.
    """

    def __init__(
        self,
        number: int,
        method: str,
        params: dict[str, Any] | None,
        read_result: Callable[[dict[str, Any]], Any] = dict,
        on_progress: ProgressCallback | None = None,
        on_done: DoneCallback | None = None,
        on_error: ErrorCallback | None = None,
        on_validation: ValidationCallback | None = None,
    ) -> None:
        self.id = number
        self.method = method
        self.params = params
        self.read_result = read_result
        self.done = False
        self.result: Any = None
        self.error: WorkerError | None = None
        self.stage = ""
        self.reports = 0
        self.sent = False
        self.started = False
        self.answered = False
        self.cancelling = False
        self.restarts = 0
        self._on_progress = on_progress
        self._on_done = on_done
        self._on_error = on_error
        self._on_validation = on_validation
        self._fraction = 0.0
        self._began = time.monotonic()
        self._seconds: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds from the creation of the job to its end, or to now while it runs."""
        return time.monotonic() - self._began if self._seconds is None else self._seconds

    def report(self, progress: ProgressMessage) -> None:
        """Pass a progress report on to the caller."""
        self.started = True
        self.reports += 1
        self.stage, self._fraction = progress.stage, progress.fraction
        self._call_on_progress(self.stage, progress.seconds_left)

    def validate(self, validation: ValidationMessage) -> None:
        """Pass the minutes of learning and the validation Dice on to the caller."""
        if self._on_validation is not None and not self.done and not self.cancelling:
            self._on_validation(validation.minutes, validation.dice)

    def remark(self, text: str) -> None:
        """Report a remark to the caller, in place of the stage."""
        self._call_on_progress(text, None)

    def succeed(self, result: Any) -> None:
        """End the job with a result, and report it to the caller."""
        if not self.done:
            self._end()
            self.result = result
            if self._on_done is not None:
                self._on_done(result)

    def fail(self, error: WorkerError, silently: bool = False) -> None:
        """End the job with an error, and report it to the caller unless `silently`."""
        if not self.done:
            self._end()
            self.error = error
            if self._on_error is not None and not silently:
                self._on_error(error)

    def _call_on_progress(self, text: str, seconds_left: float | None) -> None:
        if self._on_progress is not None and not self.done and not self.cancelling:
            self._on_progress(text, self._fraction, seconds_left)

    def _end(self) -> None:
        self.done = True
        self._seconds = time.monotonic() - self._began

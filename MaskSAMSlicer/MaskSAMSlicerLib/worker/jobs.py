"""What is asked of the worker, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# Stage in words, fraction done, seconds left or None.
ProgressCallback = Callable[[str, float, "float | None"], None]
DoneCallback = Callable[["dict[str, Any]"], None]
ErrorCallback = Callable[["WorkerError"], None]

KINDS = ("refused", "cancelled", "memory", "protocol", "crashed", "internal", "start")
_KIND_OF_CODE = {
    -32000: "refused",
    -32001: "protocol",
    -32002: "cancelled",
    -32003: "memory",
    -32603: "internal",
}


class WorkerError(Exception):
    """Why there is no result; the text is one line for the person.

    Attributes:
        kind: "refused" (the person can put it right), "cancelled", "memory", "protocol" (another
            version, or no MaskSAM at all), "crashed", "internal" (an error of ours) or "start".
        details: for the log: a traceback, or the last lines of the process.
    """

    def __init__(self, kind: str, message: str, details: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.details = details


def cancelled() -> WorkerError:
    """What a job ends in that was no longer wanted."""
    return WorkerError("cancelled", "cancelled")


def error_of(answer: dict[str, Any]) -> WorkerError:
    """The error of a JSON-RPC answer."""
    # The other codes are JSON-RPC's own: the two programs do not understand one another.
    kind = _KIND_OF_CODE.get(answer.get("code", 0), "protocol")
    data = answer.get("data")
    details = str(data.get("traceback", "")) if isinstance(data, dict) else ""
    return WorkerError(kind, str(answer.get("message", "")) or "no reason was given", details)


@dataclass
class SegmentRequest:
    """A volume to segment.

    Attributes:
        arrays: the channels, each [K, J, I], all on one grid.
        matrices: IJK to RAS of each, 4 x 4.
        names: of each, for people.
        model: a name of the catalog or the path of a bundle.
        roi: what to process: an object or dict with `lower` and `upper`, (i, j, k) in voxel edges.
        boxes: the same with a `label`, the class's name.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        tta: "none" or "mirror".
        session: under this key the volume stays open in the worker, so that other boxes on the same
            arrays cost a decode only.
        resume: the session is expected to be there: the result notes where it was not.
        overwrite: classes with boxes may take voxels of classes without.
    """

    arrays: list[np.ndarray]
    matrices: list[Any]
    names: list[str]
    model: str
    roi: Any = None
    boxes: list[Any] = field(default_factory=list)
    device: str = "auto"
    tta: str = "none"
    session: str | None = None
    resume: bool = False
    overwrite: bool = False

    def params(self) -> dict[str, Any]:
        """What the worker is told, but for the images and the output."""
        path = Path(self.model)
        return {
            "model": str(path.absolute() if path.exists() else self.model),
            "roi": None if self.roi is None else _box(self.roi),
            "boxes": [_box(box) for box in self.boxes or ()],
            "device": self.device,
            "tta": self.tta,
            "session": self.session,
            "resume": self.resume,
            "overwrite": self.overwrite,
        }


def _box(box: Any) -> dict[str, Any]:
    if isinstance(box, dict):
        label, lower, upper = box.get("label"), box["lower"], box["upper"]
    else:
        label, lower, upper = box.class_name, box.lower, box.upper
    return {
        "label": str(label or ""),
        "lower": [float(edge) for edge in lower],
        "upper": [float(edge) for edge in upper],
    }


class Job:
    """A request on its way.

    Attributes:
        id: of the request.
        done: whether it has ended, one way or another.
        result: of the worker, once it is there; of a segmentation `labelmap` is the array.
        error: the WorkerError it ended in, if it did.
        stage: what the worker said last that it does, in words.
        reports: how often it has said how far it is.
        seconds: since it was asked for; once it is done, how long it took.
    """

    def __init__(
        self,
        number: int,
        method: str,
        params: dict[str, Any],
        on_progress: ProgressCallback | None = None,
        on_done: DoneCallback | None = None,
        on_error: ErrorCallback | None = None,
    ) -> None:
        self.id = number
        self.method = method
        self.params = params
        self.done = False
        self.result: dict[str, Any] | None = None
        self.error: WorkerError | None = None
        self.ready = True  # False while its files are being written
        self.sent = False
        self.heard = False  # the worker has said something about it
        self.answered = False  # the worker is done with it
        self.restarts = 0
        self.stage = ""
        self.reports = 0
        self._fraction = 0.0
        self.cancelling = False
        self.on_progress = on_progress
        self.on_done = on_done
        self.on_error = on_error
        self._began = time.monotonic()
        self._seconds: float | None = None

    @property
    def seconds(self) -> float:
        """Since it was asked for; once it is done, how long it took."""
        return time.monotonic() - self._began if self._seconds is None else self._seconds

    def report(self, progress: dict[str, Any]) -> None:
        """Hand on how far the worker is."""
        self.heard = True
        self.reports += 1
        self.stage, self._fraction = str(progress.get("stage", "")), float(progress["fraction"])
        self._tell(self.stage, progress.get("seconds_left"))

    def remark(self, text: str) -> None:
        """Tell the caller something in place of the stage."""
        self._tell(text, None)

    def _tell(self, text: str, seconds_left: float | None) -> None:
        if self.on_progress is not None and not self.done and not self.cancelling:
            self.on_progress(text, self._fraction, seconds_left)

    def succeed(self, result: dict[str, Any]) -> None:
        """End with a result; said to the caller, once."""
        if not self.done:
            self._end()
            self.result = result
            if self.on_done is not None:
                self.on_done(result)

    def fail(self, error: WorkerError, silently: bool = False) -> None:
        """End with an error; said to the caller, once."""
        if not self.done:
            self._end()
            self.error = error
            if self.on_error is not None and not silently:
                self.on_error(error)

    def _end(self) -> None:
        self.done = True
        self._seconds = time.monotonic() - self._began

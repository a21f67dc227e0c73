"""Time, progress and cancellation of an adaptation."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from MaskSAMCore.callbacks import CancelledCallback, ProgressCallback
from MaskSAMCore.errors import Cancelled


@dataclass
class Clock:
    """Time, progress and cancellation of an adaptation.

    Attributes:
        minutes: time limit in minutes.
        progress: receives the stage, the fraction done and the seconds left.
        cancelled: polled at each step.
        before: duration of earlier parts in seconds.
    """

    minutes: float
    progress: ProgressCallback | None
    cancelled: CancelledCallback | None
    before: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since the start, earlier parts included."""
        return self.before + time.monotonic() - self._started

    def step(self, stage: str) -> None:
        """Poll for cancellation and report the progress.

        Raises:
            Cancelled: the user has cancelled.
        """
        self.check()
        self.show(stage)

    def show(self, stage: str) -> None:
        """Report the progress without polling for cancellation."""
        if self.progress is not None:
            left = max(0.0, 60 * self.minutes - self.seconds)
            self.progress(stage, min(0.99, self.seconds / (60 * self.minutes)), left)

    def check(self) -> None:
        """Poll for cancellation.

        Raises:
            Cancelled: the user has cancelled.
        """
        if self.is_cancelled():
            raise Cancelled("the learning was cancelled: it can be continued")

    def is_cancelled(self) -> bool:
        """Return whether the user has cancelled."""
        return self.cancelled is not None and self.cancelled()

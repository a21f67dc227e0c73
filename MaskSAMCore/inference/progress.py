"""Progress of a run, and its cancellation."""

from __future__ import annotations

import time

from MaskSAMCore.callbacks import CancelledCallback, ProgressCallback
from MaskSAMCore.errors import Cancelled


class Progress:
    """Progress of a run through its stages as one growing fraction, and its cancellation.

    Args:
        callback: called with the name of the stage, the fraction done (0 to 1) and the seconds
            left, None while they are unknown.
        cancelled: polled at each step; True stops the run.
    """

    def __init__(
        self, callback: ProgressCallback | None = None, cancelled: CancelledCallback | None = None
    ) -> None:
        self._callback = callback
        self._cancelled = cancelled
        self._stage = ""
        self._start, self._end, self._began = 0.0, 0.0, 0.0
        self._fraction = 0.0

    def stage(self, text: str, until: float) -> None:
        """Begin a stage that ends at a fraction of the whole run."""
        self._stage, self._start, self._end = text, self._end, until
        self._began = time.monotonic()
        self.step(0, 1)

    def step(self, done: int, total: int) -> None:
        """Report that `done` of the stage's `total` steps are complete.

        Raises:
            Cancelled: `cancelled` returned True.
        """
        self.check()
        share = done / max(total, 1)
        self._fraction = self._start + share * (self._end - self._start)
        left = None
        if done:
            elapsed = time.monotonic() - self._began
            left = elapsed / share * (1 - share)
        self._report(self._stage, left)

    def finish(self) -> None:
        """Report the end of the run."""
        self._fraction = 1.0
        self._report("Done", 0.0)

    def message(self, text: str) -> None:
        """Report a message without advancing."""
        self._report(text, None)

    def check(self) -> None:
        """Poll for cancellation.

        Raises:
            Cancelled: `cancelled` returned True.
        """
        if self._cancelled is not None and self._cancelled():
            raise Cancelled("the segmentation was cancelled")

    def _report(self, text: str, seconds_left: float | None) -> None:
        if self._callback is not None:
            self._callback(text, self._fraction, seconds_left)

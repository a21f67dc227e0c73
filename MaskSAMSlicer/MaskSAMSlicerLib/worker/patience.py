"""Notices that a job gets nowhere, though the worker itself is there and answers."""

from __future__ import annotations

from MaskSAMSlicerLib.worker.jobs import Job

# A break of this program, or of the machine, is not the worker's.
_LONGEST_BREAK = 1.0


class Patience:
    """Watches the job that the worker has in hand.

    It only tells: a large model on a slow machine may be busy all the while, and a person who knows
    better can cancel.

    Args:
        seconds: without progress for so long, and each time again, the person is told.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._watched: tuple[int, int] | None = None
        self._quiet = 0.0
        self._due = seconds
        self._looked_at = 0.0

    def look(self, job: Job | None, now: float) -> str | None:
        """What a person is to be told now, if anything.

        Args:
            job: what the worker is at; None when it has nothing to do.
            now: in seconds, growing.
        """
        passed, self._looked_at = now - self._looked_at, now
        watched = None if job is None else (job.id, job.reports)
        if job is None or watched != self._watched:
            self._watched, self._quiet, self._due = watched, 0.0, self._seconds
            return None
        self._quiet += min(passed, _LONGEST_BREAK)
        if self._quiet < self._due:
            return None
        self._due += self._seconds
        return f"{job.stage or job.method}: no progress for {_words(self._quiet)}: wait, or cancel"


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

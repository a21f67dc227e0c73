"""Signatures of the callbacks of long-running work."""

from __future__ import annotations

from collections.abc import Callable

# Arguments: stage in words, fraction done (0 to 1), seconds left (None if unknown).
ProgressCallback = Callable[[str, float, "float | None"], None]
# Returns True to stop the work.
CancelledCallback = Callable[[], bool]

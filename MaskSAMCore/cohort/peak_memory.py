"""Peak memory of the process, measured for each case where the system allows it."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

_PROCESS = Path("/proc/self")
# Value that makes Linux reset the peak.
_RESET_PEAK = "5"


def reset_peak() -> None:
    """Reset the peak on Linux; on other systems the peak is that of the whole process."""
    with suppress(OSError):
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)


def peak_mb() -> float | None:
    """Return the peak of the process's memory in MB; None where it is unknown, as on Windows."""
    with suppress(OSError):
        for line in (_PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    if sys.platform == "win32":
        return None
    import resource

    peak = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6

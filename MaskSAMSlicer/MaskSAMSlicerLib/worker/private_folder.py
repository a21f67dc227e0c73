"""Private temporary folders, and removal of folders that crashed programs have left.

The name of a folder holds the host, the process ID and the start time of its owner, so that a
folder in use is never taken for an abandoned one, however old it is.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import tempfile
from pathlib import Path

_PREFIX = "masksam"
_NAME = re.compile(rf"{_PREFIX}-(?P<host>[\w.]+)-(?P<pid>\d+)-(?P<start>\d+)-")
# Start times of one process differ by a second or two, because they are rounded.
_START_TOLERANCE_SECONDS = 5


def create_private_folder() -> Path:
    """Create a folder that only this user can read, named after this process.

    Raises:
        OSError: there is no place for temporary files.
    """
    start = process_start(os.getpid()) or 0
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}-{_host()}-{os.getpid()}-{start}-"))


def remove_abandoned(parent: Path | None = None) -> None:
    """Remove folders that processes of this host left behind when they ended.

    Args:
        parent: folder of the private folders; None for the system's temporary folder.
    """
    for folder in (parent or Path(tempfile.gettempdir())).glob(f"{_PREFIX}-*"):
        name = _NAME.match(folder.name)
        if name is None or name["host"] != _host() or not _is_own(folder):
            continue
        if _has_ended(int(name["pid"]), int(name["start"])):
            shutil.rmtree(folder, ignore_errors=True)


def process_start(pid: int) -> int | None:
    """Return the start time of a process in seconds; None if it has ended or the time is unknown.

    On Linux the time is counted from boot: any other start time moves whenever the clock is set, so
    that a folder in use would be taken for abandoned.
    """
    try:
        if sys.platform == "linux":
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            return int(fields[19]) // os.sysconf("SC_CLK_TCK")
        import psutil

        return int(psutil.Process(pid).create_time())
    except Exception:
        return None


def _has_ended(pid: int, start: int) -> bool:
    """Return whether the process of a folder has ended; False if unknown.

    Args:
        pid: process ID, which another process may have by now.
        start: start time in seconds; 0 if unknown.
    """
    now = process_start(pid)
    if now is None:
        return not _exists(pid)
    return start > 0 and abs(now - start) > _START_TOLERANCE_SECONDS


def _exists(pid: int) -> bool:
    try:
        if sys.platform == "win32":
            import psutil

            return bool(psutil.pid_exists(pid))
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, ImportError):
        return True
    return True


def _is_own(folder: Path) -> bool:
    try:
        state = folder.lstat()
    except OSError:
        return False
    return sys.platform == "win32" or state.st_uid == os.getuid()


def _host() -> str:
    return re.sub(r"\W", "_", socket.gethostname()) or "_"

"""Python's global lock, held as Slicer's main thread holds it while Qt waits for events."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Seconds; no test lasts this long.
_NEVER = 1e6
# ``QCoreApplication::processEvents(QEventLoop::ProcessEventsFlags)`` as GCC and Clang name it.
_PROCESS_EVENTS = "_ZN16QCoreApplication13processEventsE6QFlagsIN10QEventLoop17ProcessEventsFlagEE"


@contextmanager
def kept_lock() -> Iterator[None]:
    """Hold the lock between bytecodes too, so that only blocking calls release it."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_NEVER)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def sleep_with_lock(seconds: float) -> None:
    """Sleep while other Python threads cannot advance; on Windows they can."""
    if sys.platform == "win32":
        time.sleep(seconds)
    else:
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def process_events_with_lock(qt_core: Path) -> Callable[[], None] | None:
    """Return Qt's ``processEvents`` without PySide6's release of the lock.

    Args:
        qt_core: path of the library QtCore of PySide6.

    Returns:
        The function; None if the library has no function of this name.
    """
    try:
        function = getattr(ctypes.PyDLL(str(qt_core)), _PROCESS_EVENTS)
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = [ctypes.c_int], None
    return lambda: function(0)


def child_ends_with_lock(pid: int, seconds: float) -> bool:
    """Return whether a child process ends while other Python threads cannot advance.

    The child is not reaped. Call this function inside `kept_lock`.

    Args:
        pid: process number of the child.
        seconds: time limit.
    """
    library, by_pid, flags = ctypes.PyDLL(None), 1, 1 | 4 | 0x01000000  # WNOHANG, WEXITED, WNOWAIT
    information = (ctypes.c_int * 32)()
    for _ in range(int(seconds / 0.01)):
        library.waitid(by_pid, pid, information, flags)
        if information[0] != 0:  # the signal number SIGCHLD
            return True
        sleep_with_lock(0.01)
    return False

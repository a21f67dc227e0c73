"""Control of the process's standard streams.

Some libraries write to standard error directly, and the reader of a pipe may end before its writer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import IO

_lock = RLock()


def discard(stream: IO[str]) -> None:
    """Send further output of a stream to the null device, once its reader, such as `head`, is gone
    or the disk of its file is full.

    Otherwise Python would flush the stream at exit and print a traceback.
    """
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), stream.fileno())


def print_line(line: str) -> None:
    """Print a line and flush it, so that a pipe receives it at once.

    If the line cannot be printed, for example because the reader of the pipe is gone, the work goes
    on, because its results are in other files.
    """
    try:
        print(line, flush=True)
    except OSError:
        discard(sys.stdout)


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard everything written to the file descriptor of standard error.

    One thread at a time can do so; others wait. Exceptions are raised as usual.
    """
    with _lock:
        try:
            kept = os.dup(2)
        except OSError:  # a windowed process has no standard error
            yield
            return
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            os.close(null)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextmanager
def visible_stderr() -> Iterator[None]:
    """Keep standard error visible; wait until no other thread runs :func:`silent_stderr`."""
    with _lock:
        yield

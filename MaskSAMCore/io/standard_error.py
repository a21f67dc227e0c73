"""Control of the process's standard error, to which some libraries write directly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

_lock = RLock()


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

"""Keeping libraries from writing to standard error, where a person expects one line of ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import SimpleITK as sitk

_redirecting = RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what SimpleITK and the libraries under it print from standard error.

    Some of them write to the file descriptor itself, which is turned aside meanwhile, by one thread
    at a time. What fails is raised all the same.
    """
    with _redirecting:
        shown = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        try:
            with _standard_error_aside():
                yield
        finally:
            sitk.ProcessObject.SetGlobalWarningDisplay(shown)


@contextmanager
def _standard_error_aside() -> Iterator[None]:
    try:
        kept = os.dup(2)
    except OSError:  # a process without standard error, such as a windowed one
        yield
        return
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 2)
        os.close(nothing)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)

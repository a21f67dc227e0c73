"""Number of CPU cores that a process uses."""

from __future__ import annotations

import os


def limit_threads(threads: int) -> None:
    """Set the number of CPU cores for the network and SimpleITK, at most that of :func:`cores`."""
    import SimpleITK as sitk
    import torch

    # Each thread takes memory: a process with very many of them crashes.
    count = min(threads, cores())
    torch.set_num_threads(count)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

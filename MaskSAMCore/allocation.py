"""Memory that stays allocated to the process: freed tensors and NumPy's buffers."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

import numpy as np

# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_TOP_PAD_BYTES = 64 << 20
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the whole process; do nothing on other systems.

    By default glibc maps each large tensor anew. The kernel then fills every page with zeros, which
    takes up to half of a network's time on a CPU.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):  # a system without glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_ARENA_MAX, 1)
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_TOP_PAD, _TOP_PAD_BYTES)


def reserve_matrix_buffers() -> None:
    """Make NumPy's OpenBLAS allocate its buffers.

    If OpenBLAS cannot allocate them later, it ends the process, and a worker cannot report the lack
    of memory.
    """
    square = np.ones((256, 256))
    np.matmul(square, square)

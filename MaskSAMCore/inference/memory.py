"""Memory that models and sessions use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def array_bytes(arrays: Iterable[Tensor | NDArray[Any] | None]) -> int:
    """Return the bytes of tensors and arrays in memory; arrays mapped from files count as none."""
    total = 0
    for array in arrays:
        if isinstance(array, Tensor):
            total += array.numel() * array.element_size()
        elif array is not None and not _is_mapped(array):
            total += array.nbytes
    return total


def _is_mapped(array: NDArray[Any]) -> bool:
    base: Any = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return False

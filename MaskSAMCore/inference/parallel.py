"""Windows that are processed at the same time on a CPU, each with a share of its cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_parallel(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return the results of a function for some items, which are processed on a thread each.

    Two windows on one core each take less time than one after the other on two cores: most
    operations of a window are too small to be divided well.
    """
    if len(items) == 1:
        return [function(items[0])]
    cores = torch.get_num_threads()
    share = max(1, cores // len(items))
    try:
        with ThreadPoolExecutor(len(items), "window", torch.set_num_threads, (share,)) as pool:
            return list(pool.map(function, items))
    finally:
        # A thread begins with the number that was set last on any thread, thus the pool ends first.
        torch.set_num_threads(cores)

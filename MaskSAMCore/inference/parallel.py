"""Parallel processing of the parts of a volume on a CPU, each part with a share of the cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

# Parts that are processed at the same time: more would need more memory.
_TOGETHER = 2


def cpu_threads() -> int:
    """Return how many parts are processed at the same time on this CPU."""
    return min(_TOGETHER, torch.get_num_threads())


@contextmanager
def results_in_order(
    function: Callable[[Item], Result], items: Sequence[Item], threads: int
) -> Iterator[Iterator[Result]]:
    """Compute the results of a function for some items, on a few threads.

    Two parts on one core each take less time than one after the other on two cores, because most
    operations of a part are too small to be divided well. While a result is used, the threads
    process the items that follow.

    Yields:
        The results, in the order of the items. If the context ends early, only items that are being
        processed are finished.
    """
    if threads == 1 or len(items) == 1:
        yield map(function, items)
        return
    cores = torch.get_num_threads()
    share = max(1, cores // threads)
    pool = ThreadPoolExecutor(threads, "part", torch.set_num_threads, (share,))
    # This thread has no cores of its own: further threads of its operations would only busy-wait.
    torch.set_num_threads(share)
    try:
        yield _results(pool, function, items, threads)
    finally:
        pool.shutdown(cancel_futures=True)
        # A new thread starts with the number that any thread set last, so the pool must end first.
        torch.set_num_threads(cores)


def _results(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Sequence[Item],
    threads: int,
) -> Iterator[Result]:
    """Yield results in order; at most one more than the threads is waiting or being computed, so
    that memory stays low."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > threads:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()

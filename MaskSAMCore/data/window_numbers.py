"""Numbers of training windows, from which their random seeds are derived."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
from torch.utils.data import get_worker_info


@dataclass(frozen=True)
class WindowNumbers:
    """Numbers of the windows that a training process prepares.

    A training numbers its windows 0, 1, 2 and so on in the order of its steps. The windows are the
    same, however many processes, workers and parts of a step they are divided among.

    Attributes:
        batch: number of windows that a process computes at a time.
        process: index of the process.
        processes: number of processes of the training.
    """

    batch: int = 1
    process: int = 0
    processes: int = 1

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers for the current worker of a data loader, without end."""
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for part in count(first, step):
            start = (part * self.processes + self.process) * self.batch
            yield from range(start, start + self.batch)


def window_seed(seed: int, number: int) -> np.random.SeedSequence:
    """Return the seeds of a window's random numbers.

    Args:
        seed: seed of the training.
        number: number of the window.
    """
    return np.random.SeedSequence([seed, number])

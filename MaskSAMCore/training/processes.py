"""Processes that train together: started here, or by torchrun, also under Slurm."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.training.devices import COLLECTIVE_TIMEOUT

Result = TypeVar("Result")


@dataclass(frozen=True)
class Processes:
    """The processes of a training, each of which has a device.

    Attributes:
        count: number of processes on all computers.
        per_node: number of processes on this computer.
        rank: index of this process; 0 until the others are started from here.
        external: torchrun has started them.
    """

    count: int
    per_node: int
    rank: int = 0
    external: bool = False

    @property
    def nodes(self) -> int:
        """Number of computers."""
        return self.count // self.per_node

    @property
    def first(self) -> bool:
        """True for the process that reads the dataset first, reports and writes."""
        return self.rank == 0

    @classmethod
    def present(cls, devices: int) -> Processes:
        """Return the processes that torchrun has started, or else those to start for devices.

        Raises:
            MaskSAMError: torchrun started another number of processes than there are devices.
        """
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls(devices, devices)
        count, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
        if devices not in (1, local):
            raise MaskSAMError(
                f"torchrun started {local} processes here: give --devices {local}, or leave it out"
            )
        return cls(count, local, int(os.environ["RANK"]), external=True)

    @contextmanager
    def connected(self, kind: str) -> Iterator[None]:
        """Let the processes that torchrun started wait for each other within a ``with`` block.

        Args:
            kind: kind of device, "cuda" or "cpu".
        """
        if not self.external:
            yield
            return
        if kind == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group(
            "nccl" if kind == "cuda" else "gloo", timeout=COLLECTIVE_TIMEOUT
        )
        try:
            yield
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()

    def first_then_others(
        self, first: Callable[[], Result], others: Callable[[], Result]
    ) -> Result:
        """Call a function in the first process, and after it another one in the others.

        Raises:
            MaskSAMError: the function failed in the first process.
        """
        if not self.external:
            return first()
        failure: list[str | None] = [None]
        result: Result | None = None
        if self.first:
            try:
                result = first()
            except MaskSAMError as error:
                failure = [str(error)]
        distributed.broadcast_object_list(failure)
        if failure[0] is not None:
            raise MaskSAMError(failure[0])
        return others() if result is None else result


def divided_batch(batch: int, processes: int, accumulate: int) -> int:
    """Return the number of windows that a process computes at a time.

    Args:
        batch: windows of a step.
        processes: number of processes.
        accumulate: number of parts that each process computes one after the other.

    Raises:
        MaskSAMError: the windows cannot be divided equally.
    """
    parts = processes * accumulate
    if batch % parts:
        raise MaskSAMError(
            f"a step of {batch} windows cannot be divided among {processes} device(s) with"
            f" {accumulate} part(s) each: choose a --batch that is a multiple of {parts}, or"
            " another --accumulate"
        )
    return batch // parts

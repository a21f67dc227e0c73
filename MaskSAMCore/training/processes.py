"""Processes that train together: started here, or by torchrun, also under Slurm."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any, TypeVar

import torch
from torch import distributed

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.training.devices import COLLECTIVE_TIMEOUT

Result = TypeVar("Result")

# Signals that end a part of a training; Windows has fewer.
STOPPING_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)
)
# Longest wait for killed processes to end, in seconds.
_END_SECONDS = 10.0


@dataclass(frozen=True)
class Processes:
    """Processes of a training, one per device.

    Attributes:
        count: number of processes on all computers.
        per_node: number of processes on this computer.
        rank: index of this process among those of torchrun, else 0.
        external: True if torchrun started the processes.
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
        """Return the processes that torchrun started, else those to start, one per device.

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
        """Join the processes that torchrun started in a process group within a ``with`` block.

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
        """Call ``first`` in the first process, and then ``others`` in the other processes.

        Raises:
            MaskSAMError: ``first`` failed.
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


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C in this thread within a ``with`` block, and in the processes started there until
    they unblock it."""
    if sys.platform == "win32":
        yield
        return
    # Starting the resource tracker unblocks the signal, so it is started before.
    resource_tracker.ensure_running()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def block_interrupts(blocked: bool) -> None:
    """Block Ctrl-C in this thread, or unblock it and receive one that came in the meantime."""
    if sys.platform != "win32":
        how = signal.SIG_BLOCK if blocked else signal.SIG_UNBLOCK
        signal.pthread_sigmask(how, {signal.SIGINT})


def run_spawning(function: Callable[[], object], on_signal: Callable[[int, Any], None]) -> None:
    """Run a function that spawns processes, and pass signals that stop a training on to them.

    A shell sends Ctrl-C to all processes of a command, even to those that still import PyTorch. The
    function runs in a thread that blocks Ctrl-C, so that the spawned processes start with it
    blocked and unblock it when they are ready. Each signal is passed on to them as Ctrl-C. A second
    Ctrl-C kills them.

    Args:
        function: function to run.
        on_signal: handler that is called before a signal is passed on.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed twice.
    """
    if threading.current_thread() is not threading.main_thread():
        function()
        return
    others = set(multiprocessing.active_children())
    errors: list[BaseException] = []
    ended = threading.Event()
    presses = 0

    def work() -> None:
        try:
            with interrupts_blocked():
                function()
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    def receive(number: int, frame: Any) -> None:
        nonlocal presses
        presses += number == signal.SIGINT
        spawned = [each for each in multiprocessing.active_children() if each not in others]
        if presses > 1:
            for process in spawned:
                process.kill()
            raise KeyboardInterrupt
        on_signal(number, frame)
        for process in spawned:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)  # type: ignore[arg-type]

    # A daemon thread, because the program ends without it after a second Ctrl-C.
    thread = threading.Thread(target=work, daemon=True)
    former = {number: signal.signal(number, receive) for number in STOPPING_SIGNALS}
    try:
        thread.start()
        # Python up to 3.12 takes a thread for ended if an exception interrupts join().
        ended.wait()
    except KeyboardInterrupt:
        ended.wait(_END_SECONDS)
        raise
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if errors:
        raise errors[0]


def divided_batch(batch: int, processes: int, accumulate: int) -> int:
    """Return the number of windows that a process computes at a time.

    Args:
        batch: number of windows per step.
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

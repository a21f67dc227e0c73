"""Dask clusters: processes on this computer, or workers of a running scheduler."""

from __future__ import annotations

import logging
import os
import re
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from MaskSAMCore.cohort.threads import cores
from MaskSAMCore.errors import MaskSAMError, describe

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

_ANY_LOCAL_PORT = "127.0.0.1:0"
_LOCAL = re.compile(r"local(?::([0-9]{1,4}))?")
_ADDRESS = re.compile(r"(?:tcp|tls|ws|wss|ucx)://\S+")
# Settings of Dask for processes on one computer. A process that ends closes its connection at once,
# so a late answer only means that the computer is busy or was asleep.
LOCAL_SETTINGS = {
    "distributed.comm.timeouts.connect": "300s",
    "distributed.comm.timeouts.tcp": "300s",
    "distributed.deploy.lost-worker-timeout": "300s",
    "distributed.scheduler.worker-ttl": None,
}
# Module whose `dask_setup` is called in each process of a local cluster.
_PRELOAD = "MaskSAMCore.cohort.dask_worker"


@dataclass(frozen=True)
class DaskCluster:
    """A cluster to run on.

    Attributes:
        address: address of a scheduler; empty for processes on this computer.
        workers: number of processes on this computer; 0 for as many as its cores allow.
    """

    address: str = ""
    workers: int = 0

    @staticmethod
    def parse(text: str) -> DaskCluster:
        """Return the cluster of a text such as "local", "local:4" or "tcp://10.0.0.5:8786".

        Raises:
            MaskSAMError: the text has another form, or Dask is not installed.
        """
        local = _LOCAL.fullmatch(text.strip())
        if not local and not _ADDRESS.fullmatch(text.strip()):
            raise MaskSAMError(
                f"'{text}' is no Dask cluster: give local, local:N, or the address of a scheduler,"
                " such as tcp://10.0.0.5:8786"
            )
        if local and local.group(1) and int(local.group(1)) < 1:
            raise MaskSAMError(f"'{text}' has no worker: give local:1 or more")
        if find_spec("distributed") is None:
            raise MaskSAMError("--dask needs Dask: pip install 'masksam[cluster]'")
        if local:
            return DaskCluster(workers=int(local.group(1) or 0))
        return DaskCluster(text.strip())

    @property
    def is_local(self) -> bool:
        """True for processes on this computer."""
        return not self.address

    @contextmanager
    def connect(self, threads: int | None = None) -> Iterator[Client]:
        """Yield a client of the cluster; processes on this computer end with the block.

        Args:
            threads: CPU cores of each process on this computer; None for one.

        Raises:
            MaskSAMError: no scheduler answers at the address, or the processes do not start.
        """
        from distributed import Client

        if self.is_local:
            with self._local(threads or 1) as client:
                yield client
            return
        try:
            client = Client(self.address, set_as_default=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise MaskSAMError(f"no Dask scheduler answers at {self.address}") from error
        with client:
            yield client

    @contextmanager
    def _local(self, threads: int) -> Iterator[Client]:
        import dask
        from distributed import Client, LocalCluster

        threads = min(threads, cores())
        with (
            tempfile.TemporaryDirectory(
                prefix="masksam-dask-", ignore_cleanup_errors=True
            ) as folder,
            dask.config.set({**LOCAL_SETTINGS, "temporary-directory": folder}),
        ):
            try:
                cluster = LocalCluster(
                    n_workers=self.workers or max(cores() // threads, 1),
                    threads_per_worker=1,
                    processes=True,
                    # The dashboards must not be reachable from other computers.
                    dashboard_address=_ANY_LOCAL_PORT,
                    worker_dashboard_address=_ANY_LOCAL_PORT,
                    silence_logs=logging.CRITICAL,
                    # Without a limit, a large case may use the memory that the others leave free.
                    memory_limit=0,
                    env={
                        name: str(threads)
                        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
                    },
                    preload=_PRELOAD,
                )
            except (OSError, RuntimeError, ValueError) as error:
                raise MaskSAMError(f"Dask's processes do not start: {describe(error)}") from error
            with ExitStack() as stack:
                stack.enter_context(cluster)
                try:
                    yield stack.enter_context(Client(cluster, set_as_default=False))
                finally:
                    # A worker is given some seconds to finish its case; then Dask kills it.
                    with interrupts_handled(lambda: _kill_workers(cluster)):
                        stack.close()


def _kill_workers(cluster: LocalCluster) -> None:
    """Kill the worker processes on this computer."""
    for nanny in list(cluster.workers.values()):
        if nanny.pid is not None:
            with suppress(OSError):
                os.kill(nanny.pid, getattr(signal, "SIGKILL", signal.SIGTERM))


@contextmanager
def interrupts_handled(handle: Callable[[], object]) -> Iterator[None]:
    """Call a function in place of raising KeyboardInterrupt for Ctrl-C or SIGTERM.

    An exception that a signal raises while Dask releases an object would be lost.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread can receive signals.
        return
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is signal.default_int_handler
    ]
    for number in numbers:
        signal.signal(number, lambda *_: handle())
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.default_int_handler)

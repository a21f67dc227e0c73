"""Dask scheduler for tests, with two workers that are killed when they read a certain file.

``python -m Testing.helpers.dask_workers`` prints the address of the scheduler and runs until its
standard input is closed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster, WorkerPlugin
from distributed.utils import get_mp_context

from MaskSAMCore import io
from MaskSAMCore.cohort import dask_worker
from MaskSAMCore.cohort.dask_cluster import LOCAL_SETTINGS
from Testing.helpers.paths import ROOT

# Name of the image that kills each worker that reads it.
POISON = "poison.nii.gz"
# File beside the image with the process IDs of the workers that it killed, one per line.
POISON_LOG = "poison.log"


@contextmanager
def two_workers(folder: Path) -> Iterator[Client]:
    """Yield a client of a scheduler with two worker processes, which restart when they end.

    Args:
        folder: folder for the temporary files of these processes.
    """
    with subprocess.Popen(
        [sys.executable, "-m", __name__],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        with Client(process.stdout.readline().strip(), set_as_default=False) as client:
            yield client
        process.stdin.close()


def serve() -> None:
    """Run the scheduler and the workers until the end of standard input."""
    method = "forkserver" if hasattr(os, "fork") else "spawn"
    dask.config.set({**LOCAL_SETTINGS, "distributed.worker.multiprocessing-method": method})
    if method == "forkserver":
        # Forking a process that has imported PyTorch takes a hundredth of the time of the import.
        preload = ["distributed", "MaskSAMCore.inference", dask_worker.__name__]
        get_mp_context().set_forkserver_preload(preload)
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
        memory_limit=0,
    ) as cluster:
        with Client(cluster, set_as_default=False) as client:
            client.register_plugin(PoisonousFile(), name="poison")
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()


class PoisonousFile(WorkerPlugin):
    """Plugin that kills a worker that reads the image, as the system does when memory runs out."""

    def setup(self, worker: Any) -> None:
        read = io.read_volume

        def poisoned(path: Path, *others: Any) -> Any:
            if path.name == POISON:
                with (path.parent / POISON_LOG).open("a") as log:
                    log.write(f"{os.getpid()}\n")
                os.kill(os.getpid(), signal.SIGKILL)
            return read(path, *others)

        io.read_volume = poisoned


def set_software(name: str) -> str:
    """Replace the name and version of a worker's software; return the former ones."""
    before, dask_worker.SOFTWARE = dask_worker.SOFTWARE, name
    return before


if __name__ == "__main__":
    # Workers look the plugin up under the name of this module, which ``__main__`` is not.
    from Testing.helpers.dask_workers import serve as _serve

    _serve()

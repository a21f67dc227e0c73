"""Responsiveness of the panel: how long a run blocks the event loop, and the time to cancel a run.

    python -m Testing.benchmarks.panel [--shape 300x512x512]

The worker runs the tests' small networks, so that the figures describe everything around a network.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from Testing import host
from Testing.helpers.paths import KNOWN_WORKER
from Testing.panel.helpers import User, blobs_volume
from Testing.slicer.helpers import MODULE, add_volume
from Testing.slicer.models import write_models


def large_volume(shape: tuple[int, int, int]):
    """Add a volume of 16-bit voxels with two blocks."""
    array = np.zeros(shape, np.int16)
    k, j, i = shape
    array[k // 5 : k // 2, j // 5 : j // 2, i // 6 : i // 2] = 1
    array[k // 2 : -k // 6, j // 3 : -j // 5, i // 3 : -i // 5] = 2
    return add_volume(array, np.diag([-0.5, -0.5, 1.0, 1.0]))


def longest_blocks(user: User, volume) -> tuple[float, float]:
    """Return the longest and the second longest time in s between two events during a run.

    The longest time includes the import of the result into the segmentation.
    """
    import qt

    ticks: list[float] = []
    timer = qt.QTimer()
    timer.interval = 5
    timer.connect("timeout()", lambda: ticks.append(time.monotonic()))
    timer.start()
    user.segment(volume, "coarse")
    timer.stop()
    second, first = sorted(b - a for a, b in itertools.pairwise(ticks))[-2:]
    return first, second


def seconds_to_cancel(user: User, volume, model: str) -> float:
    """Return the time in s from Cancel to the end of a run."""
    user.start(volume, model)
    user.wait_for_progress()
    user.click(user.ui.segmentButton)
    return user.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="300x512x512", help="voxels along K, J and I")
    k, j, i = (int(size) for size in parser.parse_args().shape.split("x"))
    with tempfile.TemporaryDirectory() as home:
        write_models(Path(home))
        os.environ["MASKSAM_HOME"] = home
        host.start()
        host.load_module(MODULE)
        from MaskSAMSlicerLib.logic import SegmentationLogic
        from MaskSAMSlicerLib.worker.client import WorkerClient

        module = sys.modules["MaskSAMSlicer"]
        logic = SegmentationLogic(lambda on_log: WorkerClient(command=KNOWN_WORKER, on_log=on_log))
        module.MaskSAMSlicerLogic = partial(module.MaskSAMSlicerLogic, logic)
        user = User(host.select_module("MaskSAMSlicer"))
        try:
            user.segment(blobs_volume())  # the first run includes the import of PyTorch
            imported, block = longest_blocks(user, large_volume((k, j, i)))
            print(f"longest block of the event loop: {1000 * block:.0f} ms")
            print(f"import of the result: {1000 * imported:.0f} ms")
            small = blobs_volume()
            states = {"slow_loading": "loads", "slow": "segments", "hanging": "hangs"}
            for model, state in states.items():
                seconds = seconds_to_cancel(user, small, model)
                print(f"from Cancel to the end while the model {state}: {seconds:.2f} s")
        finally:
            host.unload_module("MaskSAMSlicer")


if __name__ == "__main__":
    main()

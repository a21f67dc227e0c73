"""Time from a moved box to the new labelmap, compared with that of a full run.

    python -m Testing.benchmarks.update DATASET --case hippocampus_007 -m hippocampus

Each repetition opens the volume, segments it, then moves the box of each class by one to three
voxels and updates. Times are medians of wall time and of processor time, which depends less on
other load. Both the engine and Slicer's worker process are measured.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from MaskSAMCore import Box, Segmenter, read_volume
from MaskSAMCore.geometry import Volume
from Testing.helpers.paths import ROOT


class Clock:
    """Wall and processor seconds of a few calls."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []

    def time(self, call, *arguments, **more):
        """Call a function, record its seconds and return its result."""
        wall, processor = time.perf_counter(), time.process_time()
        result = call(*arguments, **more)
        self.wall.append(time.perf_counter() - wall)
        self.processor.append(time.process_time() - processor)
        return result

    def __str__(self) -> str:
        return (
            f"{statistics.median(self.wall):.3f} s (processor"
            f" {statistics.median(self.processor):.3f} s), {len(self.wall)} times"
        )


def moved(box: Box, step: int) -> Box:
    """Return the box shifted along I and J and one voxel larger along K."""
    i, j, k = box.lower
    a, b, c = box.upper
    return Box(box.class_name, (i + step, j - step, k), (a + step, b - step, c + 1))


def in_the_engine(segmenter: Segmenter, volume: Volume, repetitions: int) -> tuple[Clock, Clock]:
    """Measure full runs and updates in this process."""
    full, update = Clock(), Clock()
    segmenter.segment(volume)  # the first run of a process is the slowest
    for repetition in range(repetitions):
        with segmenter.open(volume) as session:
            first = full.time(session.segment)
            for one in first.instances:
                box = one.proposal.box if one.proposal is not None else one.box
                update.time(session.segment, [moved(box, 1 + repetition % 3)])
    return full, update


def through_the_worker(model: str, volume: Volume, repetitions: int) -> tuple[Clock, Clock]:
    """Measure full runs and updates through the worker process, as in Slicer."""
    sys.path.insert(0, str(ROOT / "MaskSAMSlicer"))
    from MaskSAMSlicerLib.worker.client import SegmentRequest, WorkerClient

    client, full, update = WorkerClient(core_folder=ROOT), Clock(), Clock()

    def run(boxes: list[Box], **more: object):
        request = SegmentRequest([volume], model, boxes=boxes, session="benchmark", **more)
        return client.wait(client.segment(request))

    try:
        run([])
        for repetition in range(repetitions):
            client.close_session("benchmark")
            first = full.time(run, [])
            for one in first.instances:
                box = one.box if one.proposal is None else one.proposal.box
                update.time(run, [moved(box, 1 + repetition % 3)], resume=True)
    finally:
        client.close()
    return full, update


def main() -> None:
    """Print the times of the engine and the worker."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--case", required=True)
    parser.add_argument("-m", "--model", default="hippocampus")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    volume = read_volume(options.dataset / "imagesTr" / f"{options.case}_0000.nii.gz")
    segmenter = Segmenter.from_model(options.model)
    print(f"{options.case} {volume.shape}, {segmenter.device}, {options.threads} threads")
    for where, (full, update) in (
        ("engine", in_the_engine(segmenter, volume, options.repetitions)),
        ("worker", through_the_worker(options.model, volume, options.repetitions)),
    ):
        ratio = statistics.median(full.wall) / statistics.median(update.wall)
        print(f"{where}: full run {full}; update {update}; ratio {ratio:.1f}")


if __name__ == "__main__":
    main()

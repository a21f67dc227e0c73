"""Peak memory of a segmentation above the loaded model.

    python -m Testing.benchmarks.peak_memory [--shape 300x512x512] [--classes 3]

Each line is measured in its own process: the peak resident memory minus the resident memory after
the network was loaded. The volume is included. The network is one convolution, so that memory and
time are those of the engine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from MaskSAMCore.data import ChannelNormalization, Plan
from MaskSAMCore.geometry import Volume
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling import ClassScores, Network, NetworkConfig

WINDOWS = ((16, 40, 56), (16, 128, 128), (32, 256, 256), (9, 512, 512))
# Spacing of the plan for a volume of 1 mm: equal, coarser, finer along one axis.
SPACINGS = ((1.0, 1.0, 1.0), (1.5, 1.5, 1.5), (0.8, 1.0, 1.0))


class OneConvolution(Network):
    """Smallest network with the interface of the others."""

    def __init__(self, window: tuple[int, int, int], classes: int) -> None:
        super().__init__(NetworkConfig(classes, window=window))
        self.convolution = nn.Conv3d(1, classes + 1, 1)

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, embedding: Tensor, prompts: object = None) -> ClassScores:
        return ClassScores(self.convolution(embedding).softmax(1))


def peak_bytes() -> int:
    """Return the peak resident memory of this process in bytes."""
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):
        return memory.peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure(
    shape: tuple[int, int, int],
    classes: int,
    window: tuple[int, int, int],
    spacing: tuple[float, float, float],
) -> dict[str, float]:
    """Return the peak memory above the model in GiB and the seconds of one segmentation."""
    normalization = (ChannelNormalization("zscore"),)
    plan = Plan("SPL", spacing, window, normalization, ("MR",))
    labels = [Label(n + 1, f"class {n + 1}", (1.0, 0.0, 0.0)) for n in range(classes)]
    segmenter = MaskSegmenter(OneConvolution(window, classes), plan, labels, device="cpu")
    segmenter.segment(Volume(np.zeros(window, dtype=np.int16), np.eye(4)))
    loaded = psutil.Process().memory_info().rss
    random = np.random.default_rng(0)
    array = np.empty(shape, dtype=np.int16)
    for plane in array:
        plane[:] = random.integers(-1000, 1000, plane.shape)
    started = time.perf_counter()
    segmenter.segment(Volume(array, np.diag([-1.0, -1.0, 1.0, 1.0])))
    seconds = time.perf_counter() - started
    return {"gib": (peak_bytes() - loaded) / 2**30, "seconds": seconds}


def main() -> None:
    """Measure every window and spacing, each in its own process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="300x512x512", help="K x J x I")
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = tuple(int(n) for n in options.shape.split("x"))
    if options.one:
        window, spacing = json.loads(options.one)
        print(json.dumps(measure(shape, options.classes, tuple(window), tuple(spacing))))
        return
    print(f"{options.shape} voxels, {options.classes} classes, {torch.get_num_threads()} threads")
    cases = [(window, SPACINGS[0]) for window in WINDOWS]
    cases += [(WINDOWS[2], spacing) for spacing in SPACINGS[1:]]
    for case in cases:
        command = [sys.executable, __file__, "--shape", options.shape]
        command += ["--classes", str(options.classes), "--one", json.dumps(case)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        window, spacing = ("x".join(map(str, numbers)) for numbers in case)
        print(
            f"window {window}, spacing {spacing} mm: {found['gib']:.2f} GiB above the model,"
            f" {found['seconds']:.0f} s"
        )


if __name__ == "__main__":
    main()

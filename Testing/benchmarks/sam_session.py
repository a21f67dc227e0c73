"""Time to update a moved box in a SAM session, compared with encoding a slice; peak memory.

    python -m Testing.benchmarks.sam_session [--model vit_b] [--threads 2] [--memory 300x512x512]

The weights are random, since times do not depend on them. Processor seconds are valid on a busy
machine too. With --memory, the encoder is one narrow block (a real encoder would take hours for all
slices), all other parts have their real size, and a box covers the whole volume, so that all
embeddings are kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time

import numpy as np
import torch

from MaskSAMCore import Box, Volume
from MaskSAMCore.inference.sam.segmenter import SamSegmenter
from MaskSAMCore.modeling import SAM_CONFIGS
from MaskSAMCore.modeling.sam.predictor import PlainSam
from Testing.benchmarks.peak_memory import peak_bytes

# Decoder and embedding keep SAM's widths.
NARROW = dataclasses.replace(
    SAM_CONFIGS["vit_b"], name="narrow", embed_dim=32, depth=1, num_heads=1, global_attn_indexes=()
)
MOVES = 9


def volume(shape: tuple[int, int, int]) -> Volume:
    """Return a volume of 16-bit noise whose axial slices are twice as thick as its pixels."""
    random = np.random.default_rng(0)
    array = random.integers(-1000, 400, shape, dtype=np.int16)
    return Volume(array, np.diag([-1.0, -1.0, 2.0, 1.0]))


def speed(name: str) -> None:
    """Print the time of encoding one slice and of moving a box on it."""
    torch.manual_seed(0)
    segmenter = SamSegmenter(PlainSam(SAM_CONFIGS[name]), device="auto", name=name)
    print(f"{name}, {segmenter.device}, {torch.get_num_threads()} thread(s), 512 x 512 slices")
    with segmenter.open(volume((3, 512, 512))) as session:
        wall, processor = [], []
        for step in range(MOVES + 1):
            box = Box("Moved", (100.0 + step, 150, 1), (300.0 + step, 330, 2))
            began, used = time.perf_counter(), time.process_time()
            session.segment([box])
            wall.append(time.perf_counter() - began)
            processor.append(time.process_time() - used)
    for what, seconds in (("seconds", wall), ("processor's seconds", processor)):
        update = statistics.median(seconds[1:])
        encode = seconds[0] - update
        print(
            f"{what}: encode {encode:.2f}, moved box to labelmap {update:.3f} (median of {MOVES}),"
            f" ratio {update / encode:.4f} (1/{encode / update:.0f})"
        )


def memory(shape: tuple[int, int, int]) -> None:
    """Print the peak memory above the loaded model while a box covers the whole volume."""
    segmenter = SamSegmenter(PlainSam(NARROW), device="cpu")
    image = volume(shape)
    before = peak_bytes()
    depth, rows, columns = shape
    began = time.perf_counter()
    with segmenter.open(image) as session:
        for step in (0, 1):
            session.segment([Box("All", (step, 0, 0), (columns, rows, depth))])
            peak = (peak_bytes() - before) / 2**30
            seconds = time.perf_counter() - began
            print(f"{depth} x {rows} x {columns}, run {step + 1}: {peak:.2f} GiB, {seconds:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("vit_b", "vit_l", "vit_h"), default="vit_b")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--memory", metavar="KxJxI")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.memory:
        k, j, i = (int(part) for part in options.memory.split("x"))
        memory((k, j, i))
    else:
        speed(options.model)


if __name__ == "__main__":
    main()

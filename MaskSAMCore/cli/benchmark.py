"""``masksam benchmark``: time a model on this machine."""

from __future__ import annotations

import statistics
import time

import typer
from rich.console import Console


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("benchmark")(benchmark)


def benchmark(
    model: str = typer.Option("hippocampus", "-m", "--model", help="Name or path of a bundle."),
    shape: str = typer.Option("36x50x35", help="Size of the volume in voxels, K x J x I."),
    repeats: int = typer.Option(5, min=1, help="Timed runs, after an untimed one."),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:N or mps."),
) -> None:
    """Time the segmentation of a noise volume at the model's own spacing: median and range.

    For SAM and MedSAM, one box on its middle slice is segmented.
    """
    import numpy as np

    from MaskSAMCore.errors import MaskSAMError
    from MaskSAMCore.geometry import Box, Volume, reorient
    from MaskSAMCore.inference import Segmenter

    try:
        k, j, i = (int(part) for part in shape.lower().split("x"))
        if min(k, j, i) < 1:
            raise ValueError
    except ValueError as error:
        raise MaskSAMError(f"--shape must look like 36x50x35, not '{shape}'") from error
    segmenter = Segmenter.from_model(model, device=device)
    noise = np.random.default_rng(0).normal(size=(k, j, i)).astype(np.float32)
    boxes = None
    plan = segmenter.plan
    if plan is None:
        volume = Volume(noise, np.diag([1.0, 1.0, 2.0, 1.0]))
        boxes = [Box("Middle", (i / 4, j / 4, k // 2), (i * 3 / 4, j * 3 / 4, k // 2 + 1))]
    else:
        matrix = np.diag([*plan.spacing[::-1], 1.0])
        volume = reorient(Volume(noise, matrix), plan.orientation)
    segmenter.segment(volume, boxes=boxes)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        segmenter.segment(volume, boxes=boxes)
        seconds.append(time.perf_counter() - start)
    part = "one slice of " if boxes else ""
    Console(markup=False).print(
        f"{model} on {segmenter.device}: {part}{k} x {j} x {i} voxels in"
        f" {statistics.median(seconds):.2f} s (median of {repeats},"
        f" {min(seconds):.2f} to {max(seconds):.2f} s)",
        highlight=False,
    )

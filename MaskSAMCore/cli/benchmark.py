"""``masksam benchmark``: how long a model takes on this machine."""

from __future__ import annotations

import statistics
import time

import typer
from rich.console import Console


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("benchmark")(benchmark)


def benchmark(
    model: str = typer.Option("hippocampus", "-m", "--model", help="Name or path of a bundle."),
    shape: str = typer.Option("36x50x35", help="Voxels of the volume, K x J x I."),
    repeats: int = typer.Option(5, min=1, help="Timed runs, after one that is not."),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:N or mps."),
) -> None:
    """Times segmentation of a noise volume at the model's own spacing: median and spread."""
    import numpy as np

    from ..errors import MaskSAMError
    from ..geometry import Volume, reorient
    from ..inference import Segmenter

    try:
        k, j, i = (int(part) for part in shape.lower().split("x"))
    except ValueError as error:
        raise MaskSAMError(f"--shape must look like 36x50x35, not '{shape}'") from error
    segmenter = Segmenter.from_model(model, device=device)
    spacing = segmenter.plan.spacing
    noise = np.random.default_rng(0).normal(size=(k, j, i)).astype(np.float32)
    matrix = np.diag([spacing[2], spacing[1], spacing[0], 1.0])
    volume = reorient(Volume(noise, matrix), segmenter.plan.orientation)
    segmenter.segment(volume)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        segmenter.segment(volume)
        seconds.append(time.perf_counter() - start)
    Console().print(
        f"{model} on {segmenter.device}: {k} x {j} x {i} voxels in"
        f" {statistics.median(seconds):.2f} s (median of {repeats},"
        f" {min(seconds):.2f} to {max(seconds):.2f} s)",
        highlight=False,
    )

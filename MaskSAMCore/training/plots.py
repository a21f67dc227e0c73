"""The curves of a training as a picture, from its CSV logs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np


def read_logs(run: Path) -> dict[str, list[tuple[float, float]]]:
    """Every logged value of a run, its resumed parts one after the other: name to (minutes,
    value)."""
    series: dict[str, list[tuple[float, float]]] = {}
    files = (run / "logs").glob("csv/version_*/metrics.csv")
    for path in sorted(files, key=lambda p: int(p.parent.name.split("_")[1])):
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                if not row.get("minutes"):
                    continue
                for name, value in row.items():
                    if value and name not in ("minutes", "step", "epoch"):
                        series.setdefault(name, []).append((float(row["minutes"]), float(value)))
    return series


def draw_curves(run: Path) -> Path:
    """Writes ``curves.png`` into the run: losses on the left, validation Dice on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series = read_logs(run)
    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, dice = figure.subplots(1, 2)
    for name, points in series.items():
        minutes, values = np.array(points).T
        if name.startswith("loss"):
            window = min(20, len(values))
            smooth = np.convolve(values, np.ones(window) / window, mode="valid")
            losses.plot(minutes[window - 1 :], smooth, label=name.replace("loss_", ""))
        elif name.startswith("val_dice"):
            label = name.replace("val_dice_", "").replace("val_dice", "mean")
            dice.plot(minutes, values, marker=".", label=label)
    losses.set(title="Training loss", xlabel="minutes", yscale="log")
    dice.set(title="Validation Dice", xlabel="minutes")
    for plot in (losses, dice):
        plot.grid(alpha=0.3)
        if plot.get_legend_handles_labels()[0]:
            plot.legend()
    target = run / "curves.png"
    beside = run / "curves.part.png"
    figure.savefig(beside, dpi=110)
    beside.replace(target)
    return target

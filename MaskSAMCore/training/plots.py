"""Training curves, drawn from a run's CSV logs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from MaskSAMCore.io import atomic_file

CURVES = "curves.png"


def read_logs(run: Path) -> dict[str, list[tuple[float, float]]]:
    """Return the logged series of a run, all its resumed parts together.

    Args:
        run: folder of the training.

    Returns:
        Points (minutes, value) of each logged quantity, in the order they were written.
    """
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
    """Draw the losses and the validation Dice of a run to ``curves.png`` in its folder."""
    # Matplotlib takes a second to import, and inference does not need it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4))
    # Matplotlib's own layouts draw everything twice.
    figure.subplots_adjust(left=0.08, right=0.99, bottom=0.13, top=0.92, wspace=0.16)
    FigureCanvasAgg(figure)
    losses, dice = figure.subplots(1, 2)
    for name, points in read_logs(run).items():
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
            for text in plot.legend().get_texts():
                text.set_parse_math(False)  # a class name may have dollar signs
    target = run / CURVES
    with atomic_file(target) as temporary:
        figure.savefig(temporary, dpi=110)
    return target

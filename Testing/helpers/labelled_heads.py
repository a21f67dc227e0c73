"""Generated labelmaps of an asymmetric head: skin around two halves, each with a core."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from Testing.helpers.generated import write_image

LABELS = {
    "background": 0,
    "skin": 90,
    "left half": 3,
    "left core": 10,
    "right half": 42,
    "right core": 49,
    "middle": 14,
}
TARGETS = {
    "left side": ["left half", "left core"],
    "right side": ["right half", "right core"],
    "middle": "middle",
}
DESCRIPTION: dict[str, Any] = {"labels": LABELS, "targets": TARGETS, "surroundings": ["skin"]}


def head(seed: int = 0, shape: tuple[int, int, int] = (30, 36, 40)) -> np.ndarray:
    """Return a labelmap, uint16, whose axes point to superior, anterior and right.

    The left core is larger than the right one, so that flips can be recognised.
    """
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"), -1)
    grid = grid - rng.uniform(-0.05, 0.05, 3)
    radius = np.sqrt((grid**2).sum(-1))
    values = np.zeros(shape, np.uint16)
    values[radius < 0.92] = LABELS["skin"]
    inside = radius < 0.7
    values[inside & (grid[..., 2] < 0)] = LABELS["left half"]
    values[inside & (grid[..., 2] >= 0)] = LABELS["right half"]
    for name, centre, size in (("left core", -0.35, 0.28), ("right core", 0.3, 0.18)):
        values[np.sqrt(((grid - (0.1, 0, centre)) ** 2).sum(-1)) < size] = LABELS[name]
    values[(np.abs(grid[..., 2]) < 0.07) & (radius < 0.4)] = LABELS["middle"]
    return values


def write_labelmaps(
    folder: Path, cases: int = 4, description: dict[str, Any] | None = None
) -> Path:
    """Write a labelmap dataset; every other labelmap has another orientation on disk."""
    # Directions are LPS: columns towards right are -x, rows towards anterior are -y.
    straight = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
    # Axis I points to superior, J to left and K to posterior.
    turned = (0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0)
    for number in range(cases):
        values = head(number)
        path = folder / "labelsTr" / f"head_{number:02d}.nii.gz"
        if number % 2:
            array = np.ascontiguousarray(values.transpose(1, 2, 0)[::-1, ::-1])
            write_image(array, path, turned, (1.0, 1.0, 1.0))
        else:
            write_image(values, path, straight, (1.0, 1.0, 1.0))
    if description is not None:
        (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    return folder

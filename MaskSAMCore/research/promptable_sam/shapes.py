"""Random shape maps: labelmaps without anatomy, for training a SAM to segment anything."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from MaskSAMCore.data.synthesis.random_source import RandomSource

# Range of the number of shapes that fill a map, and of the grid size of their random fields.
_SHAPES = (2, 16)
_CELLS = (2.0, 14.0)
# Largest number of ellipses on top, and range of their half axes as shares of the map's shorter
# side.
_ELLIPSES = 12
_HALF_AXES = (0.015, 0.25)
# Share of ellipses that have a wall, and range of its thickness as a share of the half axes.
_WALLED = 0.3
_WALL = (0.1, 0.4)


def random_shapes(rows: int, columns: int, rng: RandomSource) -> Tensor:
    """Return a map of random shapes, int64 (rows, columns), values from 0.

    Each pixel gets the index of the largest of several smooth random fields. Ellipses, some of them
    with a wall, are added on top.
    """
    shapes = _SHAPES[0] + rng.randint(_SHAPES[1] - _SHAPES[0])
    cells = max(2, round(math.exp(rng.uniform(*map(math.log, _CELLS)))))
    coarse = rng.normal_tensor((1, shapes, cells, cells))
    fields = F.interpolate(coarse, (rows, columns), mode="bicubic", align_corners=False)
    labels = fields[0].argmax(0)
    value = shapes
    y = (torch.arange(rows) + 0.5)[:, None]
    x = torch.arange(columns) + 0.5
    for _ in range(rng.randint(_ELLIPSES + 1)):
        cy, cx = rng.uniform(0, rows), rng.uniform(0, columns)
        a, b = (
            min(rows, columns) * math.exp(rng.uniform(*map(math.log, _HALF_AXES))) for _ in range(2)
        )
        angle = rng.uniform(0, math.pi)
        across = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
        along = (y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)
        distance = (across / a) ** 2 + (along / b) ** 2
        labels[distance <= 1] = value
        value += 1
        if rng.bernoulli(_WALLED):
            labels[distance <= (1 - rng.uniform(*_WALL)) ** 2] = value
            value += 1
    return labels

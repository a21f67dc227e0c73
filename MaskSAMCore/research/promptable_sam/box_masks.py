"""Masks that are derived from boxes alone: inscribed ellipses and filled boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def ellipses(boxes: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.bool_]:
    """Return the ellipses (N, rows, columns) inscribed in boxes (N, 4), x1 y1 x2 y2 in pixels."""
    x1, y1, x2, y2 = boxes.T[:, :, None]
    across = (np.arange(columns) + 0.5 - (x1 + x2) / 2) / (x2 - x1)
    down = (np.arange(rows) + 0.5 - (y1 + y2) / 2) / (y2 - y1)
    inside: NDArray[np.bool_] = down[:, :, None] ** 2 + across[:, None] ** 2 <= 0.25
    return inside


def filled_boxes(boxes: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.bool_]:
    """Return the pixels (N, rows, columns) whose centre lies in boxes (N, 4), x1 y1 x2 y2."""
    x1, y1, x2, y2 = boxes.T[:, :, None]
    x, y = np.arange(columns) + 0.5, np.arange(rows) + 0.5
    inside: NDArray[np.bool_] = ((y > y1) & (y < y2))[:, :, None] & ((x > x1) & (x < x2))[:, None]
    return inside

"""A person's boxes as prompts of windows (the paper's GT-prompt mode, supplement section 6).

A class may have several boxes. The network takes one box a class and slice: on each slice it is the
smallest one around all boxes of the class that cross the slice. A stack of boxes one slice thick
is therefore a set of per-slice boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from MaskSAMCore.geometry import EDGE_TOLERANCE
from MaskSAMCore.inference.sliding_window import Window
from MaskSAMCore.modeling.box_prompts import BoxPrompts

# Flips of a window are named by the axes of (T, H, W).
DEPTH, ROWS, COLUMNS = 0, 1, 2


@dataclass(frozen=True)
class ClassPrompt:
    """The boxes of one class on the plan's grid.

    Attributes:
        class_index: 1 to K.
        edges: (depth, 4), x1 y1 x2 y2 in voxel edges (columns, rows) of each slice.
        present: bool (depth,), a box of the class crosses the slice.
        exact: bool (depth,), all boxes that cross the slice are boxes of single slices: the class's
            own, where boxes in space only bound it.
    """

    class_index: int
    edges: NDArray[np.float64]
    present: NDArray[np.bool_]
    exact: NDArray[np.bool_]

    def extent(self, shape: Sequence[int]) -> tuple[slice, slice, slice]:
        """The part of the plan's grid that holds all boxes; empty where there are none.

        Args:
            shape: of the grid, (depth, rows, columns).
        """
        slices = np.flatnonzero(self.present)
        if slices.size == 0:
            return slice(0, 0), slice(0, 0), slice(0, 0)
        edges = self.edges[slices]
        first = np.floor(edges[:, :2].min(0) + EDGE_TOLERANCE).astype(int)
        last = np.ceil(edges[:, 2:].max(0) - EDGE_TOLERANCE).astype(int)
        rows = slice(max(int(first[1]), 0), min(int(last[1]), shape[ROWS]))
        columns = slice(max(int(first[0]), 0), min(int(last[0]), shape[COLUMNS]))
        return slice(int(slices[0]), int(slices[-1]) + 1), rows, columns


def class_prompt(
    class_index: int,
    boxes: Iterable[NDArray[np.float64]],
    depth: int,
    slice_thickness: float = 1.0,
) -> ClassPrompt:
    """Boxes of a class, united slice by slice.

    Args:
        class_index: 1 to K.
        boxes: each (2, 3), lower and upper edges (depth, row, column) on the plan's grid.
        depth: slices of the volume.
        slice_thickness: of the input's slices, in slices of the plan's grid. A box that is no
            thicker than a slice of either grid is the box of a single slice.
    """
    thinnest = max(1.0, slice_thickness) + 2 * EDGE_TOLERANCE
    exact = np.ones(depth, dtype=bool)
    edges = np.tile([np.inf, np.inf, -np.inf, -np.inf], (depth, 1))
    present = np.zeros(depth, dtype=bool)
    for lower, upper in boxes:
        crossed = crossed_slices(lower[DEPTH], upper[DEPTH], depth)
        present[crossed] = True
        exact[crossed] &= upper[DEPTH] - lower[DEPTH] <= thinnest
        low, high = (lower[COLUMNS], lower[ROWS]), (upper[COLUMNS], upper[ROWS])
        edges[crossed, :2] = np.minimum(edges[crossed, :2], low)
        edges[crossed, 2:] = np.maximum(edges[crossed, 2:], high)
    return ClassPrompt(class_index, edges, present, exact)


def crossed_slices(lower: float, upper: float, depth: int) -> slice:
    """Slices whose centre lies between two edges; the one that holds a box thinner than that."""
    first = max(int(np.ceil(lower - 0.5 - EDGE_TOLERANCE)), 0)
    last = min(int(np.ceil(upper - 0.5 - EDGE_TOLERANCE)), depth) - 1
    if first > last:
        first = last = int(np.clip(np.floor((lower + upper) / 2), 0, depth - 1))
    return slice(first, last + 1)


def window_prompt(
    prompt: ClassPrompt, window: Window, num_classes: int, flips: Sequence[int] = ()
) -> BoxPrompts | None:
    """The prompt of one window (B = 1), or None where the class's boxes do not reach it.

    Args:
        prompt: the boxes of a class.
        window: where.
        num_classes: K.
        flips: axes of (T, H, W) along which the window is mirrored.
    """
    slices, height, width = window.size
    present = np.zeros(slices, dtype=bool)
    boxes = np.zeros((slices, 4))
    inside, covered = window.inside[DEPTH], window.image[DEPTH]
    present[inside] = prompt.present[covered]
    exact = np.ones(slices, dtype=bool)
    exact[inside] = prompt.exact[covered]
    start = np.array([window.start[COLUMNS], window.start[ROWS]] * 2)
    size = np.array([width, height] * 2)
    boxes[present] = np.clip(prompt.edges[covered][prompt.present[covered]] - start, 0, size)
    extent = boxes[:, 2:] - boxes[:, :2]
    present &= extent.min(1) > EDGE_TOLERANCE
    if not present.any():
        return None
    boxes = np.where(present[:, None], boxes / size, 0.0)
    if DEPTH in flips:
        boxes, present, exact = boxes[::-1], present[::-1], exact[::-1]
    if ROWS in flips:
        boxes = _mirrored(boxes, present, 1)
    if COLUMNS in flips:
        boxes = _mirrored(boxes, present, 0)
    all_boxes = torch.zeros(1, num_classes + 1, slices, 4)
    all_boxes[0, prompt.class_index] = _tensor(boxes)
    given = torch.zeros(1, num_classes + 1, dtype=torch.bool)
    given[0, prompt.class_index] = True
    all_present = torch.zeros(1, num_classes + 1, slices, dtype=torch.bool)
    all_present[0, prompt.class_index] = _tensor(present)
    all_exact = torch.ones(1, num_classes + 1, slices, dtype=torch.bool)
    all_exact[0, prompt.class_index] = _tensor(exact)
    return BoxPrompts(all_boxes, given, all_present, all_exact)


def _mirrored(
    boxes: NDArray[np.float64], present: NDArray[np.bool_], lower: int
) -> NDArray[np.float64]:
    """Boxes (T, 4) mirrored along x (lower edge in column 0) or y (in column 1)."""
    mirrored = boxes.copy()
    mirrored[present, lower] = 1 - boxes[present, lower + 2]
    mirrored[present, lower + 2] = 1 - boxes[present, lower]
    return mirrored


def _tensor(values: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))

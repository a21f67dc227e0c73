"""Boxes of the user as prompts of windows (the paper's GT-prompt mode, supplement section 6).

A class may have several boxes, but the network takes one box per class and slice: the bounding box
of all boxes of the class that cross the slice. A stack of boxes, each one slice thick, therefore
gives each slice a separate box.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import EDGE_TOLERANCE
from MaskSAMCore.inference.sliding_window import Window
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling.box_prompts import BoxPrompts

# Axes of a window (T, H, W).
DEPTH, ROWS, COLUMNS = 0, 1, 2


@dataclass(frozen=True)
class ClassPrompt:
    """Boxes of one class on the plan's grid.

    Attributes:
        class_index: 1 to K.
        edges: (depth, 4), x1 y1 x2 y2 on each slice, in voxel edges (columns, rows).
        present: bool (depth,), True for a slice that a box of the class crosses.
        exact: bool (depth,), True for a slice that only boxes of single slices cross: such a box is
            the class's own on the slice, whereas a box in space only bounds the class.
        boxes: (M, 2, 3), lower and upper edges (depth, row, column) of each box.
    """

    class_index: int
    edges: NDArray[np.float64]
    present: NDArray[np.bool_]
    exact: NDArray[np.bool_]
    boxes: NDArray[np.float64]

    def extent(self, shape: Sequence[int]) -> tuple[slice, slice, slice]:
        """Return the region of the plan's grid that contains all boxes, empty without boxes.

        Args:
            shape: (depth, rows, columns) of the grid.
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


def class_index(name: str, labels: Sequence[Label]) -> int:
    """Return the index, 1 to K, of the class that a box is named after.

    Args:
        name: name of the box; upper and lower case and surrounding spaces do not matter.
        labels: classes 1 to K in order.

    Raises:
        MaskSAMError: the box names no class.
    """
    for index, label in enumerate(labels, start=1):
        if label.name.strip().casefold() == name.strip().casefold():
            return index
    known = ", ".join(label.name for label in labels)
    raise MaskSAMError(f"the box '{name}' names no class of this model: choose one of {known}")


def class_prompt(
    class_index: int,
    boxes: Iterable[NDArray[np.float64]],
    depth: int,
    slice_thickness: float = 1.0,
) -> ClassPrompt:
    """Unite the boxes of a class slice by slice.

    Args:
        class_index: 1 to K.
        boxes: arrays (2, 3), lower and upper edges (depth, row, column) on the plan's grid.
        depth: number of slices of the plan's grid.
        slice_thickness: thickness of the input's slices, in slices of the plan's grid. A box that
            is no thicker than a slice of either grid is the box of a single slice.
    """
    parts = np.array(list(boxes), np.float64).reshape(-1, 2, 3)
    thinnest = max(1.0, slice_thickness) + 2 * EDGE_TOLERANCE
    exact = np.ones(depth, dtype=bool)
    edges = np.tile([np.inf, np.inf, -np.inf, -np.inf], (depth, 1))
    present = np.zeros(depth, dtype=bool)
    for lower, upper in parts:
        crossed = crossed_slices(lower[DEPTH], upper[DEPTH], depth)
        present[crossed] = True
        exact[crossed] &= upper[DEPTH] - lower[DEPTH] <= thinnest
        low, high = (lower[COLUMNS], lower[ROWS]), (upper[COLUMNS], upper[ROWS])
        edges[crossed, :2] = np.minimum(edges[crossed, :2], low)
        edges[crossed, 2:] = np.maximum(edges[crossed, 2:], high)
    return ClassPrompt(class_index, edges, present, exact, parts)


def crossed_slices(lower: float, upper: float, depth: int) -> slice:
    """Return the slices whose centre lies between two edges; if there are none, the slice in which
    the box lies."""
    first = max(int(np.ceil(lower - 0.5 - EDGE_TOLERANCE)), 0)
    last = min(int(np.ceil(upper - 0.5 - EDGE_TOLERANCE)), depth) - 1
    if first > last:
        first = last = int(np.clip(np.floor((lower + upper) / 2), 0, depth - 1))
    return slice(first, last + 1)


def window_prompt(
    prompt: ClassPrompt, window: Window, num_classes: int, flips: Sequence[int] = ()
) -> BoxPrompts | None:
    """Return the prompt of one window (B = 1), or None if no box of the class reaches it.

    Args:
        prompt: boxes of a class.
        window: the window.
        num_classes: K, the number of foreground classes.
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
    """Mirror boxes (T, 4) along x (`lower` 0) or y (`lower` 1), the column of the lower edge."""
    mirrored = boxes.copy()
    mirrored[present, lower] = 1 - boxes[present, lower + 2]
    mirrored[present, lower + 2] = 1 - boxes[present, lower]
    return mirrored


def _tensor(values: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))

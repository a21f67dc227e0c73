"""Boxes that the reference gives, for systems that are told where things are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.geometry import Box, Volume, axis_mapping
from MaskSAMCore.research.comparison.systems import Prompt


def reference_boxes(
    reference: Volume,
    names: Sequence[str],
    values: Sequence[int],
    prompt: Prompt,
    axis: int,
) -> list[Box]:
    """Tight boxes around the classes of a reference, in IJK voxel edges.

    Args:
        reference: the labelmap.
        names, values: of the classes; those that are absent have no box.
        prompt: "box" for one in space around each class, "boxes" for one on each slice of it.
        axis: of [K, J, I] that slices are across.
    """
    boxes: list[Box] = []
    for name, value in zip(names, values, strict=True):
        mask = reference.array == value
        if prompt == "box" and mask.any():
            boxes.append(_tight(name, mask, (0, 0, 0)))
        elif prompt == "boxes":
            others = tuple(other for other in range(3) if other != axis)
            for index in np.flatnonzero(mask.any(others)).tolist():
                start = [0, 0, 0]
                start[axis] = index
                part = np.take(mask, [index], axis)
                boxes.append(_tight(name, part, (start[0], start[1], start[2])))
    return boxes


def slice_axis(reference: Volume, orientation: str | None) -> int:
    """The axis of [K, J, I] that a system's slices are across.

    Args:
        reference: on the volume's grid.
        orientation: of the system's plan; None for the coarsest axis, of equal ones the one nearest
            to superior, before anterior, before right.
    """
    if orientation is not None:
        return axis_mapping(reference.ijk_to_ras, orientation)[0][0]
    axes = axis_mapping(reference.ijk_to_ras, "SAR")[0]
    spacing = reference.spacing[::-1]
    return max(axes, key=lambda axis: (round(spacing[axis], 3), -axes.index(axis)))


def _tight(name: str, mask: NDArray[np.bool_], start: tuple[int, int, int]) -> Box:
    """The box of a part of a volume that begins at a voxel [k, j, i]."""
    spans = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(tuple(other for other in range(3) if other != axis)))
        spans.append((float(used[0] + start[axis]), float(used[-1] + 1 + start[axis])))
    (k0, k1), (j0, j1), (i0, i1) = spans
    return Box(name, (i0, j0, k0), (i1, j1, k1))

"""Box prompts from the reference, for systems that need or accept them."""

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
    """Return tight boxes around the classes of a reference, in IJK voxel edges.

    Args:
        reference: the reference labelmap.
        names: names of the classes.
        values: values of the classes in the labelmap; an absent class gets no box.
        prompt: "box" for one box in space around each class, "boxes" for one box on each of its
            slices, "none" for no box.
        axis: axis of [K, J, I] across the slices.
    """
    boxes: list[Box] = []
    for name, value in zip(names, values, strict=True):
        mask = reference.array == value
        if prompt == "box" and mask.any():
            boxes.append(_tight_box(name, mask, (0, 0, 0)))
        elif prompt == "boxes":
            others = tuple(other for other in range(3) if other != axis)
            for index in np.flatnonzero(mask.any(others)).tolist():
                start = [0, 0, 0]
                start[axis] = index
                part = np.take(mask, [index], axis)
                boxes.append(_tight_box(name, part, (start[0], start[1], start[2])))
    return boxes


def slice_axis(reference: Volume, orientation: str | None) -> int:
    """Return the axis of [K, J, I] across a system's slices.

    Args:
        reference: the reference labelmap.
        orientation: orientation of the system's plan; None for a system without a plan, whose
            slices lie across the coarsest axis. Among equally coarse axes, superior takes
            precedence over anterior, and anterior over right.
    """
    if orientation is not None:
        return axis_mapping(reference.ijk_to_ras, orientation)[0][0]
    axes = axis_mapping(reference.ijk_to_ras, "SAR")[0]
    spacing = reference.spacing[::-1]
    return max(axes, key=lambda axis: (round(spacing[axis], 3), -axes.index(axis)))


def _tight_box(name: str, mask: NDArray[np.bool_], start: tuple[int, int, int]) -> Box:
    """Return the tight box of a mask whose first voxel is voxel ``start`` [K, J, I] of a volume."""
    spans = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(tuple(other for other in range(3) if other != axis)))
        spans.append((float(used[0] + start[axis]), float(used[-1] + 1 + start[axis])))
    (k0, k1), (j0, j1), (i0, i1) = spans
    return Box(name, (i0, j0, k0), (i1, j1, k1))

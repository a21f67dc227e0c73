"""Intracranial volume: classes that fill the skull together, if the image shows all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from MaskSAMCore.inference.results import Segmentation

# A sphere of 1.45 l that is cut where its section has this area loses less than 1 % of its volume.
_LARGEST_SECTION_MM2 = 3000.0
CUT = "The image cuts the head: the structures reach its edge, so no intracranial volume is given."


def with_intracranial(result: Segmentation, names: Sequence[str]) -> Segmentation:
    """Return a result with the classes that fill the skull, or with a note if the image cuts them.

    Args:
        result: result for a whole image.
        names: classes that fill the skull together; none if the model does not state them, or only
            a part of the image was segmented.
    """
    if not any(instance.name in names for instance in result.instances):
        return result
    if _largest_section(result, names) > _LARGEST_SECTION_MM2:
        return replace(result, notes=(*result.notes, CUT))
    return replace(result, intracranial=tuple(names))


def _largest_section(result: Segmentation, names: Sequence[str]) -> float:
    """Return the largest area of the classes in an outermost slice of the image, in mm2."""
    values = [label.value for label in result.labels if label.name in names]
    voxel_mm3 = 1000 * result.volume.voxel_ml
    areas = []
    for axis, size in enumerate(result.labelmap.shape):
        # Spacing is along I, J, K; arrays are [K, J, I].
        area = voxel_mm3 / result.volume.spacing[2 - axis]
        for index in (0, size - 1):
            outermost = result.labelmap.take(index, axis)
            areas.append(area * float(np.isin(outermost, values).sum()))
    return max(areas)

"""Clean-up of a labelmap after the network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Voxels that share a face, an edge or a corner belong together (nnU-Net's convention).
CONNECTIVITY = np.ones((3, 3, 3), dtype=bool)


def keep_largest_components(labelmap: NDArray[Any], values: Iterable[int]) -> None:
    """Set all but the largest component of each given label to background, in place.

    Args:
        labelmap: integer [K, J, I].
        values: the labels concerned; one that is absent is left alone. Of two equally large
            components the first in array order stays.
    """
    wanted = set(values)
    if not wanted:
        return
    for value, found in enumerate(ndimage.find_objects(labelmap), start=1):
        if found is None or value not in wanted:
            continue
        part = labelmap[found]
        mask = part == value
        components, count = ndimage.label(mask, CONNECTIVITY)
        if count > 1:
            # Slab by slab: bincount works on 64-bit copies, which would double the peak memory.
            sizes = np.zeros(count + 1, dtype=np.int64)
            for slab in components:
                sizes += np.bincount(slab.ravel(), minlength=count + 1)
            sizes[0] = 0
            part[mask & (components != sizes.argmax())] = 0

"""From scores on the plan's grid to labels on the input's, class by class with a running maximum.

Only a slab of a few slices is ever interpolated at a time, and of that slab only the best score and
its label are kept, so that the peak memory does not grow with the number of classes.

Where a person gave boxes, these rules decide (all others keep the plain maximum):

- A class with boxes takes what its new scores win from another class. What it gains over its
  automatic score it gains from the background, so that against background it wins above one half
  (with a weight w of the background, as everywhere, above w / (1 + w)).
- A voxel that it leaves goes to the background, unless another class had more than half of the
  score that was lost there: mere noise below the old score claims nothing.
- So no voxel ever changes from one class without boxes to another, nor from such a class to
  background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.inference.decision import Slab
from MaskSAMCore.inference.progress import Progress
from MaskSAMCore.inference.scoring import EditedScores

# Voxels of a slab, of the larger of the two grids: 32 MiB for each of its few float32 arrays.
SLAB_VOXELS = 1 << 23


def export(
    scores: Tensor,
    edited: Mapping[int, EditedScores],
    values: NDArray[Any],
    labelmap: NDArray[Any],
    probabilities: Sequence[NDArray[np.float32]] | None,
    progress: Progress,
    background_weight: float = 1.0,
) -> NDArray[np.float64]:
    """Resample scores, decide, and write the labels.

    Args:
        scores: (K + 1, depth, rows, columns) on the plan's grid.
        edited: new scores of the classes with boxes, by class index.
        values: (K + 1,), the label value of each class.
        labelmap: written: (depth, rows, columns), the input's voxels in the plan's orientation.
        probabilities: written where wanted: one array a class on the same voxels.
        progress: told of each slab.
        background_weight: what the background is multiplied with before classes are compared.

    Returns:
        (K + 1,): mean probability of each class over its voxels, 0 where it has none.
    """
    count, shape = len(scores), labelmap.shape
    sums, voxels = np.zeros(count), np.zeros(count)
    slices = max(1, SLAB_VOXELS // max(shape[1] * shape[2], scores[0, 0].numel()))
    for first in range(0, shape[0], slices):
        progress.step(first, shape[0])
        part = slice(first, min(first + slices, shape[0]))
        slab = Slab(scores, edited, shape, part, background_weight)
        label, probability = slab.decide()
        labelmap[part] = values[label.numpy()]
        flat = label.flatten()
        voxels += torch.bincount(flat, minlength=count).numpy()
        sums += torch.bincount(flat, probability.flatten(), minlength=count).numpy()
        if probabilities is not None:
            for target, share in zip(probabilities, slab.probabilities(), strict=True):
                target[part] = share.numpy()
    return sums / np.maximum(voxels, 1)

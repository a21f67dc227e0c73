"""What a segmentation is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.inference.proposals import Proposal
from MaskSAMCore.labels import Label


@dataclass(frozen=True)
class Instance:
    """A class with at least one voxel in a segmentation.

    Attributes:
        value: integer of the class in the labelmap.
        name: name of the class.
        confidence: mean probability of the class over its voxels, 0 to 1.
        box: bounding box of the class's voxels, in IJK voxel edges of the input; carries the name.
        voxel_count: number of voxels.
        proposal: boxes that the network predicted for the class, in 3D and slice by slice; None if
            the network predicts no boxes, or none for this class.
    """

    value: int
    name: str
    confidence: float
    box: Box
    voxel_count: int
    proposal: Proposal | None = None

    @property
    def score(self) -> float:
        """Alias of :attr:`confidence`."""
        return self.confidence


@dataclass(frozen=True)
class Segmentation:
    """The result for a volume, on the volume's own grid.

    Attributes:
        labelmap: uint8 or uint16 [K, J, I], label values; 0 is background.
        labels: all classes of the model.
        instances: one for each class found, in the order of the labels.
        volume: the input (its first channel), whose geometry the labelmap shares.
        probabilities: float32 [classes + 1, K, J, I] that sum to one, background first; None unless
            asked for.
        notes: remarks for the person, such as a change of device for lack of memory.
    """

    labelmap: NDArray[Any]
    labels: tuple[Label, ...]
    instances: tuple[Instance, ...]
    volume: Volume
    probabilities: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()


def find_instances(
    labelmap: NDArray[Any],
    labels: Sequence[Label],
    scores: Iterable[float],
    proposals: Sequence[Proposal | None] | None = None,
) -> tuple[Instance, ...]:
    """The classes present in a labelmap.

    Args:
        labelmap: integer [K, J, I].
        labels: the model's classes.
        scores: mean probability of each of them.
        proposals: the network's boxes of each of them.
    """
    highest = max(label.value for label in labels)
    counts = np.zeros(highest + 1, dtype=np.int64)
    for plane in labelmap:  # plane by plane: bincount works on 64-bit copies
        counts += np.bincount(plane.ravel(), minlength=highest + 1)
    places = ndimage.find_objects(labelmap, highest)
    instances = []
    proposals = proposals or [None] * len(labels)
    for label, score, proposal in zip(labels, scores, proposals, strict=True):
        place = places[label.value - 1]
        if place is not None:
            k, j, i = place
            lower = (float(i.start), float(j.start), float(k.start))
            upper = (float(i.stop), float(j.stop), float(k.stop))
            box = Box(label.name, lower, upper)
            count = int(counts[label.value])
            found = Instance(label.value, label.name, float(score), box, count, proposal)
            instances.append(found)
    return tuple(instances)

"""Result of a segmentation: labelmap, instances and their clean-up."""

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

# Voxels that share a face, an edge or a corner are connected, as in nnU-Net.
CONNECTIVITY = np.ones((3, 3, 3), dtype=bool)


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
        expected_dice: expected Dice with the true segmentation, 0 to 1; None if the model cannot
            estimate it, or the user's boxes decided the class.
        expected_dice_low: bound that the Dice exceeds in nine out of ten cases; None without an
            expected Dice.
        weakest_place: (i, j, k) in voxel edges, in the middle of the slice of the class that the
            network is least sure of; None without an expected Dice, or if the class has no voxels
            on the plan's grid.
    """

    value: int
    name: str
    confidence: float
    box: Box
    voxel_count: int
    proposal: Proposal | None = None
    expected_dice: float | None = None
    expected_dice_low: float | None = None
    weakest_place: tuple[float, float, float] | None = None

    @property
    def score(self) -> float:
        """Alias of :attr:`confidence`."""
        return self.confidence


@dataclass(frozen=True)
class Segmentation:
    """Result for a volume, on the volume's own grid.

    Attributes:
        labelmap: uint8 or uint16 [K, J, I], values of the labels; 0 is the background.
        labels: all classes of the model.
        instances: one per class with voxels, in the order of the labels.
        volume: the input (its first channel), whose geometry the labelmap has.
        probabilities: float32 (classes + 1, K, J, I), background first, with a sum of 1; None
            unless they were requested.
        notes: messages for the user, such as a warning about the file that the volume was read
            from, or a change of device because memory ran out.
        intracranial: names of the classes whose volumes add up to the intracranial volume; empty if
            the model does not state them, or only a part of the head was segmented.
    """

    labelmap: NDArray[Any]
    labels: tuple[Label, ...]
    instances: tuple[Instance, ...]
    volume: Volume
    probabilities: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()
    intracranial: tuple[str, ...] = ()


def nothing_found(name: str) -> str:
    """Return a note for the user about a class that has boxes and no voxels."""
    return f"nothing was found in the box '{name}'"


def find_instances(
    labelmap: NDArray[Any],
    labels: Sequence[Label],
    confidences: Iterable[float],
    proposals: Sequence[Proposal | None] | None = None,
) -> tuple[Instance, ...]:
    """Return the classes that have voxels in a labelmap.

    Args:
        labelmap: integer [K, J, I].
        labels: classes of the model.
        confidences: mean probability of each class over its voxels.
        proposals: boxes that the network predicted for each class; None if it predicts none.
    """
    highest = max(label.value for label in labels)
    counts = np.zeros(highest + 1, dtype=np.int64)
    for plane in labelmap:  # plane by plane, because bincount makes a 64-bit copy
        counts += np.bincount(plane.ravel(), minlength=highest + 1)
    regions = ndimage.find_objects(labelmap, highest)
    proposals = proposals or [None] * len(labels)
    instances = []
    for label, confidence, proposal in zip(labels, confidences, proposals, strict=True):
        region = regions[label.value - 1]
        if region is None:
            continue
        k, j, i = region
        box = Box(
            label.name,
            (float(i.start), float(j.start), float(k.start)),
            (float(i.stop), float(j.stop), float(k.stop)),
        )
        count = int(counts[label.value])
        instances.append(Instance(label.value, label.name, float(confidence), box, count, proposal))
    return tuple(instances)


def keep_largest_components(
    labelmap: NDArray[Any], values: Iterable[int], before: NDArray[Any] | None = None
) -> None:
    """Set all but the largest connected component of some labels to background, in place.

    Args:
        labelmap: integer [K, J, I].
        values: values of the labels; one without voxels is ignored. Of two components of equal
            size, the first in array order remains.
        before: labelmap before boxes of the user changed it: the component of a label that has most
            voxels in common with the label there is kept, the largest if none has any. None for a
            labelmap without changes.
    """
    wanted = set(values)
    if not wanted:
        return
    for value, region in enumerate(ndimage.find_objects(labelmap), start=1):
        if region is None or value not in wanted:
            continue
        part = labelmap[region]
        mask = part == value
        components, count = ndimage.label(mask, CONNECTIVITY)
        if count > 1:
            # Plane by plane, because bincount makes a 64-bit copy, which would double the memory.
            sizes, common = np.zeros((2, count + 1), dtype=np.int64)
            for index, plane in enumerate(components):
                sizes += np.bincount(plane.ravel(), minlength=count + 1)
                if before is not None:
                    known = plane[before[region][index] == value]
                    common += np.bincount(known, minlength=count + 1)
            sizes[0] = common[0] = 0
            kept = (common if common.any() else sizes).argmax()
            part[mask & (components != kept)] = 0

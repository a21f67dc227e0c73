"""Settings that a segmenter and its sessions share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Literal

from MaskSAMCore.data import Plan
from MaskSAMCore.data.planning import WINDOW_OVERLAP
from MaskSAMCore.labels import Label
from MaskSAMCore.models import ANY_INPUT, Suitability
from MaskSAMCore.models.expected_dice import DiceEstimator

TestTimeAugmentation = Literal["none", "mirror"]
# Axes of a window (T, H, W) along which it is mirrored.
Flips = tuple[int, ...]
UNMIRRORED: tuple[Flips, ...] = ((),)


@dataclass(frozen=True)
class InferenceSettings:
    """Settings of a network with classes, all of them fixed when it was trained.

    Attributes:
        plan: orientation, spacing and intensities of the network's input.
        labels: classes 1 to K in order.
        largest_component: values of the labels of which only the largest component is kept,
            because that raised the validation Dice.
        background_weight: factor of the background's scores, above 1 if that raised the
            validation Dice: masks of networks trained with a Dice loss are often too large.
        intensity_weight: weight of the intensities of doubtful voxels beside their scores, from 0
            to 1, see :mod:`MaskSAMCore.inference.intensity_model`.
        window_overlap: smallest overlap of neighbouring windows, as a share of a window.
        mirror: axes of a window (0 depth, 1 rows, 2 columns) that were mirrored in training.
        suitability: inputs that the network was made for.
        estimator: estimator of the Dice of results; None if it cannot be estimated.
        intracranial: names of the classes that fill the skull together; empty if unknown.
    """

    plan: Plan
    labels: tuple[Label, ...]
    largest_component: frozenset[int] = frozenset()
    background_weight: float = 1.0
    intensity_weight: float = 0.0
    window_overlap: float = WINDOW_OVERLAP
    mirror: tuple[int, ...] = (0, 1, 2)
    suitability: Suitability = ANY_INPUT
    estimator: DiceEstimator | None = None
    intracranial: tuple[str, ...] = ()

    def passes(self, tta: TestTimeAugmentation) -> tuple[Flips, ...]:
        """Return the passes whose scores are averaged, the unmirrored one first."""
        return mirrored_passes(self.mirror) if tta == "mirror" else UNMIRRORED


def mirrored_passes(axes: Sequence[int]) -> tuple[Flips, ...]:
    """Return all combinations of mirrored axes, eight for three axes as in the paper."""
    return tuple(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))

"""Settings that a segmenter and its sessions share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations

from MaskSAMCore.data import Plan
from MaskSAMCore.geometry import Volume
from MaskSAMCore.labels import Label
from MaskSAMCore.models import ANY_INPUT, Suitability
from MaskSAMCore.models.expected_dice import DiceEstimator
from MaskSAMCore.models.inference_settings import InferenceSettings, TestTimeAugmentation

# Axes of a window (T, H, W) along which it is mirrored.
Flips = tuple[int, ...]
UNMIRRORED: tuple[Flips, ...] = ((),)


@dataclass(frozen=True)
class SegmenterSettings:
    """Properties of a model with classes that a segmenter shares with its sessions.

    Attributes:
        plan: orientation, spacing and intensities of the network's input.
        labels: classes 1 to K in order.
        inference: settings that decide how scores become a labelmap.
        suitability: inputs that the network was made for.
        estimator: estimator of the Dice of results; None if it cannot be estimated.
        intracranial: names of the classes that fill the skull together; empty if unknown.
    """

    plan: Plan
    labels: tuple[Label, ...]
    inference: InferenceSettings
    suitability: Suitability = ANY_INPUT
    estimator: DiceEstimator | None = None
    intracranial: tuple[str, ...] = ()

    def doubts(self, volumes: Sequence[Volume], has_roi: bool) -> tuple[str, ...]:
        """Return reasons why the model may perform badly on a case, see :class:`Suitability`.

        Args:
            volumes: one image per channel.
            has_roi: whether only an ROI of the images is processed.
        """
        each = (self.suitability.doubts(volume, has_roi) for volume in volumes)
        return tuple(dict.fromkeys(chain.from_iterable(each)))

    def passes(self, tta: TestTimeAugmentation) -> tuple[Flips, ...]:
        """Return the passes whose scores are averaged, the unmirrored one first."""
        return mirrored_passes(self.inference.mirror) if tta == "mirror" else UNMIRRORED


def mirrored_passes(axes: Sequence[int]) -> tuple[Flips, ...]:
    """Return all combinations of mirrored axes, eight for three axes as in the paper."""
    return tuple(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))

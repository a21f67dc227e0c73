"""Settings of inference that are chosen in training and validation, and saved with the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from MaskSAMCore.data.planning import WINDOW_OVERLAP

TestTimeAugmentation = Literal["none", "mirror"]


@dataclass(frozen=True)
class InferenceSettings:
    """Settings that decide how the scores of a network's windows become a labelmap.

    Attributes:
        largest_component: values of the labels of which only the largest component is kept,
            because that raised the validation Dice.
        background_weight: factor of the background's scores, from 0.01 to 100; above 1 if that
            raised the validation Dice: masks of networks trained with a Dice loss are often too
            large.
        intensity_weight: weight of the intensities of doubtful voxels beside their scores, from 0
            to 1, see :mod:`MaskSAMCore.inference.intensity_model`.
        window_overlap: smallest overlap of neighbouring windows, from 0 to 0.75 of a window.
        mirror: axes of a window (0 depth, 1 rows, 2 columns) that were mirrored in training, and
            may be mirrored at test time.
        tta: test-time augmentation that the model is meant to be used with.

    Raises:
        ValueError: a value is outside its range.
    """

    largest_component: frozenset[int] = frozenset()
    background_weight: float = 1.0
    intensity_weight: float = 0.0
    window_overlap: float = WINDOW_OVERLAP
    mirror: tuple[int, ...] = ()
    tta: TestTimeAugmentation = "none"

    def __post_init__(self) -> None:
        for name, low, high in (
            ("background_weight", 0.01, 100),
            ("intensity_weight", 0, 1),
            ("window_overlap", 0, 0.75),
        ):
            value: Any = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise ValueError(f"{name} {value!r} is not a number between {low} and {high}")
        if not set(self.mirror) <= {0, 1, 2}:
            raise ValueError(f"it mirrors axes that a window does not have: {list(self.mirror)}")
        if self.tta not in ("none", "mirror"):
            raise ValueError(f"'tta' must be none or mirror, not {self.tta!r:.50}")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> InferenceSettings:
        """Read the settings among other values; those that are missing have their default.

        Raises:
            TypeError, ValueError: a value has another type, or is outside its range.
        """
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        largest = frozenset(int(value) for value in known.pop("largest_component", ()))
        mirror = tuple(int(axis) for axis in known.pop("mirror", ()))
        return cls(largest, mirror=mirror, **known)

    def to_json(self) -> dict[str, Any]:
        """Return plain types for :meth:`from_json`."""
        values: dict[str, Any] = {
            "largest_component": sorted(self.largest_component),
            "background_weight": self.background_weight,
            "mirror": list(self.mirror),
        }
        # Versions without these settings can read bundles that do not use them.
        if self.intensity_weight:
            values["intensity_weight"] = self.intensity_weight
        if self.window_overlap != WINDOW_OVERLAP:
            values["window_overlap"] = self.window_overlap
        if self.tta != "none":
            values["tta"] = self.tta
        return values

"""Inputs that a model was made for, and doubts whether a volume is one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.geometry import Volume, axis_mapping
from MaskSAMCore.intensities import looks_like_labelmap, modality

# Tolerance of the voxel sizes that a model is made for, in mm.
_SPACING_TOLERANCE = 1e-3
# A volume is unusual if its extent is below the first multiple of that of the structures, or above
# the second multiple of that of the images in training.
_FAR_SMALLER, _FAR_LARGER = 0.5, 2.0

# Extents in mm along right-left, anterior-posterior and superior-inferior, see Suitability.
FieldOfView = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Suitability:
    """Inputs that a model was made for, as its card states them.

    Attributes:
        modality: DICOM's term, such as "MR" or "CT"; empty if not stated.
        spacing_mm: smallest and largest voxel size; None if not stated.
        needs_roi: True if the model was trained on crops.
        field_of_view_mm: for each direction, the smallest extent of all labelled structures
            together and the largest extent of an image in training; None if not stated.
    """

    modality: str = ""
    spacing_mm: tuple[float, float] | None = None
    needs_roi: bool = False
    field_of_view_mm: FieldOfView | None = None

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> Suitability:
        """Read the card of a model.

        Raises:
            ValueError: a range of the card is not a pair of numbers.
        """
        spacing, view = card.get("spacing_mm"), card.get("field_of_view_mm")
        if view is not None:
            try:
                right, anterior, superior = (_range(limits) for limits in view)
            except TypeError as error:
                raise ValueError(f"{view!r} is not a field of view") from error
            view = right, anterior, superior
        return cls(
            str(card.get("modality") or ""),
            None if spacing is None else _range(spacing),
            bool(card.get("needs_roi", False)),
            view,
        )

    def doubts(self, volume: Volume, has_roi: bool) -> tuple[str, ...]:
        """Return reasons why the model may perform badly on a volume, for the user.

        Args:
            volume: the volume.
            has_roi: whether only an ROI of the volume is processed.
        """
        doubts = []
        found = modality(volume)
        if self.modality and found and found != self.modality:
            doubts.append(
                f"This model is made for {self.modality}, but the volume looks like {found}."
            )
        if self.modality and looks_like_labelmap(volume.array):
            doubts.append(
                f"This model is made for {self.modality}, but the volume has only a few different"
                " intensities, as masks and labelmaps have."
            )
        if self.spacing_mm is not None:
            low, high = self.spacing_mm
            smallest, largest = min(volume.spacing), max(volume.spacing)
            if smallest < low - _SPACING_TOLERANCE or largest > high + _SPACING_TOLERANCE:
                voxels = " x ".join(f"{value:.2g}" for value in volume.spacing)
                doubts.append(
                    f"This model is made for voxels of {low:g} to {high:g} mm, but the volume has"
                    f" voxels of {voxels} mm."
                )
        # An ROI is the user's own choice of what the model sees.
        return tuple(doubts) if has_roi else (*doubts, *self._doubts_on_extent(volume))

    def lacks_roi(self, volume: Volume) -> bool:
        """Return whether a volume needs an ROI: the model was trained on crops, and the volume is
        far larger than images in training, or their size is not stated."""
        return self.needs_roi and self._is_far_larger(volume)

    def _is_far_larger(self, volume: Volume) -> bool:
        """Return whether a volume is far larger than images in training."""
        if self.field_of_view_mm is None:
            return True
        return bool((_extent(volume) > _FAR_LARGER * np.transpose(self.field_of_view_mm)[1]).any())

    def _doubts_on_extent(self, volume: Volume) -> list[str]:
        if self.field_of_view_mm is None:
            if self.needs_roi:
                return ["This model needs an ROI around the structure: draw or choose one."]
            return []
        extent = _extent(volume)
        structures, images = np.transpose(self.field_of_view_mm)
        if self._is_far_larger(volume):
            need = "may fail here"
            if self.needs_roi:
                need = "needs an ROI around the structure"
            return [
                f"This model {need}: it was trained on images of up to {_millimetres(images)}, but"
                f" the volume has {_millimetres(extent)}."
            ]
        if (extent < _FAR_SMALLER * structures).any():
            return [
                "This model may fail here: in training, its structures together measured"
                f" {_millimetres(structures)} or more, but the volume has {_millimetres(extent)}."
            ]
        return []


# Suitability of a model whose card states nothing.
ANY_INPUT = Suitability()


def _extent(volume: Volume) -> NDArray[np.float64]:
    """Return the extent of a volume in mm towards the right, the front and the head."""
    axes, _ = axis_mapping(volume.ijk_to_ras, "RAS")
    return np.array([volume.shape[axis] * volume.spacing[2 - axis] for axis in axes])


def _millimetres(extent: NDArray[np.float64]) -> str:
    return " x ".join(f"{mm:.0f}" for mm in extent) + " mm"


def _range(limits: Any) -> tuple[float, float]:
    """Return a pair of numbers.

    Raises:
        ValueError: the value is not a pair of numbers in ascending order.
    """
    try:
        low, high = (float(value) for value in limits)
    except TypeError as error:
        raise ValueError(f"{limits!r} is not a pair of numbers") from error
    if not 0 <= low <= high < float("inf"):
        raise ValueError(f"{limits!r} is not a range")
    return low, high

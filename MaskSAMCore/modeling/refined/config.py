"""Configuration of a network with a refiner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from MaskSAMCore.modeling.base import NetworkConfig
from MaskSAMCore.modeling.registry import read_config

# Largest number of parts that a voxel of the base may be divided into along an axis.
MOST_PARTS = 4


@dataclass(frozen=True, kw_only=True)
class RefinedConfig(NetworkConfig):
    """Description of a network with a refiner, saved with its weights.

    The attributes below come after those of :class:`~MaskSAMCore.modeling.base.NetworkConfig`.

    Attributes:
        base: network of all classes except those that only the refiner segments.
        refiner: network of the refined classes, whose windows may be smaller than the base's.
        refined: class index of each class of the refiner. Classes of the base keep their index; new
            classes follow.
        anchors: class indices of the base; the refiner only changes voxels near these classes.
        reach: distance from the anchors along T, H and W in voxels, within which the refiner
            decides.
        givers: further class indices of the base, 0 for the background, that may lose voxels within
            the reach to the refiner's classes.
        subdivision: number of the refiner's voxels along T, H and W in each voxel of the base.
    """

    kind: ClassVar[str] = "refined"

    base: NetworkConfig
    refiner: NetworkConfig
    refined: tuple[int, ...]
    anchors: tuple[int, ...]
    reach: tuple[int, int, int]
    givers: tuple[int, ...] = (0,)
    subdivision: tuple[int, int, int] = (1, 1, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        base, refiner = self.base, self.refiner
        if not all(1 <= parts <= MOST_PARTS for parts in self.subdivision):
            raise ValueError(f"voxels are divided into 1 to {MOST_PARTS} parts along an axis")
        if (self.window, self.in_channels) != (base.window, base.in_channels):
            raise ValueError("the base has other windows or channels")
        fits = all(
            own <= whole for own, whole in zip(refiner.window, self.fine_window, strict=True)
        )
        if not fits or refiner.in_channels != self.in_channels:
            raise ValueError("the refiner has windows or channels that do not fit the base")
        for part in (base, refiner):
            if part.needs_boxes or part.every_slice:
                raise ValueError("networks that need boxes or centre windows have no refiner")
        if len(self.refined) != refiner.num_classes or len(set(self.refined)) < len(self.refined):
            raise ValueError("the refined classes are not those of the refiner")
        new = set(range(base.num_classes + 1, self.num_classes + 1))
        known = range(1, self.num_classes + 1)
        if not new <= set(self.refined) or not all(index in known for index in self.refined):
            raise ValueError("the refined classes do not fit the number of classes")
        if not all(1 <= index <= base.num_classes for index in self.anchors):
            raise ValueError("an anchor is no class of the base")
        if not all(0 <= index <= base.num_classes for index in self.givers):
            raise ValueError("a giver is no class of the base")
        if not all(0 <= size <= 2 * max(self.window) for size in self.reach):
            raise ValueError("the reach does not fit the windows")

    @property
    def token_voxels(self) -> int:
        """Number of voxels that H and W of a window must be a multiple of."""
        return self.base.token_voxels

    @property
    def parts(self) -> tuple[int, int, int]:
        """Number of the refiner's voxels along T, H and W in each voxel."""
        return self.subdivision

    @property
    def scored_classes(self) -> int:
        """Number of classes of the base, or of the innermost base if the base has a refiner too."""
        return self.base.scored_classes

    @property
    def refined_classes(self) -> tuple[int, ...]:
        """Classes that the refiner decides."""
        return self.refined

    @property
    def fine_window(self) -> tuple[int, int, int]:
        """Shape of a window in the refiner's voxels."""
        t, h, w = (size * part for size, part in zip(self.window, self.subdivision, strict=True))
        return t, h, w

    def to_dict(self) -> dict[str, Any]:
        """Return the kind and the fields as plain types, for JSON."""
        parts = {"base": self.base.to_dict(), "refiner": self.refiner.to_dict()}
        return {**super().to_dict(), **parts}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RefinedConfig:
        """Build a configuration from the plain types of :meth:`to_dict`.

        Raises:
            KeyError: a part is missing.
            ValueError: a key is unknown; the message names it.
        """
        parts = {name: read_config(values[name]) for name in ("base", "refiner")}
        return super().from_dict({**values, **parts})

"""Classes of a model or labelmap: names, colours and terminology codes."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)
# nnU-Net's datasets give these names to voxels of no class.
_RESERVED = frozenset({"background", "ignore"})
# Golden ratio: the fractional parts of its multiples fill [0, 1) evenly.
GOLDEN_RATIO = 0.6180339887


@dataclass(frozen=True)
class Code:
    """A code of a terminology, for example ``Code("SCT", "123037004", "Anatomical Structure")``."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Terminology:
    """DICOM terminology of a segment: category and type, optionally a modifier and a region."""

    category: Code
    type: Code
    type_modifier: Code | None = None
    region: Code | None = None
    region_modifier: Code | None = None


@dataclass(frozen=True)
class Label:
    """A class of a labelmap.

    Attributes:
        value: integer of its voxels in the labelmap, 1 or more.
        name: class name shown to the user.
        color: red, green and blue, each 0 to 1.
        terminology: DICOM codes, or None.
    """

    value: int
    name: str
    color: tuple[float, float, float]
    terminology: Terminology | None = None

    def __post_init__(self) -> None:
        if self.value < 1:
            raise ValueError(
                f"label '{self.name}' has value {self.value}: use 1 or more, as 0 is the background"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the label as a dictionary of plain types."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Label:
        """Build a label from the dictionary of :meth:`to_json`."""
        terminology = values.get("terminology")
        if terminology is not None:
            codes: dict[str, Any] = {
                key: None if code is None else Code(**code) for key, code in terminology.items()
            }
            terminology = Terminology(**codes)
        red, green, blue = (float(part) for part in values["color"])
        return cls(int(values["value"]), str(values["name"]), (red, green, blue), terminology)


def default_colors(count: int) -> list[tuple[float, float, float]]:
    """Return distinct colours, very different ones for neighbouring classes.

    Args:
        count: number of colours; the first ones do not depend on it.

    Returns:
        Red, green and blue of each colour, each 0 to 1.
    """
    colors = []
    for index in range(count):
        hue = (0.09 + GOLDEN_RATIO * index) % 1
        # Three levels of brightness keep close hues apart when there are many classes.
        brightness = (0.95, 0.75, 0.6)[index % 3]
        red, green, blue = (round(v, 3) for v in colorsys.hsv_to_rgb(hue, 0.65, brightness))
        colors.append((red, green, blue))
    return colors


def is_reserved(name: str) -> bool:
    """Return whether a name, in upper or lower case, is reserved and cannot be that of a class."""
    return name.casefold() in _RESERVED


def alike_names(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two names that differ only in upper and lower case; None if none do."""
    folded: dict[str, str] = {}
    for name in names:
        first = folded.setdefault(name.casefold(), name)
        if first != name:
            return first, name
    return None


def side_of(name: str) -> tuple[str, str]:
    """Split a class name into its side and the structure.

    Returns:
        Side ("left" or "right"; "" if the name has none or several), and name of the structure in
        lower case without side and punctuation, equal for both sides. A name without a side is
        returned unchanged.
    """
    sides = _SIDE.findall(name)
    if len(sides) != 1:
        return "", name
    structure = re.sub(r"[\W_]+", " ", _SIDE.sub(" ", name)).strip().lower()
    return sides[0].lower(), structure

"""What the classes of a model are called, how they look, and their codes."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)
_BACKGROUND_HINT = "value 0 is the background"


@dataclass(frozen=True)
class Code:
    """A code of a terminology, for example ``Code("SCT", "123037004", "Anatomical Structure")``."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Terminology:
    """DICOM segment terminology: category and type, where it helps a modifier and a region."""

    category: Code
    type: Code
    type_modifier: Code | None = None
    region: Code | None = None
    region_modifier: Code | None = None


@dataclass(frozen=True)
class Label:
    """A class of a labelmap.

    Attributes:
        value: its voxels' value, 1 or more.
        name: shown to people.
        color: red, green and blue, 0 to 1.
        terminology: its codes, if there are any.
    """

    value: int
    name: str
    color: tuple[float, float, float]
    terminology: Terminology | None = None

    def __post_init__(self) -> None:
        if self.value < 1:
            raise ValueError(f"label '{self.name}' has value {self.value}: {_BACKGROUND_HINT}")

    def to_json(self) -> dict[str, Any]:
        """Plain types only."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Label:
        """Inverse of :meth:`to_json`."""
        terminology = values.get("terminology")
        if terminology is not None:
            codes: dict[str, Any] = {
                key: None if code is None else Code(**code) for key, code in terminology.items()
            }
            terminology = Terminology(**codes)
        red, green, blue = (float(part) for part in values["color"])
        return cls(int(values["value"]), str(values["name"]), (red, green, blue), terminology)


def terminology_entry(label: Label) -> str:
    """Slicer's TerminologyEntry of a segment: context, category, type, modifier and region, joined
    by ``~``, codes joined by ``^``. Empty where the label has no terminology."""
    if label.terminology is None:
        return ""

    def joined(code: Code | None) -> str:
        return "^^" if code is None else f"{code.scheme}^{code.value}^{code.meaning}"

    terms = label.terminology
    return "~".join(
        [
            "Segmentation category and type - DICOM master list",
            joined(terms.category),
            joined(terms.type),
            joined(terms.type_modifier),
            "Anatomic codes - DICOM master list",
            joined(terms.region),
            joined(terms.region_modifier),
        ]
    )


def side_of(name: str) -> tuple[str, str]:
    """ "left", "right" or nothing, and the name without it, fit for comparing."""
    sides = _SIDE.findall(name)
    if len(sides) != 1:
        return "", name
    rest = re.sub(r"[\W_]+", " ", _SIDE.sub(" ", name)).strip().lower()
    return sides[0].lower(), rest

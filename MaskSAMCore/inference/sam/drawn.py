"""Boxes as a person named them: one segment a name."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box
from MaskSAMCore.labels import Label

# The golden ratio spreads hues, so that neighbours in the list are far apart in colour.
_HUE_STEP = 0.6180339887


def by_name(boxes: Sequence[Box]) -> dict[str, list[Box]]:
    """Boxes by name, in the order of the names, whatever the order of the boxes.

    Names that differ only in case or in spaces around them are one.

    Raises:
        MaskSAMError: a box has no name.
    """
    spelled: dict[str, str] = {}
    found: dict[str, list[Box]] = {}
    for box in sorted(boxes, key=lambda box: (box.class_name.strip(), box.lower, box.upper)):
        name = box.class_name.strip()
        if not name:
            raise MaskSAMError("a box has no name: name it like what it is drawn around")
        name = spelled.setdefault(name.casefold(), name)
        found.setdefault(name, []).append(box)
    return dict(sorted(found.items(), key=lambda one: one[0].casefold()))


def labels_of(names: Sequence[str]) -> tuple[Label, ...]:
    """Labels 1, 2, … of names, each with a colour of its own."""
    labels = []
    for index, name in enumerate(names):
        # Three rings of brightness, so that close hues differ too.
        brightness = (0.95, 0.75, 0.6)[index % 3]
        hue = (0.09 + _HUE_STEP * index) % 1
        red, green, blue = (round(v, 3) for v in colorsys.hsv_to_rgb(hue, 0.65, brightness))
        labels.append(Label(index + 1, name, (red, green, blue)))
    return tuple(labels)

"""Boxes as a person named them: one segment a name."""

from __future__ import annotations

from collections.abc import Sequence

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box
from MaskSAMCore.labels import Label, default_colors


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
    colors = default_colors(len(names))
    return tuple(Label(value, name, colors[value - 1]) for value, name in enumerate(names, start=1))

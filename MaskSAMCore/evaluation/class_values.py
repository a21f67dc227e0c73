"""Labelmap values of the classes in a comparison, matched by name if the files have names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError, first_names
from MaskSAMCore.io.segments import has_segments, read_segment_values
from MaskSAMCore.labels import alike_names


class ClassValues:
    """One labelmap value per class name in all files of a comparison.

    3D Slicer numbers the segments of each file anew, so that the value of a class may differ
    between files. Labelmaps without names keep their values. If only predictions have names, each
    name must have one value in all of them, because its value in the references is unknown.

    Args:
        names: known class names by value, such as those of ``dataset.json``.

    Attributes:
        names: class names known so far, by value.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self.names = dict(names)
        self._named_references = bool(names)

    def unify(
        self, labelmap: NDArray[np.integer], path: Path, prediction: bool = False
    ) -> NDArray[np.integer]:
        """Return the labelmap of a file with the values of this comparison.

        Args:
            labelmap: labelmap as it was read, [K, J, I].
            path: file of the labelmap.
            prediction: whether the file is a prediction; if the references have names, at least one
                of its segments must have a name of theirs.

        Raises:
            MaskSAMError: the names of two segments are equal or differ only in case; no segment of
                a prediction has the name of a class of the references; or a segment has another
                value than in other predictions and the references have no names.
        """
        if not has_segments(path):
            return labelmap
        own = read_segment_values(path)
        alike = alike_names(own)
        if alike is not None:
            raise MaskSAMError(
                f"the segments '{alike[0]}' and '{alike[1]}' of {path} differ only in upper and"
                " lower case: rename one"
            )
        known = {name.casefold() for name in self.names.values()}
        self._named_references |= not prediction
        if prediction and self._named_references and not known & {name.casefold() for name in own}:
            raise MaskSAMError(
                f"no segment of {path} ({first_names([*own])}) has the name of a class of the"
                f" references ({first_names([*self.names.values()])}): rename them"
            )
        new = {value: self._value_of(name, value) for name, value in own.items()}
        changed = {value: other for value, other in new.items() if value != other}
        if not changed:
            return labelmap
        if not self._named_references:
            name, value = next((name, own[name]) for name in own if own[name] in changed)
            raise MaskSAMError(
                f"the segment '{name}' of {path} has the value {value}, by which other predictions"
                " have another segment or none, and the references have no class names: put names"
                " and values into a dataset.json beside the folder of references"
            )
        size = np.result_type(labelmap.dtype, np.min_scalar_type(max(changed.values())))
        unified = labelmap.astype(size)
        for value, other in changed.items():
            unified[labelmap == value] = other
        return unified

    def _value_of(self, name: str, own: int) -> int:
        """Return the value of a name; a new name keeps its own value if no other name has it."""
        for value, known in self.names.items():
            if known.casefold() == name.casefold():
                return value
        value = own if own not in self.names else max(self.names) + 1
        self.names[value] = name
        return value

"""Labels of a labelmap dataset without images: names, sides, tissues and target classes.

The labels of such a labelmap serve two purposes. Images are synthesised from all of them, and some
of them, alone or merged, are the target classes that a network learns to segment.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.labels import alike_names, side_of

# Keys of dataset.json, or of a --targets file, that describe the labels of labelmaps.
LABEL_KEYS = ("labels", "targets", "pairs", "surroundings", "tissues", "lesions", "contrasts")
# Keys that describe the folder of the labelmaps.
FOLDER_KEYS = ("file_ending", "name")
KEYS = (*LABEL_KEYS, *FOLDER_KEYS)
# ASCII digits only, as int() rejects some digits of other scripts; no valid value is longer.
_DIGITS = re.compile(r"[0-9]{1,9}")
# Labelmaps are written with 16 bits.
LARGEST_VALUE = 65535


@dataclass(frozen=True)
class LabelScheme:
    """Meaning of labels. Label 0 is the background; labels 1 to L are in order of value.

    Attributes:
        names: names of the labels 0 to L.
        values: values of the labels 0 to L in the labelmaps.
        classes: names of the target classes 1 to K.
        class_values: values of the target classes in predictions: the smallest value among the
            labels of each class.
        targets: target class of each label, 0 for labels that are not segmented.
        mirrored: for each label the label on the other side of the body, or itself.
        surroundings: labels that are removed when an image is stripped, such as the skull.
        tissues: tissue number of each label; labels of one tissue look alike.
        lesions: for each label the label of lesions within it, or itself; empty if none has
            lesions.
        contrasts: for each common kind of image the mean intensity, 0 to 1, of every label; NaN
            for labels of arbitrary intensity.
        description: JSON values that the scheme was read from, which a run saves.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    classes: tuple[str, ...]
    class_values: tuple[int, ...]
    targets: tuple[int, ...]
    mirrored: tuple[int, ...]
    surroundings: tuple[int, ...]
    tissues: tuple[int, ...]
    lesions: tuple[int, ...]
    contrasts: tuple[tuple[float, ...], ...]
    description: dict[str, Any]

    @property
    def paired(self) -> bool:
        """True if any label has a counterpart on the other side, so that labelmaps may be flipped
        left to right."""
        return any(other != index for index, other in enumerate(self.mirrored))

    def classes_of(self, labels: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Map label indices to classes 0 to K, in an array of any shape."""
        return np.array(self.targets, np.uint8)[labels]


def read_scheme(description: Mapping[str, Any]) -> tuple[LabelScheme | None, list[str]]:
    """Read a label scheme from JSON values.

    Args:
        description: values under these keys. ``labels``: name to value, 0 for the background.
            ``targets``: a list of label names, or class names mapped to one or several label names;
            without it every label is a class. ``pairs``: lists of a left and a right name, ``[]``
            for none; without it the words "left" and "right" in names decide. ``surroundings``: a
            list of names. ``tissues``: lists of names that look alike. ``lesions``: names of labels
            mapped to the label of lesions within them, which synthesised images get at random
            places; lesions given for one side apply to the other side too. ``contrasts``: kinds of
            image mapped to intensities, 0 to 1, by name; an intensity given for one side applies
            to the other side too.

    Returns:
        The scheme and no problem, or None and all problems.
    """
    labels = description.get("labels")
    if not isinstance(labels, dict) or not all(is_integer(v) for v in labels.values()):
        return None, ["'labels' must map names to integers, the background to 0"]
    by_value = {int(v): str(k) for k, v in labels.items()}
    if len(by_value) != len(labels) or not 0 < max(by_value, default=0) <= LARGEST_VALUE:
        return None, [
            f"'labels' must be different values from 0 (the background) to {LARGEST_VALUE}"
        ]
    if min(by_value) < 0 or len(by_value) > 255:
        return None, ["'labels' must be at most 254 different values from 0 (the background) up"]
    alike = alike_names(labels)
    if alike is not None:
        return None, [
            f"'labels' has '{alike[0]}' and '{alike[1]}', which differ only in upper and lower"
            " case: rename one"
        ]
    by_value.setdefault(0, "background")
    values = tuple(sorted(by_value))
    names = tuple(by_value[value] for value in values)
    reader = _Reader(names)
    merged = reader.targets(description.get("targets", list(names[1:])))
    mirrored = reader.mirrored(description.get("pairs"))
    surroundings = reader.indices(description.get("surroundings", []), "surroundings")
    tissues = reader.tissues(description.get("tissues", []), mirrored)
    lesions = reader.lesions(description.get("lesions", {}), mirrored)
    contrasts = reader.contrasts(description.get("contrasts", {}), mirrored)
    targets = [0] * len(names)
    ordered = sorted(merged.items(), key=lambda item: min(item[1], default=0))
    for number, (_, indices) in enumerate(ordered, start=1):
        for index in indices:
            if targets[index]:
                reader.problems.append(f"'targets': label '{names[index]}' is in two classes")
            targets[index] = number
    problems = reader.problems + _one_sided(names, targets, mirrored)
    if problems:
        return None, problems
    scheme = LabelScheme(
        names=names,
        values=values,
        classes=tuple(name for name, _ in ordered),
        class_values=tuple(values[min(indices)] for _, indices in ordered),
        targets=tuple(targets),
        mirrored=mirrored,
        surroundings=surroundings,
        tissues=tissues,
        lesions=lesions,
        contrasts=contrasts,
        description={key: description[key] for key in KEYS if key in description},
    )
    return scheme, []


class _Reader:
    """Reader of a description: maps label names to indices and collects all problems.

    Attributes:
        problems: problems found so far, in words.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.by_name = {name.casefold(): index for index, name in enumerate(names)}
        self.problems: list[str] = []

    def indices(self, wanted: Any, where: str) -> tuple[int, ...]:
        """Return the label indices of a list of names."""
        wanted = [wanted] if isinstance(wanted, str) else wanted
        if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
            self.problems.append(f"'{where}' must be a list of label names")
            return ()
        unknown = [name for name in wanted if name.casefold() not in self.by_name]
        if unknown:
            self.problems.append(
                f"'{where}' has names that are not in 'labels': {', '.join(unknown)}"
            )
        found = [self.by_name[name.casefold()] for name in wanted if name not in unknown]
        return tuple(found)

    def targets(self, wanted: Any) -> dict[str, tuple[int, ...]]:
        """Return the label indices of each target class."""
        if isinstance(wanted, list) and all(isinstance(name, str) for name in wanted):
            wanted = {name: [name] for name in wanted}
        if not isinstance(wanted, dict) or not wanted:
            self.problems.append(
                "'targets' must be a list of label names, or map class names to such lists"
            )
            return {}
        found = {str(name): self.indices(parts, "targets") for name, parts in wanted.items()}
        for name, indices in found.items():
            if 0 in indices:
                self.problems.append(f"'targets': class '{name}' contains the background")
            if not indices:
                self.problems.append(f"'targets': class '{name}' has no label")
        return {name: indices for name, indices in found.items() if indices}

    def mirrored(self, pairs: Any) -> tuple[int, ...]:
        """Return for each label the label on the other side, or itself."""
        if pairs is None:
            return self._mirrored_by_name()
        other = list(range(len(self.names)))
        if not isinstance(pairs, list) or not all(
            isinstance(pair, list) and len(pair) == 2 for pair in pairs
        ):
            self.problems.append("'pairs' must be a list of pairs [left name, right name]")
            pairs = []
        paired: set[int] = set()
        for pair in pairs:
            found = self.indices(pair, "pairs")
            if len(found) == 2:
                other[found[0]], other[found[1]] = found[1], found[0]
            # With a label in two pairs, mirroring would not be its own inverse.
            self.problems += [
                f"'pairs' has '{self.names[index]}' twice: list each label in one pair"
                for index in sorted(set(found) & paired)
            ]
            paired.update(found)
        return tuple(other)

    def _mirrored_by_name(self) -> tuple[int, ...]:
        other = list(range(len(self.names)))
        sides = [side_of(name) for name in self.names]
        for index, (side, structure) in enumerate(sides):
            if not side:
                continue
            opposite = ("right" if side == "left" else "left"), structure
            if opposite in sides:
                other[index] = sides.index(opposite)
            else:
                self.problems.append(
                    f"'labels' has '{self.names[index]}' but not its other side: name that label"
                    f" with the word '{opposite[0]}', or list left and right names in 'pairs' ([]"
                    " for none)"
                )
        return tuple(other)

    def tissues(self, groups: Any, mirrored: Sequence[int]) -> tuple[int, ...]:
        """Return the tissue number of each label; both sides of a structure share a number."""
        tissue = [min(index, other) for index, other in enumerate(mirrored)]
        if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
            self.problems.append("'tissues' must be a list of lists of names")
            groups = []
        for group in groups:
            found = self.indices(group, "tissues")
            for index in found:
                tissue[index] = tissue[mirrored[index]] = min(found)
        return tuple(tissue)

    def lesions(self, wanted: Any, mirrored: Sequence[int]) -> tuple[int, ...]:
        """Return for each label the label of lesions within it, or itself."""
        if not isinstance(wanted, dict) or not all(isinstance(v, str) for v in wanted.values()):
            self.problems.append("'lesions' must map names of labels to the label of their lesions")
            return ()
        pairs = [self.indices([str(name), label], "lesions") for name, label in wanted.items()]
        named = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
        if 0 in named or 0 in named.values():
            self.problems.append("'lesions': the background neither has lesions nor is one")
        other = {mirrored[within]: mirrored[label] for within, label in named.items()}
        lesions = {**other, **named}
        return tuple(lesions.get(i, i) for i in range(len(self.names))) if lesions else ()

    def contrasts(self, wanted: Any, mirrored: Sequence[int]) -> tuple[tuple[float, ...], ...]:
        """Return the intensities of each kind of image; a side that is not named has the
        intensities of the other side."""
        kinds = list(wanted.values()) if isinstance(wanted, dict) else []
        valid = isinstance(wanted, dict) and all(isinstance(kind, dict) for kind in kinds)
        if not valid or not all(_is_fraction(value) for kind in kinds for value in kind.values()):
            self.problems.append(
                "'contrasts' must map kinds of image to intensities, 0 to 1, by label name"
            )
            return ()
        found = []
        for kind in kinds:
            intensities = [math.nan] * len(self.names)
            for name, value in kind.items():
                for index in self.indices(name, "contrasts"):
                    intensities[index] = float(value)
            found.append(
                tuple(
                    intensities[other] if math.isnan(own) else own
                    for own, other in zip(intensities, mirrored, strict=True)
                )
            )
        return tuple(found)


def _one_sided(names: Sequence[str], targets: Sequence[int], mirrored: Sequence[int]) -> list[str]:
    """Return the problems of classes whose labels have mirrored labels in different classes."""
    problems = []
    other: dict[int, int] = {}
    for index, number in enumerate(targets):
        opposite = targets[mirrored[index]]
        if other.setdefault(number, opposite) != opposite and number:
            problems.append(
                f"'targets' must treat both sides alike: '{names[index]}' and"
                f" '{names[mirrored[index]]}' do not match"
            )
    return problems


def _is_fraction(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def is_integer(value: Any) -> bool:
    """Return True for a JSON integer, also one written as a string of digits."""
    if isinstance(value, str):
        return _DIGITS.fullmatch(value) is not None
    return isinstance(value, int) and not isinstance(value, bool)

"""Dataset folders with label maps and no images: what their labels are, and what is segmented.

The labels of such a map serve two ends. All of them are tissues that images are synthesised from
(``synthesis.py``); some of them, alone or merged, are the targets that a network learns to segment.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.labels import side_of

CHANNEL = "synthetic"
KEYS = ("labels", "targets", "pairs", "surroundings", "tissues", "contrasts", "file_ending", "name")


@dataclass(frozen=True)
class LabelScheme:
    """The labels of label maps, by index: 0 is the background, 1 to L are in order of value.

    Attributes:
        names: of the labels 0 to L.
        values: their values in the files.
        classes: names of the target classes 1 to K.
        class_values: their values in predictions: for each the smallest of its labels' values.
        targets: for each label its class, 0 where it is not segmented.
        mirrored: for each label the one on the other side of the body, or itself.
        surroundings: labels that stripping (of the skull, for heads) takes away.
        tissues: for each label the number of its tissue; labels of one tissue look alike.
        contrasts: the grey values, 0 to 1, of the labels in well-known kinds of image; NaN where
            any may be.
        description: what all of this was read from, to keep with a run.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    classes: tuple[str, ...]
    class_values: tuple[int, ...]
    targets: tuple[int, ...]
    mirrored: tuple[int, ...]
    surroundings: tuple[int, ...]
    tissues: tuple[int, ...]
    contrasts: tuple[tuple[float, ...], ...]
    description: dict[str, Any]

    @property
    def paired(self) -> bool:
        """Whether any label has another side, so that maps may be flipped left to right."""
        return any(other != index for index, other in enumerate(self.mirrored))

    def classes_of(self, labels: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Label indices to classes 0 to K, of any shape."""
        return np.array(self.targets, np.uint8)[labels]


def has_only_label_maps(folder: Path) -> bool:
    """Whether a dataset folder has ``labelsTr`` and no ``imagesTr`` at all; an empty ``imagesTr``
    means that images are missing."""
    return (folder / "labelsTr").is_dir() and not (folder / "imagesTr").exists()


def read_description(folder: Path, targets: Path | Mapping[str, Any] | None) -> dict[str, Any]:
    """``dataset.json``, where there is one, with what ``targets`` (a JSON file, or its content)
    says beside it or instead.

    Raises:
        MaskSAMError: neither says anything, or one cannot be read.
    """
    description: dict[str, Any] = {}
    given = [targets] if isinstance(targets, Mapping) else []
    files = [folder / "dataset.json"] if (folder / "dataset.json").is_file() else []
    files += [targets] if isinstance(targets, Path) else []
    if not files and not given:
        raise MaskSAMError(
            f"{folder} has label maps alone and no dataset.json: write one that names the labels"
            ' ("labels": name to value), or give such a file with --targets'
        )
    for file in files:
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MaskSAMError(f"{file} cannot be read as JSON: {error}") from error
        if not isinstance(values, dict):
            raise MaskSAMError(f"{file} must hold one JSON object")
        given.append(values)
    for values in given:
        description.update({key: values[key] for key in KEYS if key in values})
    return description


def read_scheme(description: Mapping[str, Any]) -> tuple[LabelScheme | None, list[str]]:
    """The labels and targets of a description, or None and every problem of it.

    Keys: ``labels`` (name to value, 0 the background); ``targets`` (a list of label names, or class
    names to one or several label names; else every label is a class); ``pairs`` (lists of a left
    and a right name, ``[]`` for none; else names with the word "left" or "right" tell);
    ``surroundings`` (names); ``tissues`` (lists of names that look alike); ``contrasts`` (names of
    kinds of image to grey values by name, where one side tells both).
    """
    labels = description.get("labels")
    if not isinstance(labels, dict) or not all(_is_whole(v) for v in labels.values()):
        return None, ["'labels' must map names to integers, the background to 0"]
    by_value = {int(v): str(k) for k, v in labels.items()}
    if len(by_value) != len(labels) or not 0 < max(by_value, default=0) <= 65535:
        return None, ["'labels' must be different values from 0 (the background) to 65535"]
    if min(by_value) < 0 or len(by_value) > 255:
        return None, ["'labels' must be at most 254 different values from 0 (the background) up"]
    by_value.setdefault(0, "background")
    values = tuple(sorted(by_value))
    names = tuple(by_value[value] for value in values)
    reading = _Reading(names)
    merged = reading.targets(description.get("targets", list(names[1:])))
    mirrored = reading.mirrored(description.get("pairs"))
    surroundings = reading.indices(description.get("surroundings", []), "surroundings")
    tissues = reading.tissues(description.get("tissues", []), mirrored)
    contrasts = reading.contrasts(description.get("contrasts", {}), mirrored)
    targets = [0] * len(names)
    ordered = sorted(merged.items(), key=lambda item: min(item[1], default=0))
    for number, (_, indices) in enumerate(ordered, start=1):
        for index in indices:
            if targets[index]:
                reading.problems.append(f"'targets': '{names[index]}' is in two classes")
            targets[index] = number
    problems = reading.problems + _one_sided(names, targets, mirrored)
    if problems:
        return None, problems
    scheme = LabelScheme(
        names,
        values,
        tuple(name for name, _ in ordered),
        tuple(values[min(indices)] for _, indices in ordered),
        tuple(targets),
        mirrored,
        surroundings,
        tissues,
        contrasts,
        {key: description[key] for key in KEYS if key in description},
    )
    return scheme, []


class _Reading:
    """Names to indices, with all problems in one list."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.by_name = {name.casefold(): index for index, name in enumerate(names)}
        self.problems: list[str] = []

    def indices(self, wanted: Any, where: str) -> tuple[int, ...]:
        """The labels of a list of names."""
        wanted = [wanted] if isinstance(wanted, str) else wanted
        if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
            self.problems.append(f"'{where}' must be a list of names of labels")
            return ()
        unknown = [name for name in wanted if name.casefold() not in self.by_name]
        if unknown:
            self.problems.append(f"'{where}' names no label of 'labels': {', '.join(unknown)}")
        found = [self.by_name[name.casefold()] for name in wanted if name not in unknown]
        return tuple(found)

    def targets(self, wanted: Any) -> dict[str, tuple[int, ...]]:
        """The labels of each class."""
        if isinstance(wanted, list) and all(isinstance(name, str) for name in wanted):
            wanted = {name: [name] for name in wanted}
        if not isinstance(wanted, dict) or not wanted:
            self.problems.append(
                "'targets' must be a list of names of labels, or map names of classes to such lists"
            )
            return {}
        found = {str(name): self.indices(parts, "targets") for name, parts in wanted.items()}
        for name, indices in found.items():
            if 0 in indices:
                self.problems.append(f"'targets': '{name}' holds the background")
        return found

    def mirrored(self, pairs: Any) -> tuple[int, ...]:
        """For each label that on the other side."""
        if pairs is None:
            return self._mirrored_by_name()
        other = list(range(len(self.names)))
        if not isinstance(pairs, list) or not all(
            isinstance(pair, list) and len(pair) == 2 for pair in pairs
        ):
            self.problems.append("'pairs' must be a list of pairs of names, a left and a right one")
            pairs = []
        for pair in pairs:
            found = self.indices(pair, "pairs")
            if len(found) == 2:
                other[found[0]], other[found[1]] = found[1], found[0]
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
                    f"'labels' has '{self.names[index]}' but not its other side: name that with the"
                    f" word '{opposite[0]}', or list all left and right names in 'pairs' ([] for"
                    " none)"
                )
        return tuple(other)

    def tissues(self, groups: Any, mirrored: Sequence[int]) -> tuple[int, ...]:
        """A number for each label; the two sides of one structure have the same."""
        tissue = [min(index, other) for index, other in enumerate(mirrored)]
        if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
            self.problems.append("'tissues' must be a list of lists of names")
            groups = []
        for group in groups:
            found = self.indices(group, "tissues")
            for index in found:
                tissue[index] = tissue[mirrored[index]] = min(found)
        return tuple(tissue)

    def contrasts(self, wanted: Any, mirrored: Sequence[int]) -> tuple[tuple[float, ...], ...]:
        """The grey values of each kind of image; a side that is not named has the other's."""
        kinds = list(wanted.values()) if isinstance(wanted, dict) else []
        told = isinstance(wanted, dict) and all(isinstance(kind, dict) for kind in kinds)
        if not told or not all(_is_share(grey) for kind in kinds for grey in kind.values()):
            self.problems.append(
                "'contrasts' must map kinds of image to grey values, 0 to 1, by names of labels"
            )
            return ()
        found = []
        for kind in kinds:
            grey = [math.nan] * len(self.names)
            for name, value in kind.items():
                for index in self.indices(name, "contrasts"):
                    grey[index] = float(value)
            found.append(
                tuple(
                    grey[other] if math.isnan(own) else own
                    for own, other in zip(grey, mirrored, strict=True)
                )
            )
        return tuple(found)


def _one_sided(names: Sequence[str], targets: Sequence[int], mirrored: Sequence[int]) -> list[str]:
    """Labels of one class must have other sides that are of one class too."""
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


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _is_whole(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, str) and value.isdigit()
    )

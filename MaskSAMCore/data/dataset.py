"""nnU-Net dataset folders: reading, checking everything before work begins."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.data.synthesis.label_scheme import (
    CHANNEL,
    LabelScheme,
    has_only_label_maps,
    read_description,
    read_scheme,
)
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.io import read_volume

# Labelmaps are written with 16 bits.
_LARGEST_VALUE = 65535


@dataclass(frozen=True)
class Case:
    """Paths of a labelled case: one image a channel, and the labelmap."""

    name: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class Dataset:
    """A dataset folder.

    Attributes:
        folder: where it is.
        name: its title.
        channels: names of the channels, in order.
        classes: names of the classes 1 to K, in the order of their values.
        values: the classes' values in the files.
        cases: all labelled cases, by name.
        notes: what is odd but stops nothing.
        scheme: what the labels are where there are label maps and no images, else None.
    """

    folder: Path
    name: str
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    values: tuple[int, ...]
    cases: tuple[Case, ...]
    notes: tuple[str, ...] = ()
    scheme: LabelScheme | None = None

    def select(self, names: Sequence[str]) -> list[Case]:
        """The cases of these names, in their order.

        Raises:
            MaskSAMError: the dataset has no such case.
        """
        by_name = {case.name: case for case in self.cases}
        missing = [name for name in names if name not in by_name]
        if missing:
            raise MaskSAMError(f"{self.folder} has no case {', '.join(missing)}")
        return [by_name[name] for name in names]


@dataclass(frozen=True)
class LabelledCase:
    """A case in memory: channels, and labels 0 to K on their grid. Where there are no images, the
    one channel holds the indices of all labels of the dataset's scheme."""

    name: str
    channels: tuple[Volume, ...]
    label: NDArray[np.uint8]


def open_dataset(folder: Path) -> Dataset:
    """Reads ``dataset.json`` and finds the labelled cases; images are not read yet.

    Raises:
        MaskSAMError: the folder is no dataset; every problem of ``dataset.json`` is named.
    """
    dataset, problems = examine_dataset(folder)
    if problems:
        raise MaskSAMError("; ".join(problems))
    return dataset


def examine_dataset(
    folder: Path, targets: Path | Mapping[str, Any] | None = None
) -> tuple[Dataset, list[str]]:
    """As :func:`open_dataset`, with the problems of ``dataset.json`` beside what could be read of
    it, so that they can be told together with those of the cases.

    Args:
        folder: with ``labelsTr``; with ``imagesTr``, or label maps alone.
        targets: of label maps alone, what ``dataset.json`` does not say of their labels.

    Raises:
        MaskSAMError: not even the cases can be found.
    """
    if has_only_label_maps(folder):
        return _examine_label_maps(folder, targets)
    if targets is not None:
        raise MaskSAMError(
            f"--targets is for label maps without images, but {folder} has imagesTr or no labelsTr"
        )
    path = folder / "dataset.json"
    if not path.is_file():
        raise MaskSAMError(f"{folder} is no dataset folder: it has no dataset.json")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MaskSAMError(f"{path} cannot be read as JSON: {error}") from error
    how_to_read, labels_wrong = _description_problems(description)
    problems = [f"{path}: {problem}" for problem in (*how_to_read, *labels_wrong)]
    if how_to_read:
        raise MaskSAMError("; ".join(problems))
    ending = description["file_ending"]
    channel_names = description["channel_names"]
    channels = tuple(str(channel_names[key]) for key in sorted(channel_names, key=int))
    labels = {}
    if not labels_wrong:
        labels = {str(k): int(v) for k, v in description["labels"].items() if int(v) != 0}
    order = sorted(labels, key=lambda name: labels[name])
    labelled = _names(folder / "labelsTr", ending)
    # An image without a label is a problem to report, not a case to leave out.
    names = sorted(labelled | _names(folder / "imagesTr", f"_0000{ending}"))
    if not labelled:
        problems.append(f"{folder} has no labelled case: labelsTr holds no *{ending}")
        raise MaskSAMError("; ".join(problems))
    cases = tuple(
        Case(
            name,
            tuple(folder / "imagesTr" / f"{name}_{c:04d}{ending}" for c in range(len(channels))),
            folder / "labelsTr" / f"{name}{ending}",
        )
        for name in names
    )
    title = str(description.get("name") or folder.resolve().name)
    values = tuple(labels[name] for name in order)
    notes = _notes(description, len(labelled))
    return Dataset(folder, title, channels, tuple(order), values, cases, notes), problems


def _examine_label_maps(
    folder: Path, targets: Path | Mapping[str, Any] | None
) -> tuple[Dataset, list[str]]:
    description = read_description(folder, targets)
    scheme, problems = read_scheme(description)
    problems = [f"label maps of {folder}: {problem}" for problem in problems]
    ending = str(description.get("file_ending", ".nii.gz"))
    names = sorted(_names(folder / "labelsTr", ending))
    if not names:
        problems.append(f"{folder} has no label map: labelsTr holds no *{ending}")
        raise MaskSAMError("; ".join(problems))
    cases = tuple(Case(name, (), folder / "labelsTr" / f"{name}{ending}") for name in names)
    title = str(description.get("name") or folder.resolve().name)
    if scheme is None:
        return Dataset(folder, title, (CHANNEL,), (), (), cases), problems
    notes = (
        f"note: no images: {len(scheme.classes)} classes are learned on images synthesised from"
        f" {len(scheme.names) - 1} labels",
    )
    classes, values = scheme.classes, scheme.class_values
    return Dataset(folder, title, (CHANNEL,), classes, values, cases, notes, scheme), problems


def _notes(description: dict[str, Any], found: int) -> tuple[str, ...]:
    told = description.get("numTraining")
    if told is None or told == found:
        return ()
    return (f"note: dataset.json says numTraining {told}, labelsTr holds {found} cases",)


def _names(folder: Path, ending: str) -> set[str]:
    """Cases with a file in a folder, but for the hidden ones that macOS leaves in archives."""
    found = (path.name for path in folder.glob(f"*{ending}") if path.is_file())
    return {name[: -len(ending)] for name in found if not name.startswith(".")}


def _description_problems(description: Any) -> tuple[list[str], list[str]]:
    """Of what says how the cases are found and read, and of the labels."""
    if not isinstance(description, dict):
        return ["it must hold one JSON object"], []
    reading, labelling = [], []
    for key in ("channel_names", "file_ending"):
        if key not in description:
            reading.append(f"'{key}' is missing")
    names = description.get("channel_names", {"0": ""})
    if not isinstance(names, dict) or sorted(names) != sorted(str(i) for i in range(len(names))):
        reading.append('\'channel_names\' must map "0", "1", … to names')
    elif not names:
        reading.append("'channel_names' names no channel")
    ending = description.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or not ending.startswith("."):
        reading.append("'file_ending' must be a suffix such as .nii.gz")
    labels = description.get("labels")
    if "labels" not in description:
        labelling.append("'labels' is missing")
    elif not isinstance(labels, dict) or not all(_is_integer(v) for v in labels.values()):
        labelling.append("'labels' must map names to integers (regions are not supported)")
    else:
        values = [int(v) for v in labels.values()]
        if 0 not in values or min(values) < 0 or len(set(values)) != len(values):
            labelling.append("'labels' must be different values from 0 (the background) up")
        elif not 2 <= len(values) <= 256:
            labelling.append("'labels' must have 1 to 255 classes beside the background")
        elif max(values) > _LARGEST_VALUE:
            labelling.append(f"'labels' must be no larger than {_LARGEST_VALUE}")
    if isinstance(labels, dict) and "ignore" in labels:
        labelling.append("'labels' has 'ignore', which is not supported")
    return reading, labelling


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and value.isdigit())


def load_cases(
    dataset: Dataset,
    names: Sequence[str],
    progress: Callable[[float], None] | None = None,
    known: Sequence[str] = (),
) -> list[LabelledCase]:
    """Reads and checks cases, all of them, before any work begins.

    Args:
        dataset: where they are.
        names: which.
        progress: called with the share done.
        known: problems found before, for the same report.

    Raises:
        MaskSAMError: one report that names every problem: missing or unreadable files, channels or
            labels on another grid, labels that are no integers or in no class.
    """
    problems = list(known)
    loaded = []
    for index, case in enumerate(dataset.select(names)):
        found, wrong = _load_case(dataset, case)
        problems += wrong
        if found is not None:
            loaded.append(found)
        if progress is not None:
            progress((index + 1) / len(names))
    if problems:
        raise MaskSAMError(
            f"{dataset.folder} has {len(problems)} problem(s), nothing was started: "
            + "; ".join(problems)
        )
    return loaded


def _load_case(dataset: Dataset, case: Case) -> tuple[LabelledCase | None, list[str]]:
    problems: list[str] = []
    volumes: list[Volume] = []
    for path in (*case.images, case.label):
        if not path.is_file():
            problems.append(f"{path.parent.name}/{path.name} is missing")
            continue
        try:
            volumes.append(read_volume(path))
        except MaskSAMError as error:
            problems.append(str(error))
    if problems:
        return None, problems
    *channels, label = volumes
    for path, volume in zip((*case.images, case.label)[1:], volumes[1:], strict=True):
        if not volume.same_grid(volumes[0], tolerance_mm=0.05):
            problems.append(
                f"{path.parent.name}/{path.name} is not on the grid of {case.images[0].name}"
            )
    whole = np.issubdtype(label.array.dtype, np.integer)
    values = label.array if whole else np.rint(label.array)
    if not whole and np.abs(label.array - values).max() > 1e-3:
        problems.append(f"labelsTr/{case.label.name} holds values that are no integers")
        return None, problems
    if not dataset.values:  # dataset.json has a problem of its own with the labels
        return None, problems
    mapped = np.zeros(label.shape, np.uint8)
    known = dataset.values if dataset.scheme is None else dataset.scheme.values[1:]
    for index, value in enumerate(known):
        mapped[values == value] = index + 1
    strange = np.unique(values[(mapped == 0) & (values != 0)])
    if strange.size:
        more = f" and {strange.size - 10} more" if strange.size > 10 else ""
        problems.append(
            f"labelsTr/{case.label.name} holds labels {[int(v) for v in strange[:10]]}{more} that"
            " are in no class of dataset.json"
        )
    if problems:
        return None, problems
    if dataset.scheme is not None:
        labels = replace(label, array=mapped)
        return LabelledCase(case.name, (labels,), dataset.scheme.classes_of(mapped)), []
    return LabelledCase(case.name, tuple(channels), mapped), []

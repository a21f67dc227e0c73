"""nnU-Net dataset folders: reading, checking everything before work begins, splitting."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.io import read_volume

_REPORT_LINES = 20


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
    """

    folder: Path
    name: str
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    values: tuple[int, ...]
    cases: tuple[Case, ...]

    def select(self, names: Sequence[str]) -> list[Case]:
        """The cases of these names, in their order."""
        by_name = {case.name: case for case in self.cases}
        return [by_name[name] for name in names]


@dataclass(frozen=True)
class LabelledCase:
    """A case in memory: channels, and labels 0 to K on their grid."""

    name: str
    channels: tuple[Volume, ...]
    label: NDArray[np.uint8]


def open_dataset(folder: Path) -> Dataset:
    """Reads ``dataset.json`` and finds the labelled cases; images are not read yet.

    Raises:
        MaskSAMError: the folder is no dataset; every problem of ``dataset.json`` is named.
    """
    path = folder / "dataset.json"
    if not path.is_file():
        raise MaskSAMError(f"{folder} is no dataset folder: it has no dataset.json")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MaskSAMError(f"{path} cannot be read as JSON: {error}") from error
    problems = _description_problems(description)
    if problems:
        raise MaskSAMError(f"{path}: {'; '.join(problems)}")
    ending = description["file_ending"]
    channel_names = description["channel_names"]
    channels = tuple(str(channel_names[key]) for key in sorted(channel_names, key=int))
    labels = {str(k): int(v) for k, v in description["labels"].items() if int(v) != 0}
    order = sorted(labels, key=lambda name: labels[name])
    names = sorted(
        p.name[: -len(ending)] for p in (folder / "labelsTr").glob(f"*{ending}") if p.is_file()
    )
    if not names:
        raise MaskSAMError(f"{folder} has no labelled case: labelsTr holds no *{ending}")
    cases = tuple(
        Case(
            name,
            tuple(folder / "imagesTr" / f"{name}_{c:04d}{ending}" for c in range(len(channels))),
            folder / "labelsTr" / f"{name}{ending}",
        )
        for name in names
    )
    title = str(description.get("name") or folder.resolve().name)
    return Dataset(
        folder, title, channels, tuple(order), tuple(labels[name] for name in order), cases
    )


def _description_problems(description: Any) -> list[str]:
    if not isinstance(description, dict):
        return ["it must hold one JSON object"]
    problems = [
        f"'{key}' is missing"
        for key in ("channel_names", "labels", "file_ending")
        if key not in description
    ]
    names = description.get("channel_names", {"0": ""})
    if not isinstance(names, dict) or sorted(names) != sorted(str(i) for i in range(len(names))):
        problems.append('\'channel_names\' must map "0", "1", … to names')
    labels = description.get("labels", {"background": 0, "a class": 1})
    if not isinstance(labels, dict) or not all(_is_integer(v) for v in labels.values()):
        problems.append("'labels' must map names to integers (regions are not supported)")
    else:
        values = [int(v) for v in labels.values()]
        if 0 not in values or min(values) < 0 or len(set(values)) != len(values):
            problems.append("'labels' must be different values from 0 (the background) up")
        elif len(values) < 2:
            problems.append("'labels' must have a class beside the background")
    ending = description.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or not ending.startswith("."):
        problems.append("'file_ending' must be a suffix such as .nii.gz")
    return problems


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and value.isdigit())


def load_cases(
    dataset: Dataset, names: Sequence[str], progress: Callable[[float], None] | None = None
) -> list[LabelledCase]:
    """Reads and checks cases, all of them, before any work begins.

    Raises:
        MaskSAMError: one report that names every problem: missing or unreadable files, channels or
            labels on another grid, labels that are no integers or in no class.
    """
    problems: list[str] = []
    loaded = []
    for index, case in enumerate(dataset.select(names)):
        found, wrong = _load_case(dataset, case)
        problems += wrong
        if found is not None:
            loaded.append(found)
        if progress is not None:
            progress((index + 1) / len(names))
    if problems:
        shown = problems[:_REPORT_LINES]
        if len(problems) > _REPORT_LINES:
            shown.append(f"and {len(problems) - _REPORT_LINES} more")
        raise MaskSAMError(
            f"{dataset.folder} has {len(problems)} problem(s), nothing was started: "
            + "; ".join(shown)
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
    for path, volume in zip((*case.images[1:], case.label), volumes[1:], strict=True):
        if not volume.same_grid(volumes[0], tolerance_mm=0.05):
            problems.append(
                f"{path.parent.name}/{path.name} is not on the grid of {case.images[0].name}"
            )
    rounded = np.rint(label.array)
    if np.abs(label.array - rounded).max() > 1e-3:
        problems.append(f"labelsTr/{case.label.name} holds values that are no integers")
    values, inverse = np.unique(rounded.astype(np.int64), return_inverse=True)
    strange = sorted(set(values.tolist()) - {0, *dataset.values})
    if strange:
        problems.append(
            f"labelsTr/{case.label.name} holds labels {strange} that are in no class of"
            " dataset.json"
        )
    if problems:
        return None, problems
    order = {value: index + 1 for index, value in enumerate(dataset.values)}
    table = np.array([order.get(int(value), 0) for value in values], np.uint8)
    mapped = table[inverse].reshape(label.array.shape)
    return LabelledCase(case.name, tuple(channels), mapped), []


def split_cases(dataset: Dataset, file: Path | None, fold: int = 0) -> dict[str, list[str]]:
    """Names of the cases to train on ("train") and to validate on ("val").

    Args:
        dataset: all cases.
        file: JSON with "train" and "val" lists, or nnU-Net's ``splits_final.json`` (a list of
            such folds); None takes the folder's own ``splits_final.json`` or, without one, every
            fifth case of a fixed shuffle (seed 12345) for validation.
        fold: which one of several.

    Raises:
        MaskSAMError: the file is no split, or names cases that are missing or stand on both sides.
    """
    known = [case.name for case in dataset.cases]
    if file is None and (dataset.folder / "splits_final.json").is_file():
        file = dataset.folder / "splits_final.json"
    if file is None:
        if len(known) < 2:
            raise MaskSAMError("one case cannot be split: training needs at least two")
        shuffled = [known[i] for i in np.random.default_rng(12345).permutation(len(known))]
        chosen = set(shuffled[fold::5])
        return {
            "train": [name for name in known if name not in chosen],
            "val": [name for name in known if name in chosen],
        }
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        values = values[fold] if isinstance(values, list) else values
        split = {key: [str(name) for name in values[key]] for key in ("train", "val")}
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise MaskSAMError(f"{file} is no split: it needs lists 'train' and 'val'") from error
    missing = sorted({n for names in split.values() for n in names} - set(known))
    both = sorted(set(split["train"]) & set(split["val"]))
    if missing:
        raise MaskSAMError(f"{file} names cases that are not in the dataset: {missing[:5]}")
    if both or not split["train"] or not split["val"]:
        wrong = f"{both[:5]} stand on both sides" if both else "one of its sides is empty"
        raise MaskSAMError(f"{file} is no usable split: {wrong}")
    return split

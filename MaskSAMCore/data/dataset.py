"""Dataset folders in nnU-Net's format: reading, and checking before any work begins.

A folder holds ``dataset.json``, ``labelsTr`` and ``imagesTr``. Without ``imagesTr`` it is a
labelmap dataset, whose images are synthesised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.data.label_scheme import (
    FOLDER_KEYS,
    KEYS,
    LARGEST_VALUE,
    LabelScheme,
    is_integer,
    read_scheme,
)
from MaskSAMCore.data.patients import patients_by_name, read_patients
from MaskSAMCore.data.voxel_size import check_voxel_size
from MaskSAMCore.errors import MaskSAMError, first_names
from MaskSAMCore.geometry import SAME_GRID_MM, Volume
from MaskSAMCore.intensities import check_intensities
from MaskSAMCore.io import read_json, read_volume
from MaskSAMCore.io.files import is_image_name
from MaskSAMCore.io.labelmaps import read_labelmap
from MaskSAMCore.io.listing import listed

# Name of the only channel of a labelmap dataset.
_SYNTHETIC = "synthetic"
# Suffix of file names, such as .nii.gz.
_SUFFIX = re.compile(r"(\.[A-Za-z0-9_-]+)+")
# Unknown values listed in an error message.
_LISTED_VALUES = 10

Result = TypeVar("Result")


@dataclass(frozen=True)
class Case:
    """Files of a labelled case.

    Attributes:
        name: name of the case.
        images: one image file for each channel; none in a labelmap dataset.
        labelmap: file of the labelmap.
    """

    name: str
    images: tuple[Path, ...]
    labelmap: Path


@dataclass(frozen=True)
class Dataset:
    """A dataset folder.

    Attributes:
        folder: path of the folder.
        name: title of the dataset.
        channels: names of the channels, in order.
        classes: names of the classes 1 to K, in the order of their values.
        values: values of the classes 1 to K in the labelmaps.
        cases: all labelled cases, sorted by name.
        notes: remarks for the user that do not prevent any work.
        scheme: meaning of the labels of a labelmap dataset, None for a dataset with images.
        patients: patient of each case, see :mod:`MaskSAMCore.data.patients`.
    """

    folder: Path
    name: str
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    values: tuple[int, ...]
    cases: tuple[Case, ...]
    notes: tuple[str, ...] = ()
    scheme: LabelScheme | None = None
    patients: Mapping[str, str] = field(default_factory=dict)

    def select(self, names: Sequence[str]) -> list[Case]:
        """Return the cases with the given names, in that order.

        Raises:
            MaskSAMError: a name is unknown.
        """
        by_name = {case.name: case for case in self.cases}
        missing = [name for name in names if name not in by_name]
        if missing:
            raise MaskSAMError(f"{self.folder} has no case {', '.join(missing)}")
        return [by_name[name] for name in names]


@dataclass(frozen=True)
class LabelledCase:
    """A labelled case in memory.

    Attributes:
        name: name of the case.
        channels: one volume for each channel. In a labelmap dataset the only channel holds label
            indices of the dataset's scheme.
        labelmap: [K, J, I], class indices 0 to K on the grid of the channels.
    """

    name: str
    channels: tuple[Volume, ...]
    labelmap: NDArray[np.uint8]


def open_dataset(folder: Path) -> Dataset:
    """Read ``dataset.json`` and find the labelled cases without reading their images.

    Raises:
        MaskSAMError: the folder is not a dataset; the message names all problems of
            ``dataset.json``.
    """
    dataset, problems = examine_dataset(folder)
    if problems:
        raise MaskSAMError("; ".join(problems))
    return dataset


def examine_dataset(
    folder: Path, targets: Path | Mapping[str, Any] | None = None
) -> tuple[Dataset, list[str]]:
    """Open a dataset and return the problems of ``dataset.json`` instead of raising them.

    A caller can thus report them together with the problems of the cases.

    Args:
        folder: a dataset folder.
        targets: description of the labels of a labelmap dataset: a JSON file, whose values add to
            ``dataset.json`` or replace its values, or a complete description, such as that of a
            run, which is used alone.

    Raises:
        MaskSAMError: not even the cases can be found.
    """
    # An empty imagesTr means that images are missing, not that they are to be synthesised.
    if (folder / "labelsTr").is_dir() and not (folder / "imagesTr").exists():
        return _examine_labelmaps(folder, targets)
    if targets is not None:
        raise MaskSAMError(
            f"--targets is for labelmaps without images, but {folder} has imagesTr or no labelsTr"
        )
    path = folder / "dataset.json"
    if not path.is_file():
        raise MaskSAMError(f"{folder} is not a dataset folder: it has no dataset.json")
    description = read_json(path)
    format_problems, label_problems = description_problems(description)
    problems = [f"{path}: {problem}" for problem in (*format_problems, *label_problems)]
    if format_problems:
        raise MaskSAMError("; ".join(problems))
    suffix = description["file_ending"]
    channel_names = description["channel_names"]
    channels = tuple(str(channel_names[key]) for key in sorted(channel_names, key=int))
    labels = {}
    if not label_problems:
        labels = {str(k): int(v) for k, v in description["labels"].items() if int(v) != 0}
    classes = tuple(sorted(labels, key=lambda name: labels[name]))
    labelled = _case_names(folder / "labelsTr", suffix)
    if not labelled:
        problems.append(f"{folder} has no labelled case: labelsTr has no *{suffix}")
        raise MaskSAMError("; ".join(problems))
    # An image without a labelmap is a problem to report, not a case to leave out.
    names = sorted(labelled | _case_names(folder / "imagesTr", f"_0000{suffix}"))
    cases = tuple(
        Case(
            name,
            tuple(folder / "imagesTr" / f"{name}_{c:04d}{suffix}" for c in range(len(channels))),
            folder / "labelsTr" / f"{name}{suffix}",
        )
        for name in names
    )
    patients, patient_problems, patient_notes = _patients(description, names)
    problems += [f"{path}: {problem}" for problem in patient_problems]
    dataset = Dataset(
        folder=folder,
        name=str(description.get("name") or folder.resolve().name),
        channels=channels,
        classes=classes,
        values=tuple(labels[name] for name in classes),
        cases=cases,
        notes=(
            *_notes(description, len(labelled)),
            *_notes_on_endings(folder / "labelsTr", suffix),
            *patient_notes,
        ),
        patients=patients,
    )
    return dataset, problems


def load_cases(
    dataset: Dataset, names: Sequence[str], known_problems: Sequence[str] = ()
) -> list[LabelledCase]:
    """Read and check cases and return them all, see :func:`examine_cases`."""
    return examine_cases(dataset, names, lambda _, case: case, known_problems)


def examine_cases(
    dataset: Dataset,
    names: Sequence[str],
    examine: Callable[[int, LabelledCase], Result],
    known_problems: Sequence[str] = (),
) -> list[Result]:
    """Read and check all given cases before any work begins.

    Only one case is in memory at a time, apart from the results.

    Args:
        dataset: dataset with the cases.
        names: names of the cases to read.
        examine: function that is called with the number of a case and the case.
        known_problems: problems found before, to report together with those of the cases.

    Returns:
        The result of the function for each case.

    Raises:
        MaskSAMError: one report of all problems: missing or unreadable files, files on different
            grids, labels that are not integers or belong to no class.
    """
    problems = list(known_problems)
    results = []
    for number, case in enumerate(dataset.select(names)):
        labelled, found = _load_case(dataset, case)
        problems += found
        if labelled is not None:
            results.append(examine(number, labelled))
    if problems:
        raise MaskSAMError(
            f"{dataset.folder} has {len(problems)} problem(s), nothing was started: "
            + "; ".join(problems)
        )
    return results


def _examine_labelmaps(
    folder: Path, targets: Path | Mapping[str, Any] | None
) -> tuple[Dataset, list[str]]:
    description = _labelmap_description(folder, targets)
    scheme, problems = read_scheme(description)
    problems = [f"labelmaps of {folder}: {problem}" for problem in problems]
    suffix = description.get("file_ending", ".nii.gz")
    if not _is_suffix(suffix):
        problems.append(f"{folder}: 'file_ending' must be a suffix such as .nii.gz")
        raise MaskSAMError("; ".join(problems))
    names = sorted(_case_names(folder / "labelsTr", suffix))
    if not names:
        problems.append(f"{folder} has no labelmap: labelsTr has no *{suffix}")
        raise MaskSAMError("; ".join(problems))
    path = folder / "dataset.json"
    described = read_json(path) if path.is_file() else {}
    patients, patient_problems, patient_notes = _patients(described, names)
    problems += [f"{path}: {problem}" for problem in patient_problems]
    notes = (*_notes_on_endings(folder / "labelsTr", suffix), *patient_notes)
    dataset = Dataset(
        folder=folder,
        name=str(description.get("name") or folder.resolve().name),
        channels=(_SYNTHETIC,),
        classes=(),
        values=(),
        cases=tuple(Case(name, (), folder / "labelsTr" / f"{name}{suffix}") for name in names),
        notes=notes,
        patients=patients,
    )
    if scheme is None:
        return dataset, problems
    note = (
        f"note: no images: {len(scheme.classes)} classes are learned on images synthesised from"
        f" {len(scheme.names) - 1} labels"
    )
    dataset = replace(
        dataset,
        classes=scheme.classes,
        values=scheme.class_values,
        notes=(note, *notes),
        scheme=scheme,
    )
    return dataset, problems


def _labelmap_description(folder: Path, targets: Path | Mapping[str, Any] | None) -> dict[str, Any]:
    """Merge ``dataset.json`` and ``targets``, whose values replace those of ``dataset.json``.

    If ``targets`` is a complete description, ``dataset.json`` only adds the keys of the folder.
    """
    path = folder / "dataset.json"
    if targets is None and not path.is_file():
        raise MaskSAMError(
            f"{folder} has labelmaps without images and no dataset.json: write one that names the"
            ' labels ("labels": name to value), or give such a file with --targets'
        )
    own = _read_object(path) if path.is_file() else {}
    if isinstance(targets, Mapping):
        own = {key: own[key] for key in FOLDER_KEYS if key in own}
    given = _read_object(targets) if isinstance(targets, Path) else targets or {}
    return {key: values[key] for values in (own, given) for key in KEYS if key in values}


def _read_object(file: Path) -> dict[str, Any]:
    values = read_json(file)
    if not isinstance(values, dict):
        raise MaskSAMError(f"{file} must contain one JSON object")
    return values


def _notes(description: dict[str, Any], found: int) -> tuple[str, ...]:
    announced = description.get("numTraining")
    if not isinstance(announced, int) or announced == found:
        return ()
    return (f"note: dataset.json says numTraining {announced}, labelsTr has {found} cases",)


def _notes_on_endings(folder: Path, suffix: str) -> tuple[str, ...]:
    """Return a note on labelmaps that are left out because their names have another suffix."""
    names = (path.name for path in listed(folder) if is_image_name(path))
    others = [name for name in names if not name.endswith(suffix)]
    if not others:
        return ()
    return (
        f"note: {len(others)} file(s) of {folder.name} are left out, because their names do not end"
        f" in {suffix}: {first_names(others)}",
    )


def _patients(
    description: Mapping[str, Any], names: Sequence[str]
) -> tuple[dict[str, str], list[str], tuple[str, ...]]:
    """Return the patient of each case, the problems of ``patients``, and notes for the user."""
    if "patients" in description:
        return *read_patients(description["patients"], names), ()
    patients = patients_by_name(names)
    count = len(set(patients.values()))
    if count == len(names):
        return patients, [], ()
    note = f"note: {len(names)} cases are of {count} patients, as their names tell"
    return patients, [], (note,)


def _case_names(folder: Path, suffix: str) -> set[str]:
    """Return the names of the cases in a folder; none if the folder is missing."""
    if not folder.is_dir():
        return set()
    # A link to a file that was not downloaded is a problem to report, not a case to leave out.
    found = (path.name for path in listed(folder) if not path.is_dir())
    return {name[: -len(suffix)] for name in found if name.endswith(suffix)}


def description_problems(description: Any) -> tuple[list[str], list[str]]:
    """Return the problems in ``dataset.json`` about the file layout, and those about the labels."""
    if not isinstance(description, dict):
        return ["it must contain one JSON object"], []
    layout = [
        f"'{key}' is missing" for key in ("channel_names", "file_ending") if key not in description
    ]
    names = description.get("channel_names", {"0": ""})
    if not isinstance(names, dict) or sorted(names) != sorted(str(i) for i in range(len(names))):
        layout.append('\'channel_names\' must map "0", "1", … to names')
    elif not names:
        layout.append("'channel_names' names no channel")
    suffix = description.get("file_ending", ".nii.gz")
    if not _is_suffix(suffix):
        layout.append("'file_ending' must be a suffix such as .nii.gz")
    labelling = []
    labels = description.get("labels")
    if "labels" not in description:
        labelling.append("'labels' is missing")
    elif not isinstance(labels, dict) or not all(is_integer(v) for v in labels.values()):
        labelling.append("'labels' must map names to integers (regions are not supported)")
    else:
        values = [int(v) for v in labels.values()]
        if 0 not in values or min(values) < 0 or len(set(values)) != len(values):
            labelling.append("'labels' must be different values from 0 (the background) up")
        elif not 2 <= len(values) <= 256:
            labelling.append("'labels' must have 1 to 255 classes besides the background")
        elif max(values) > LARGEST_VALUE:
            labelling.append(f"'labels' must be no larger than {LARGEST_VALUE}")
    if isinstance(labels, dict) and "ignore" in labels:
        labelling.append("'labels' has 'ignore', which is not supported")
    return layout, labelling


def _is_suffix(value: Any) -> bool:
    return isinstance(value, str) and _SUFFIX.fullmatch(value) is not None


def _load_case(dataset: Dataset, case: Case) -> tuple[LabelledCase | None, list[str]]:
    """Read one case; return it, or None if it cannot be used, and the list of its problems."""
    files = (*case.images, case.labelmap)
    problems: list[str] = []
    volumes: list[Volume] = []
    for path in files:
        if not path.is_file():
            state = "links to a file that is missing" if path.is_symlink() else "is missing"
            problems.append(f"{path.parent.name}/{path.name} {state}")
            continue
        try:
            is_labelmap = path == case.labelmap
            volume = read_labelmap(path) if is_labelmap else read_volume(path)
            subject = f"{path.parent.name}/{path.name}"
            check_voxel_size(volume, subject)
            if not is_labelmap:
                check_intensities(volume.array, subject)
            volumes.append(volume)
        except MaskSAMError as error:
            problems.append(str(error))
    if problems:
        return None, problems
    for path, volume in zip(files[1:], volumes[1:], strict=True):
        if not volume.same_grid(volumes[0], SAME_GRID_MM):
            problems.append(f"{path.parent.name}/{path.name} is not on the grid of {files[0].name}")
    *channels, labelmap = volumes
    values = labelmap.array
    if not dataset.values:
        # The labels in dataset.json are wrong, which is already reported.
        return None, problems
    known = dataset.values if dataset.scheme is None else dataset.scheme.values[1:]
    indices = np.zeros(labelmap.shape, np.uint8)
    for index, value in enumerate(known, start=1):
        indices[values == value] = index
    unknown = np.unique(values[(indices == 0) & (values != 0)])
    if unknown.size:
        first = [int(value) for value in unknown[:_LISTED_VALUES]]
        more = f" and {unknown.size - len(first)} more" if unknown.size > len(first) else ""
        problems.append(
            f"labelsTr/{case.labelmap.name} has values {first}{more} that are in no class of"
            " dataset.json"
        )
    if problems:
        return None, problems
    if dataset.scheme is None:
        return LabelledCase(case.name, tuple(channels), indices), []
    channel = replace(labelmap, array=indices)
    return LabelledCase(case.name, (channel,), dataset.scheme.classes_of(indices)), []

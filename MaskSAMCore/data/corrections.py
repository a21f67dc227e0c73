"""Folders of corrected cases: nnU-Net datasets that record which classes are correct in each case.

Besides nnU-Net's keys, ``dataset.json`` has

- ``checked``: the names of the correct classes by case. A checked class without voxels is absent
  from the case. In a dataset without ``checked`` all classes are correct in all cases: when a case
  is appended, the earlier cases get entries with all classes of the dataset.
- ``images``: the SHA-256 of the image of each case, in the order in which the cases were appended.
  An image that is corrected again is a new case, which replaces the older one for learning.
- ``segments``: the colour and the terminology that the segments of a class had last.

Cases are appended and never overwritten, and the integers of the labels never change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.data.dataset import Dataset, description_problems, examine_dataset
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import SAME_GRID_MM, Volume, image_digest
from MaskSAMCore.io import read_json, write_json, write_volume
from MaskSAMCore.io.files import locked, made_folders, remove_abandoned, temporary_folder
from MaskSAMCore.io.labelmaps import read_labelmap
from MaskSAMCore.labels import Label, is_reserved

_ENDING = ".nii.gz"
_DESCRIPTION = "dataset.json"
# Characters that some systems do not allow in file names, or that the shell would interpret.
_UNUSABLE = re.compile(r"[^\w.-]+", re.ASCII)
# Windows allows paths of 260 characters, other systems names of 255 bytes.
_LONGEST_NAME = 100
_LARGEST = np.iinfo(np.uint16).max
# Without locks, as on some network drives, another program may still write to a younger folder.
_ABANDONED_SECONDS = 3600.0


@dataclass(frozen=True)
class Corrections:
    """A folder of corrected cases.

    Attributes:
        dataset: dataset with the complete cases.
        checked: names of the correct classes of each case.
        segments: values, colours and terminology of the classes whose segments had them, by name.
    """

    dataset: Dataset
    checked: Mapping[str, frozenset[str]]
    segments: Mapping[str, Label] = field(default_factory=dict)


def read_corrections(folder: Path) -> Corrections:
    """Read a folder of corrected cases, or an nnU-Net dataset, all of whose classes are correct.

    Cases that an interrupted :func:`append_case` left incomplete are skipped, and so are cases that
    a newer correction of the same image replaces.

    Raises:
        MaskSAMError: the folder is not a dataset, ``checked`` names unknown classes or has no
            entry for a case, or ``segments`` has no colours.
    """
    dataset, problems = examine_dataset(folder)
    if dataset.scheme is not None:
        raise MaskSAMError(f"{folder} has no images: give volumes with their segmentations")
    if problems:
        raise MaskSAMError("; ".join(problems))
    path = folder / _DESCRIPTION
    description = read_json(path)
    entries = _checked(path, description)
    known = frozenset(dataset.classes)
    missing = [case.name for case in dataset.cases if entries and case.name not in entries]
    if missing:
        raise MaskSAMError(
            f"{path}: 'checked' has no entry of {missing[0]} ({len(missing)} case(s) without one):"
            " name the classes that are right there"
        )
    for name, classes in entries.items():
        unknown = sorted(classes - known)
        if unknown:
            raise MaskSAMError(f"{path}: 'checked' of {name} has unknown classes: {unknown}")
    complete = {
        case.name: case
        for case in dataset.cases
        if case.name not in entries or all(file.is_file() for file in (*case.images, case.labelmap))
    }
    images = _images(path, description)
    newest = {images[name]: name for name in images if name in complete}
    cases = tuple(
        case for name, case in complete.items() if newest.get(images.get(name, ""), name) == name
    )
    if not cases:
        raise MaskSAMError(f"{folder} has no complete case")
    checked = {case.name: entries.get(case.name, known) for case in cases}
    values = dict(zip(dataset.classes, dataset.values, strict=True))
    return Corrections(replace(dataset, cases=cases), checked, _segments(path, description, values))


def append_case(
    folder: Path,
    channels: Sequence[Volume],
    labelmap: NDArray[np.integer],
    labels: Mapping[str, int],
    checked: Collection[str],
    name: str,
    channel_names: Sequence[str] | None = None,
    segments: Sequence[Label] = (),
    report: Callable[[str], None] | None = None,
) -> str:
    """Add a corrected case to a folder, which is created if it does not exist.

    If the folder already has a case of the same image, the new case replaces it for learning and
    takes over the classes that are checked in the earlier case only. If that changes nothing, no
    case is added.

    Args:
        folder: folder of corrected cases.
        channels: one volume for each channel, all on one grid.
        labelmap: integers [K, J, I] on the grid of the channels.
        labels: value in the labelmap of each class name, without the background. A name that
            differs from a name in the folder only in upper and lower case is the same class;
            "background" and "ignore" are not allowed.
        checked: names of the correct classes, all of them in ``labels``.
        name: name of the case; characters that a file name cannot have are replaced, a long name
            is cut, and a second case of the same name gets a number.
        channel_names: names of the channels in a new folder; None for "MR" or, with several
            channels, "MR0", "MR1" and so on.
        segments: segments of the classes; a class that is learned from the case gets the colour
            and the terminology of its segment.
        report: receives a line if the case replaces an earlier case of the same image.

    Returns:
        Name of the case in the folder, or of the equal case that the folder already has.

    Raises:
        MaskSAMError: the parts of the case do not fit each other or the folder, or the folder
            cannot be written. The folder is then unchanged.
    """
    _check_case(channels, labelmap, labels, checked)
    path = folder / _DESCRIPTION
    with ExitStack() as stack:
        folders = [folder, folder / "imagesTr", folder / "labelsTr"]
        stack.enter_context(made_folders(folders))
        stack.enter_context(locked(folder))
        remove_abandoned(folder, _ABANDONED_SECONDS)
        description = _description(path, channels, channel_names)
        stored, values, names = _merged_labels(description, labels, path)
        ending = description["file_ending"]
        entries = _checked(path, description)
        if not entries:
            classes = frozenset(one for one, value in description["labels"].items() if int(value))
            entries = dict.fromkeys(_cases(folder, ending), classes)
        renumbered = np.zeros(labelmap.shape, np.min_scalar_type(max(stored.values())))
        for value, new in values.items():
            renumbered[labelmap == value] = new
        right = frozenset(names[each] for each in checked)
        digests, digest = _images(path, description), image_digest(channels)
        earlier = [each for each in digests if digests[each] == digest]
        labelmaps = folder / "labelsTr"
        present = [
            each
            for each in earlier
            if each in entries and (labelmaps / f"{each}{ending}").is_file()
        ]
        if present:
            before = read_labelmap(labelmaps / f"{present[-1]}{ending}").array
            same = {each.casefold() for each in right}
            others = {each for each in entries[present[-1]] if each.casefold() not in same}
            # The earlier case decides the classes checked only there, except where a class that is
            # checked now has voxels.
            known = [stored[each] for each in others]
            taken_over = np.isin(before, known)
            taken_over &= ~np.isin(renumbered, [stored[each] for each in right])
            renumbered[np.isin(renumbered, known)] = 0
            renumbered = np.where(taken_over, before, renumbered).astype(renumbered.dtype)
            right |= others
            if entries[present[-1]] == right and np.array_equal(before, renumbered):
                return present[-1]
        case = _free_name(name, folder, ending, entries)
        temporary = stack.enter_context(temporary_folder(path))
        images = [f"{case}_{index:04d}{ending}" for index in range(len(channels))]
        for file, volume in zip(images, channels, strict=True):
            write_volume(volume, temporary / file)
        file = f"{case}{ending}"
        write_volume(replace(channels[0], array=renumbered), temporary / file)
        kept = {each: sorted(classes) for each, classes in entries.items()}
        shown = _segments(path, description, stored)
        shown |= {names[one.name]: one for one in segments if one.name in names}
        changed = {
            **description,
            "labels": stored,
            "numTraining": len(_cases(folder, ending)) + 1,
            "checked": {**kept, case: sorted(right)},
            "images": {**digests, case: digest},
            "segments": {
                each: {"color": list(one.color), "terminology": one.to_json()["terminology"]}
                for each, one in shown.items()
            },
        }
        # Because of its entry in "checked", a case with missing files is recognised as incomplete.
        write_json(path, changed, ensure_ascii=False)
        for image in images:
            (temporary / image).replace(folder / "imagesTr" / image)
        (temporary / file).replace(folder / "labelsTr" / file)
    if report is not None and present:
        report(f"{case} replaces {present[-1]}, an earlier correction of the same image")
    return case


def _check_case(
    channels: Sequence[Volume],
    labelmap: NDArray[np.integer],
    labels: Mapping[str, int],
    checked: Collection[str],
) -> None:
    """Raise an error if the parts of a case do not fit each other."""
    if not channels:
        raise MaskSAMError("a corrected case needs a volume")
    if any(not volume.same_grid(channels[0], SAME_GRID_MM) for volume in channels[1:]):
        raise MaskSAMError("the channels of a corrected case must share one grid")
    if labelmap.shape != channels[0].shape:
        raise MaskSAMError("the segmentation is not on the grid of the volume: resample it first")
    if not labels or not checked:
        raise MaskSAMError("no class is checked: check the classes that are right in this case")
    unknown = sorted(set(checked) - set(labels))
    if unknown:
        raise MaskSAMError(f"the segmentation has no class {', '.join(unknown)}")
    known = np.array([0, *labels.values()])
    if len(set(known.tolist())) < len(known) or known.min() < 0:
        raise MaskSAMError("the classes of a segmentation need different values from 1 up")
    unnamed = np.setdiff1d(np.unique(labelmap), known)
    if unnamed.size:
        raise MaskSAMError(f"the segmentation has the value {unnamed[0]}, which is no class")


def _description(
    path: Path, channels: Sequence[Volume], channel_names: Sequence[str] | None
) -> dict[str, Any]:
    """Return the content of ``dataset.json``, or the initial content for a new folder."""
    if path.is_file():
        values = read_json(path)
        if not isinstance(values, dict) or not isinstance(values.get("channel_names"), dict):
            raise MaskSAMError(f"{path} does not describe a dataset: choose another folder")
        if not isinstance(values.get("labels"), dict) or "file_ending" not in values:
            raise MaskSAMError(f"{path} does not describe a dataset: choose another folder")
        count = len(values["channel_names"])
        if count != len(channels):
            raise MaskSAMError(
                f"{path.parent} has cases of {count} channel(s), not {len(channels)}: choose"
                " another folder"
            )
        layout, labelling = description_problems(values)
        if layout or labelling:
            problems = "; ".join((*layout, *labelling))
            raise MaskSAMError(f"{path} cannot take corrections: {problems}: choose another folder")
        return values
    if any(next(path.parent.joinpath(part).iterdir(), None) for part in ("imagesTr", "labelsTr")):
        raise MaskSAMError(f"{path.parent} has images but no {_DESCRIPTION}: choose another folder")
    names = channel_names
    if names is None:
        names = ["MR"] if len(channels) == 1 else [f"MR{i}" for i in range(len(channels))]
    return {
        "channel_names": {str(index): name for index, name in enumerate(names)},
        "labels": {"background": 0},
        "numTraining": 0,
        "file_ending": _ENDING,
        "checked": {},
    }


def _merged_labels(
    description: Mapping[str, Any], labels: Mapping[str, int], path: Path
) -> tuple[dict[str, int], dict[int, int], dict[str, str]]:
    """Merge new labels into the labels of a folder.

    Returns:
        All labels of the folder, the folder's value for each value of ``labels``, and the folder's
        name for each name of ``labels``.
    """
    stored = {str(name): int(value) for name, value in description["labels"].items()}
    spellings: dict[str, str] = {}
    for name, value in stored.items():
        if value != 0:
            spellings.setdefault(name.casefold(), name)
    values, names = {}, {}
    for name, value in labels.items():
        if is_reserved(name) or stored.get(name) == 0:
            raise MaskSAMError(f"no class can be named '{name}': rename the segment")
        own = name if name in stored else spellings.setdefault(name.casefold(), name)
        if own not in stored:
            taken = set(stored.values())
            free = value if value not in taken else max(taken) + 1
            if free > _LARGEST:
                raise MaskSAMError(f"{path} has no value left for the class '{name}'")
            stored[own] = free
        values[value], names[name] = stored[own], own
    return stored, values, names


def _checked(path: Path, description: Any) -> dict[str, frozenset[str]]:
    """Return the names of the checked classes of each case that has an entry."""
    entries = description.get("checked", {}) if isinstance(description, dict) else {}
    wrong = f"{path}: 'checked' must map names of cases to lists of class names"
    if not isinstance(entries, dict):
        raise MaskSAMError(wrong)
    found = {}
    for name, classes in entries.items():
        if not isinstance(classes, list) or not all(isinstance(each, str) for each in classes):
            raise MaskSAMError(wrong)
        found[name] = frozenset(classes)
    return found


def _images(path: Path, description: Any) -> dict[str, str]:
    """Return the SHA-256 of the image of each case that has an entry, oldest first."""
    values = description.get("images", {}) if isinstance(description, dict) else {}
    if not isinstance(values, dict) or not all(isinstance(one, str) for one in values.values()):
        raise MaskSAMError(f"{path}: 'images' must map names of cases to checksums")
    return dict(values)


def _segments(path: Path, description: Any, values: Mapping[str, int]) -> dict[str, Label]:
    """Return the classes whose segments had a colour and terminology, by name."""
    entries = description.get("segments", {}) if isinstance(description, dict) else {}
    try:
        return {
            name: Label.from_json({**entry, "value": values[name], "name": name})
            for name, entry in entries.items()
            if values.get(name)
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MaskSAMError(
            f"{path}: 'segments' must map names of classes to a color and a terminology"
        ) from error


def _cases(folder: Path, ending: str) -> list[str]:
    return [each.name[: -len(ending)] for each in (folder / "labelsTr").glob(f"*{ending}")]


def _free_name(name: str, folder: Path, ending: str, entries: Collection[str]) -> str:
    """Return a name that no case in the folder has."""
    plain = _UNUSABLE.sub("-", name).strip("-.")[:_LONGEST_NAME].rstrip("-.") or "case"
    images = {each.name.removesuffix(ending)[:-5] for each in (folder / "imagesTr").iterdir()}
    taken = {*_cases(folder, ending), *images, *entries}
    number, found = 1, plain
    while found.casefold() in {each.casefold() for each in taken}:
        number += 1
        found = f"{plain}-{number}"
    return found

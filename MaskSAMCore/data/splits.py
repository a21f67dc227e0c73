"""Training, validation and test cases of a dataset, with all cases of a patient on one side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from MaskSAMCore.data.dataset import Dataset
from MaskSAMCore.data.patients import parted_patients
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import read_json

# nnU-Net's number of folds and their random seed.
FOLDS, _FOLD_SEED = 5, 12345
_SIDES = ("train", "val", "test")


@dataclass(frozen=True)
class Fold:
    """One of the folds of a cross-validation.

    Attributes:
        index: number of the fold, from 0.
        count: number of folds; None for that of the split file or, without one, nnU-Net's five.
    """

    index: int
    count: int | None = None


def split_cases(dataset: Dataset, file: Path | None) -> dict[str, list[str]]:
    """Return the names of the training cases ("train") and of the validation cases ("val").

    Args:
        dataset: dataset with the cases.
        file: JSON file with the lists "train" and "val" and optionally "test", or nnU-Net's
            ``splits_final.json`` (a list of folds, of which the first is used). None takes
            ``splits_final.json`` of the dataset's folder or, without that file, nnU-Net's first
            fold.

    Raises:
        MaskSAMError: the file is not a split, names unknown cases, or puts a case on two sides.
    """
    split, problems = find_split(dataset, file)
    if problems:
        raise MaskSAMError("; ".join(problems))
    return split


def held_out_cases(dataset: Dataset, file: Path | None) -> list[str]:
    """Return the names of the cases under "test" in a split file; none without a file.

    Raises:
        MaskSAMError: the file is not a split, or names unknown cases.
    """
    names = [] if file is None else _read_split(file)["test"]
    dataset.select(names)
    return names


def tested_cases(file: Path) -> list[str]:
    """Return the names of the cases under "test" in a split file or, without any, under "val".

    Raises:
        MaskSAMError: the file is not a split, or has neither.
    """
    split = _read_split(file)
    names = split["test"] or split["val"]
    if not names:
        raise MaskSAMError(f"{file} has no case under 'test' or 'val': there is nothing to compare")
    return names


def find_split(
    dataset: Dataset, given: Path | dict[str, list[str]] | None, fold: Fold | None = None
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the usable part of a split and all its problems instead of raising them.

    A caller can thus report them together with the problems of the cases.

    Args:
        dataset: dataset with the cases.
        given: file as in :func:`split_cases`, the split itself, or None.
        fold: fold of a cross-validation; None for the first, or for a file with one split.
    """
    names = [case.name for case in dataset.cases]
    try:
        if given is None and (dataset.folder / "splits_final.json").is_file():
            given = dataset.folder / "splits_final.json"
        if given is None:
            return _fold_of_patients(dataset, fold or Fold(0)), []
        if isinstance(given, dict):
            split, source = {"test": [], **given}, "the run's split"
        else:
            split, source = _read_split(given, fold), str(given)
    except MaskSAMError as error:
        return {"train": names, "val": []}, [str(error)]
    problems = []
    for side in ("train", "val"):
        if not split[side]:
            problems.append(f"{source} is not a usable split: '{side}' is empty")
    for side in _SIDES:
        twice = sorted({name for name in split[side] if split[side].count(name) > 1})
        if twice:
            problems.append(f"{source} is not a usable split: {side} has {twice} twice")
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        both = sorted(set(split[one]) & set(split[other]))
        if both:
            problems.append(f"{source} is not a usable split: {both} are in both {one} and {other}")
    if not problems and not isinstance(given, dict):
        problems += [f"{source}: {one}" for one in parted_patients(split, dataset.patients)]
    sides = {side: split[side] for side in ("train", "val")}
    missing = sorted({name for side in sides.values() for name in side} - set(names))
    if missing:
        problems.append(f"{source} names cases that are not in the dataset: {missing}")
    return {side: [name for name in sides[side] if name in names] for side in sides}, problems


def _read_split(file: Path, fold: Fold | None = None) -> dict[str, list[str]]:
    values = read_json(file)
    if isinstance(values, list) and values:
        index, count = (0, None) if fold is None else (fold.index, fold.count)
        if index >= len(values) or count not in (None, len(values)):
            raise MaskSAMError(
                f"{file} has the folds 0 to {len(values) - 1}: choose one with --fold, or all with"
                f" --folds {len(values)}"
            )
        values = values[index]
    elif fold is not None:
        raise MaskSAMError(f"{file} has one split, not folds: leave out --fold and --folds")
    if isinstance(values, dict):
        values = {"test": [], **values}
        sides: dict[str, Any] = {key: values.get(key) for key in _SIDES}
        if all(_is_list_of_names(names) for names in sides.values()):
            return {key: [str(name) for name in names] for key, names in sides.items()}
    raise MaskSAMError(f"{file} is not a split: it needs lists 'train' and 'val' of case names")


def _is_list_of_names(value: Any) -> bool:
    """Return whether a JSON value is a list of names; a name of digits may be a number."""
    return isinstance(value, list) and all(
        isinstance(name, str | int) and not isinstance(name, bool) for name in value
    )


def cross_validation(
    names: Sequence[str], patients: Mapping[str, str] | None = None, count: int = FOLDS
) -> list[dict[str, list[str]]]:
    """Return the folds of scikit-learn's shuffled KFold over the patients.

    Where every case has a patient of its own, these are the folds that nnU-Net makes.

    Args:
        names: names of the cases, in order.
        patients: patient of each case; a case that is not in it is a patient of its own.
        count: number of folds, from 2 to the number of patients.
    """
    of_case = {name: (patients or {}).get(name, name) for name in names}
    distinct = list(dict.fromkeys(of_case.values()))
    order = np.arange(len(distinct))
    np.random.RandomState(_FOLD_SEED).shuffle(order)
    folds = []
    for part in np.array_split(order, count):
        held_out = {distinct[index] for index in part}
        fold: dict[str, list[str]] = {"train": [], "val": []}
        for name, patient in of_case.items():
            fold["val" if patient in held_out else "train"].append(name)
        folds.append(fold)
    return folds


def _fold_of_patients(dataset: Dataset, fold: Fold) -> dict[str, list[str]]:
    """Return a fold of :func:`cross_validation`.

    Raises:
        MaskSAMError: there are fewer patients than folds, or no such fold.
    """
    names = [case.name for case in dataset.cases]
    patients = len({dataset.patients.get(name, name) for name in names})
    if patients < 2:
        of = "" if len(names) < 2 else " of one patient"
        raise MaskSAMError(
            f"{len(names)} case(s){of} cannot be split: training needs at least two patients"
        )
    count = fold.count or min(FOLDS, patients)
    if fold.count is not None and count > patients:
        raise MaskSAMError(f"{patients} patients cannot be split into {count} folds")
    if fold.index >= count:
        raise MaskSAMError(f"there is no fold {fold.index}: the folds are 0 to {count - 1}")
    return cross_validation(names, dataset.patients, count)[fold.index]

"""Training, validation and test cases of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from MaskSAMCore.data.dataset import Dataset
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import read_json

# nnU-Net's number of folds and their random seed.
_FOLDS, _FOLD_SEED = 5, 12345
_SIDES = ("train", "val", "test")


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


def find_split(
    dataset: Dataset, given: Path | dict[str, list[str]] | None
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the usable part of a split and all its problems instead of raising them.

    A caller can thus report them together with the problems of the cases.

    Args:
        dataset: dataset with the cases.
        given: file as in :func:`split_cases`, the split itself, or None.
    """
    names = [case.name for case in dataset.cases]
    try:
        if given is None and (dataset.folder / "splits_final.json").is_file():
            given = dataset.folder / "splits_final.json"
        if given is None:
            return _first_fold(names), []
        if isinstance(given, dict):
            split, source = {"test": [], **given}, "the run's split"
        else:
            split, source = _read_split(given), str(given)
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
    sides = {side: split[side] for side in ("train", "val")}
    missing = sorted({name for side in sides.values() for name in side} - set(names))
    if missing:
        problems.append(f"{source} names cases that are not in the dataset: {missing}")
    return {side: [name for name in sides[side] if name in names] for side in sides}, problems


def _read_split(file: Path) -> dict[str, list[str]]:
    values = read_json(file)
    if isinstance(values, list) and values:
        values = values[0]
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


def _first_fold(names: list[str]) -> dict[str, list[str]]:
    """Return the first fold of scikit-learn's shuffled KFold, as nnU-Net makes it."""
    if len(names) < 2:
        raise MaskSAMError("one case cannot be split: training needs at least two")
    order = np.arange(len(names))
    np.random.RandomState(_FOLD_SEED).shuffle(order)
    validation = set(np.array_split(order, min(_FOLDS, len(names)))[0].tolist())
    return {
        "train": [name for index, name in enumerate(names) if index not in validation],
        "val": [name for index, name in enumerate(names) if index in validation],
    }

"""Which cases train, and which validate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from MaskSAMCore.data.dataset import Dataset
from MaskSAMCore.errors import MaskSAMError

_FOLDS = 5


def split_cases(dataset: Dataset, file: Path | None, fold: int = 0) -> dict[str, list[str]]:
    """Names of the cases to train on ("train") and to validate on ("val").

    Args:
        dataset: all cases.
        file: JSON with "train" and "val" lists, and perhaps "test"; or nnU-Net's
            ``splits_final.json`` (a list of such folds); None takes the folder's own
            ``splits_final.json`` or, without one, the folds that nnU-Net would make.
        fold: which one of several.

    Raises:
        MaskSAMError: the file is no split, or names cases that are missing or stand on two sides.
    """
    split, problems = find_split(dataset, file, fold)
    if problems:
        raise MaskSAMError("; ".join(problems))
    return split


def held_out_cases(file: Path | None, dataset: Dataset, fold: int = 0) -> list[str]:
    """Names of the cases that a split file holds out as "test"; none without one.

    Raises:
        MaskSAMError: the file is no split, or names cases that are missing.
    """
    names = [] if file is None else _read_split(file, fold)["test"]
    dataset.select(names)
    return names


def find_split(
    dataset: Dataset, given: Path | dict[str, list[str]] | None, fold: int = 0
) -> tuple[dict[str, list[str]], list[str]]:
    """As :func:`split_cases`, with all problems beside what can be used of the split: they can be
    told together with those of the cases. ``given`` may also be the split itself."""
    names = [case.name for case in dataset.cases]
    try:
        if given is None and (dataset.folder / "splits_final.json").is_file():
            given = dataset.folder / "splits_final.json"
        if given is None:
            return _fold(names, fold), []
        if isinstance(given, dict):
            split, source = {"test": [], **given}, "the run's split"
        else:
            split, source = _read_split(given, fold), str(given)
    except MaskSAMError as error:
        return {"train": names, "val": []}, [str(error)]
    problems = []
    for side in ("train", "val"):
        if not split[side]:
            problems.append(f"{source} is no usable split: '{side}' is empty")
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        both = sorted(set(split[one]) & set(split[other]))
        if both:
            problems.append(
                f"{source} is no usable split: {both} stand on both sides ({one} and {other})"
            )
    del split["test"]
    missing = sorted({name for side in split.values() for name in side} - set(names))
    if missing:
        problems.append(f"{source} names cases that are not in the dataset: {missing}")
    here = {side: [name for name in split[side] if name in names] for side in split}
    return here, problems


def _read_split(file: Path, fold: int) -> dict[str, list[str]]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(values, list):
            _check_fold(fold, len(values))
            values = values[fold]
        values = {"test": [], **values}
        return {key: [str(name) for name in values[key]] for key in ("train", "val", "test")}
    except MaskSAMError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MaskSAMError(f"{file} is no split: it needs lists 'train' and 'val'") from error


def _fold(names: list[str], fold: int) -> dict[str, list[str]]:
    """A fold of scikit-learn's shuffled KFold with seed 12345, which nnU-Net uses."""
    if len(names) < 2:
        raise MaskSAMError("one case cannot be split: training needs at least two")
    folds = min(_FOLDS, len(names))
    _check_fold(fold, folds)
    order = np.arange(len(names))
    np.random.RandomState(12345).shuffle(order)
    chosen = set(np.array_split(order, folds)[fold].tolist())
    return {
        "train": [name for index, name in enumerate(names) if index not in chosen],
        "val": [name for index, name in enumerate(names) if index in chosen],
    }


def _check_fold(fold: int, folds: int) -> None:
    if not 0 <= fold < folds:
        raise MaskSAMError(f"there is no fold {fold}: choose 0 to {folds - 1}")

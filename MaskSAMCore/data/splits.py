"""Which cases train, and which validate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from MaskSAMCore.errors import MaskSAMError

from .dataset import Dataset

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
    if file is None and (dataset.folder / "splits_final.json").is_file():
        file = dataset.folder / "splits_final.json"
    if file is None:
        return _fold([case.name for case in dataset.cases], fold)
    split = _read_split(file, fold)
    if not split["train"] or not split["val"]:
        raise MaskSAMError(f"{file} is no usable split: one of its sides is empty")
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        both = sorted(set(split[one]) & set(split[other]))
        if both:
            raise MaskSAMError(
                f"{file} is no usable split: {both[:5]} stand on both sides ({one} and {other})"
            )
    del split["test"]
    known = {case.name for case in dataset.cases}
    missing = sorted({name for names in split.values() for name in names} - known)
    if missing:
        raise MaskSAMError(f"{file} names cases that are not in the dataset: {missing[:5]}")
    return split


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

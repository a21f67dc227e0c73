"""Folders of small cases, for tests of runs over many cases."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from MaskSAMCore.geometry import Volume
from MaskSAMCore.io import read_volume, write_volume
from Testing.cohort.bad_files import write_bad_files
from Testing.helpers.generated import generated_case
from Testing.helpers.threshold_model import GEOMETRIES, two_blobs


def write_cases(folder: Path, names: Sequence[str]) -> None:
    """Write small images of two blobs, with varying shifts and geometries."""
    matrices = list(GEOMETRIES.values())
    for number, name in enumerate(names):
        array = np.roll(two_blobs(), number % 3, axis=2)
        path = folder / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(Volume(array, matrices[number % len(matrices)]), path)


def write_cohort(folder: Path, count: int, each_bad: int) -> dict[str, str]:
    """Write small images in the folders of five sites, and bad files of ten kinds.

    Args:
        folder: new folder.
        count: number of cases, including the bad ones.
        each_bad: number of bad files of each kind.

    Returns:
        A part of the expected reason for each bad case, by the name of the case.
    """
    bad = write_bad_files(folder / "bad", each_bad)
    matrices = list(GEOMETRIES.values())
    for number in range(count - len(bad)):
        path = folder / f"site{number % 5}" / f"c{number:04d}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        array = generated_case(number, (8, 14, 16))[0]
        write_volume(Volume(array, matrices[number % len(matrices)]), path)
    return {f"bad/{name}": reason for name, reason in bad.items()}


def rows_of(table: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a table of cases by the name of the case."""
    with table.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len({row["case"] for row in rows}) == len(rows)
    return {row["case"]: row for row in rows}


def labelmaps(folder: Path) -> dict[str, np.ndarray]:
    """Return the labelmaps below a folder by their relative paths; each must be complete.

    Hidden folders are skipped: they are temporary folders left by a killed process.
    """
    return {
        path.relative_to(folder).as_posix(): read_volume(path).array
        for path in folder.rglob("*.nii.gz")
        if not path.parent.name.startswith(".")
    }


def assert_equal_labelmaps(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """Check that two folders hold the same files with the same voxels."""
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)

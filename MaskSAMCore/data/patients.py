"""Patients of cases: all images of a patient lie on one side of a split.

``patients`` in ``dataset.json`` maps patients to lists of cases; a case in no list has a patient of
its own, so ``{}`` means that no two cases share a patient. Without the key, patients are recognised
by names that end in a frame, time point, session or the like, such as ``patient001_frame12``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

# Name endings that number the images of a patient: a word and a number, or a phase of the heart.
_IMAGE_OF_PATIENT = re.compile(
    r"(?P<patient>.*[0-9].*?)[_.-]"
    r"(?:(?:frame|time|timepoint|tp|visit|ses|session|scan|phase|followup)[_-]?[0-9]{1,6}|ed|es)",
    re.IGNORECASE,
)
# Last part of a name, which may number the images of one patient.
_LAST_PART = re.compile(r"(?P<rest>.*[0-9].*)[_.-][A-Za-z0-9]+")
# Names suggest patients if they form at least this many groups, whose median size is more than 1
# and at most the second number.
_LEAST_GROUPS, _LARGEST_GROUP = 3, 6


def read_patients(value: Any, names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Return the patient of each case and the problems of ``patients`` in ``dataset.json``.

    Args:
        value: JSON value of ``patients``.
        names: names of the cases.
    """
    known = {name: name for name in names}
    if not isinstance(value, dict) or not all(
        isinstance(cases, list) and all(isinstance(case, str) for case in cases)
        for cases in value.values()
    ):
        return known, ["'patients' must map patients to lists of case names"]
    problems, found = [], dict(known)
    listed: dict[str, str] = {}
    for patient, cases in value.items():
        for case in cases:
            if case in listed:
                problems.append(f"'patients' has the case '{case}' twice")
            listed[case] = patient
    unknown = sorted(set(listed) - set(known))
    if unknown:
        problems.append(f"'patients' names cases that are not in the dataset: {unknown}")
    # The prefix tells a patient from a case of another patient that has the same name.
    found.update({case: f"patient {listed[case]}" for case in listed if case in known})
    return found, problems


def patients_by_name(names: Sequence[str]) -> dict[str, str]:
    """Return the patient that the name of each case suggests; a case whose name suggests none has a
    patient of its own."""
    matches = {name: _IMAGE_OF_PATIENT.fullmatch(name) for name in names}
    found = {name: match["patient"] for name, match in matches.items() if match is not None}
    groups = _grouped(found)
    # If all names agree except in the number, the numbers count cases, not images of a patient.
    if len(groups) < 2:
        return {name: name for name in names}
    return {name: found.get(name, name) for name in names}


def parted_patients(sides: Mapping[str, Sequence[str]], patients: Mapping[str, str]) -> list[str]:
    """Return the problems of a split that has cases of one patient on several sides.

    Args:
        sides: case names by side of the split, such as "train" and "val".
        patients: patient of each case.
    """
    parted = _parted(sides, patients)
    if not parted:
        return []
    (one, case), (other, second) = list(parted[0].items())[:2]
    return [
        f"{_counted(len(parted), 'patient')} on two sides of the split, such as '{case}' in {one}"
        f" and '{second}' in {other}: move them to one side, or list the cases of each patient"
        ' under "patients" in dataset.json ({} if no two cases share one)'
    ]


def parted_lookalikes(sides: Mapping[str, Sequence[str]], patients: Mapping[str, str]) -> str:
    """Return a note on cases on two sides of a split whose names suggest one patient; else "".

    Args:
        sides: case names by side of the split, such as "train" and "val".
        patients: patient of each case; names are only compared if no two cases share a patient.
    """
    names = [name for side in sides.values() for name in side]
    if len({patients.get(name, name) for name in names}) < len(names):
        return ""
    matches = {name: _LAST_PART.fullmatch(name) for name in names}
    rest = {name: match["rest"] for name, match in matches.items() if match is not None}
    groups = _grouped(rest)
    sizes = [len(cases) for cases in groups.values()]
    if len(groups) < _LEAST_GROUPS or not 1 < median(sizes) <= _LARGEST_GROUP:
        return ""
    parted = _parted(sides, rest)
    if not parted:
        return ""
    one, other = sorted(parted[0].values())[:2]
    return (
        f"note: '{one}' and '{other}' look like two images of one patient, but the split parts"
        ' such cases: list them under "patients" in dataset.json'
    )


def _parted(
    sides: Mapping[str, Sequence[str]], patients: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return a case on each side of a split for each patient with cases on several sides."""
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for side, names in sides.items():
        for name in names:
            if name in patients:
                places[patients[name]].setdefault(side, name)
    return [cases for cases in places.values() if len(cases) > 1]


def _grouped(keys: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names of each key."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, key in keys.items():
        groups[key].append(name)
    return groups


def _counted(count: int, noun: str) -> str:
    return f"1 {noun} has cases" if count == 1 else f"{count} {noun}s have cases"

"""Contents of a dataset's archive: cases, labels, published splits, and what is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from MaskSAMCore.errors import MaskSAMError, first_names
from MaskSAMCore.research.conversion.archive import Archive, Member

# Suffixes of the folders of an nnU-Net dataset: training, validation and test.
Part = Literal["Tr", "Va", "Ts"]
# Number of missing cases that a line of a report names.
_LISTED = 5


@dataclass(frozen=True)
class FoundCase:
    """Files of a case in an archive.

    Attributes:
        name: name of the case in the new dataset.
        image: file of the image; a 4D image holds all channels.
        labelmap: file of the labelmap; None for a case whose reference is not public.
        part: suffix of the new folders, such as "Tr" for ``imagesTr`` and ``labelsTr``.
    """

    name: str
    image: Member
    labelmap: Member | None
    part: Part = "Tr"


@dataclass(frozen=True)
class FoundDataset:
    """Contents of a dataset's archive.

    Attributes:
        name: title of the dataset.
        channels: names of the channels.
        labels: names of the classes, in the order of their values 1 to K.
        cases: cases to convert.
        splits: content of each split file by its name, such as ``splits_final.json``.
        new_values: new labelmap values by value in the archive; None to keep the values.
        patients: case names by patient, for ``dataset.json``; None to leave patients out.
        missing: one line for each kind of file that the archive should have and lacks.
        notes: remarks for the user that do not prevent the conversion.
        reference: address or paper of the dataset.
    """

    name: str
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    cases: tuple[FoundCase, ...]
    splits: Mapping[str, Any] = field(default_factory=dict)
    new_values: Mapping[int, int] | None = None
    patients: Mapping[str, Sequence[str]] | None = None
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reference: str = ""


def match_members(archive: Archive, pattern: str, kind: str) -> dict[tuple[str, ...], Member]:
    """Return the files whose paths end with a match of a pattern, keyed by the match's groups.

    Args:
        archive: the archive.
        pattern: regular expression for the last parts of a path, ignoring case.
        kind: name of the dataset, for messages.

    Raises:
        MaskSAMError: two files match with the same groups.
    """
    ends = re.compile(rf"(?:.*/)?{pattern}", re.IGNORECASE | re.DOTALL)
    found: dict[tuple[str, ...], Member] = {}
    for member in archive.members:
        match = ends.fullmatch(str(member.path))
        if match is None:
            continue
        other = found.setdefault(match.groups(), member)
        if other is not member:
            raise MaskSAMError(
                f"{archive.path} has a file of {kind} twice, {other.path} and {member.path}: give"
                " one copy of the dataset"
            )
    return found


def check_found(archive: Archive, found: Sequence[object], kind: str, example: str) -> None:
    """Check that an archive holds a dataset at all.

    Raises:
        MaskSAMError: the archive holds no file of the dataset.
    """
    if found:
        return
    inner = [
        str(member.path)
        for member in archive.members
        if PurePosixPath(member.path).suffix.lower() in (".zip", ".tar", ".tgz")
    ]
    advice = f"give {inner[0]} in it" if inner else "give the archive as its owner gives it"
    raise MaskSAMError(f"{archive.path} has no file of {kind} such as {example}: {advice}")


def missing_line(what: str, names: Sequence[str], expected: int) -> tuple[str, ...]:
    """Return the line of a report about missing files; empty if no file is missing.

    Args:
        what: kind of the files, in the plural.
        names: names of the missing files.
        expected: number of files that there should be.
    """
    if not names:
        return ()
    some = first_names(names, _LISTED)
    return (f"{len(names)} of {expected} {what} ({some})",)

"""DICOM series in folders: the files of each series, and facts from their headers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from MaskSAMCore.io.dicom_files import ImageFile, readable_image_files, silent_pydicom, texts


@dataclass(frozen=True)
class DicomSeries:
    """Files of one series.

    Attributes:
        folder: folder that holds all files, possibly in subfolders.
        files: files in the order of the folders, then of the file names.
        number: number of the series in its study; empty if unknown.
        description: description of the series; empty if unknown.
        uid: UID of the series; empty if unknown.
        localizer: True if all files were made to plan other images.
        derived: True if the pixels of all files were computed from other images.
        damaged: messages about damaged files in the folders of the series, which may belong to it.
    """

    folder: Path
    files: tuple[Path, ...]
    number: str
    description: str
    uid: str
    localizer: bool
    derived: bool
    damaged: tuple[str, ...] = ()


@dataclass
class _Group:
    """Files of a series that were found so far."""

    first: ImageFile
    files: list[Path] = field(default_factory=list)
    localizer: bool = True
    derived: bool = True
    damaged: list[str] = field(default_factory=list)


def find_series(folders: Iterable[Path]) -> tuple[list[DicomSeries], dict[Path, list[str]]]:
    """Return the DICOM series in some folders, without their subfolders.

    Files with the same patient, study and series belong together, even in different folders.

    Returns:
        The series in the order of their first files, and messages about damaged files by folder.
    """
    groups: dict[tuple[str, ...], _Group] = {}
    damaged: dict[Path, list[str]] = {}
    for folder in folders:
        with silent_pydicom():
            files, errors = readable_image_files(folder)
            found = {}
            for file in files:
                key = _key(file)
                group = groups.setdefault(key, _Group(file))
                found[key] = group
                group.files.append(file.path)
                image_type = texts(file.header, "ImageType")
                group.localizer &= "LOCALIZER" in image_type
                group.derived &= image_type[:1] == ("DERIVED",)
        if errors:
            damaged[folder] = [str(error) for error in errors]
            for group in found.values():
                group.damaged += damaged[folder]
    return [_series(group) for group in groups.values()], damaged


def _key(file: ImageFile) -> tuple[str, ...]:
    return (
        "".join(texts(file.header, "PatientID")),
        "".join(texts(file.header, "StudyInstanceUID")),
        file.series,
    )


def _series(group: _Group) -> DicomSeries:
    header = group.first.header
    return DicomSeries(
        folder=Path(os.path.commonpath([path.parent for path in group.files])),
        files=tuple(group.files),
        number="".join(texts(header, "SeriesNumber")[:1]),
        description=" ".join(texts(header, "SeriesDescription")),
        uid=group.first.series,
        localizer=group.localizer,
        derived=group.derived,
        damaged=tuple(group.damaged),
    )

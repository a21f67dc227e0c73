"""Tasks of the Medical Segmentation Decathlon (medicaldecathlon.com).

Layout of ``Task04_Hippocampus.tar``: a folder with ``dataset.json``, which lists the images, the
labels and the channels ("modality"), and with ``imagesTr``, ``labelsTr`` and ``imagesTs``. Images
with several channels are 4D.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.research.conversion.archive import Archive, Member, read_text
from MaskSAMCore.research.conversion.layout import (
    FoundCase,
    FoundDataset,
    check_found,
    match_members,
    missing_line,
)


def find_decathlon(archive: Archive) -> FoundDataset:
    """Return the labelled cases and the test images of a task.

    Raises:
        MaskSAMError: the archive has no or several ``dataset.json`` of a task, or a damaged one.
    """
    found = match_members(archive, r"dataset\.json", "the decathlon")
    check_found(archive, [*found], "the decathlon", "Task04_Hippocampus/dataset.json")
    (member,) = found.values()
    try:
        described = json.loads(read_text(archive, member))
        labels = {int(value): str(name) for value, name in described["labels"].items()}
        channels = {int(index): str(name) for index, name in described["modality"].items()}
        training = [(str(pair["image"]), str(pair["label"])) for pair in described["training"]]
        test = [str(path) for path in described.get("test", [])]
        if sorted(labels) != list(range(len(labels))) or sorted(channels) != [
            *range(len(channels))
        ]:
            raise ValueError("its labels or channels are not numbered from 0")
        if len(set(labels.values())) < len(labels) or len(labels) < 2 or not channels:
            raise ValueError("its labels do not have names of their own")
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise MaskSAMError(
            f"{archive.path}: {member.path} does not describe a task of the decathlon: {error}"
        ) from error
    files = {one.path: one for one in archive.members}

    def file(path: str) -> Member | None:
        return files.get(member.path.parent / PurePosixPath(path))

    cases = []
    lacking = []
    for image_path, label_path in training:
        image, labelmap = file(image_path), file(label_path)
        if image is None or labelmap is None:
            lacking.append(image_path if image is None else label_path)
        else:
            cases.append(FoundCase(_name(image_path), image, labelmap))
    lacking_test = []
    for path in test:
        image = file(path)
        if image is None:
            lacking_test.append(path)
        else:
            cases.append(FoundCase(_name(path), image, None, "Ts"))
    return FoundDataset(
        name=str(described.get("name") or member.path.parent.name),
        channels=tuple(channels[index] for index in sorted(channels)),
        labels=tuple(labels[value] for value in sorted(labels)[1:]),
        cases=tuple(cases),
        missing=(
            *missing_line("labelled cases", lacking, len(training)),
            *missing_line("test images", lacking_test, len(test)),
        ),
        reference=str(described.get("reference", "http://medicaldecathlon.com")),
    )


def _name(path: str) -> str:
    """Return the name of the case of an image file."""
    return PurePosixPath(path).name.removesuffix(".gz").removesuffix(".nii")

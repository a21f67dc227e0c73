"""Conversion of an archive to an nnU-Net dataset folder, complete or not at all."""

from __future__ import annotations

import gzip
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import SAME_GRID_MM, Volume, axis_mapping, invert_axes, reorient
from MaskSAMCore.io import read_volume, write_json, write_labelmap
from MaskSAMCore.io.files import atomic_folder
from MaskSAMCore.io.labelmaps import read_labelmap
from MaskSAMCore.research.conversion.acdc import find_acdc
from MaskSAMCore.research.conversion.amos22 import find_amos22
from MaskSAMCore.research.conversion.archive import Archive, Member, open_archive
from MaskSAMCore.research.conversion.btcv import find_btcv, find_synapse
from MaskSAMCore.research.conversion.decathlon import find_decathlon
from MaskSAMCore.research.conversion.layout import FoundCase, FoundDataset
from MaskSAMCore.research.conversion.prostate import find_prostate

CONVERTERS: Mapping[str, Callable[[Archive], FoundDataset]] = {
    "acdc": find_acdc,
    "amos22": find_amos22,
    "btcv": find_btcv,
    "synapse": find_synapse,
    "msd": find_decathlon,
    "prostate": find_prostate,
}
_SUFFIX = ".nii.gz"
_DESCRIPTION = "dataset.json"
# Names of cases become names of files.
_CASE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
# Converted files may be a little larger than those of the archive.
_SPARE = 1.05
_BLOCK_BYTES = 1 << 20
_ANY_ORIENTATION = "SAR"


def convert(
    kind: str,
    source: Path,
    folder: Path,
    *,
    partial: bool = False,
    overwrite: bool = False,
    report: Callable[[str], None] = print,
) -> FoundDataset:
    """Convert a dataset's archive to an nnU-Net dataset folder with the papers' splits.

    Every image and labelmap is read and checked: voxels, grids, and values of labels.

    Args:
        kind: name of the dataset, a key of ``CONVERTERS``.
        source: the archive as its owner gives it, or the folder that it was extracted to.
        folder: new dataset folder.
        partial: convert the available part of an incomplete dataset.
        overwrite: replace a dataset folder that exists, or an empty folder.
        report: function that receives lines of text for the user.

    Returns:
        Contents that were converted.

    Raises:
        MaskSAMError: the archive is damaged, is of another dataset or incomplete, a file in it has
            problems, or the folder cannot be written.
    """
    with open_archive(source) as archive:
        found = CONVERTERS[kind](archive)
        _check_names(found, source)
        if found.missing and not partial:
            raise MaskSAMError(
                f"{source} lacks {'; '.join(found.missing)}: download it again, or add --partial to"
                " convert the rest"
            )
        for line in found.missing:
            report(f"Missing: {line}")
        for note in found.notes:
            report(f"Note: {note}")
        _check_space(found, folder)
        with atomic_folder(folder, overwrite, mark=_DESCRIPTION) as new:
            _copy(archive, found, new, report)
            _check(found, new, report)
            _describe(found, new)
    return found


def _check_names(found: FoundDataset, source: Path) -> None:
    """Check that the names of the cases are valid and distinct file names."""
    names = Counter((case.part, case.name) for case in found.cases)
    for (_, name), count in names.items():
        if not _CASE_NAME.fullmatch(name) or count > 1:
            reason = "twice" if count > 1 else "which cannot be the name of a file"
            raise MaskSAMError(f"{source} has the case '{name}', {reason}")


def _check_space(found: FoundDataset, folder: Path) -> None:
    """Check that the disk can hold the new folder."""
    needed = _SPARE * sum(member.size for case in found.cases for member in _files(case))
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise MaskSAMError(
            f"{folder} needs {needed / 1e9:.1f} GB, but its disk has {free / 1e9:.1f} GB free"
        )


def _files(case: FoundCase) -> list[Member]:
    return [case.image] if case.labelmap is None else [case.image, case.labelmap]


def _copy(archive: Archive, found: FoundDataset, new: Path, report: Callable[[str], None]) -> None:
    """Copy the files of all cases, in the order in which the archive is read fastest."""
    tasks = []
    for case in found.cases:
        tasks.append((case.image, new / f"images{case.part}" / f"{case.name}_0000{_SUFFIX}"))
        if case.labelmap is not None:
            tasks.append((case.labelmap, new / f"labels{case.part}" / f"{case.name}{_SUFFIX}"))
    report(f"Copying {len(tasks)} files of {len(found.cases)} cases")
    for member, path in sorted(tasks, key=lambda task: task[0].position):
        path.parent.mkdir(exist_ok=True)
        compressed = member.path.name.lower().endswith(".gz")
        with archive.stream(member) as stream:
            if compressed:
                with path.open("wb") as target:
                    shutil.copyfileobj(stream, target, _BLOCK_BYTES)
            else:
                with gzip.GzipFile(path, "wb", compresslevel=1, mtime=0) as packed:
                    shutil.copyfileobj(stream, packed, _BLOCK_BYTES)
        if path.parent.name.startswith("images") and len(found.channels) > 1:
            _split_channels(path, len(found.channels), member)


def _split_channels(path: Path, channels: int, member: Member) -> None:
    """Replace a 4D image by one 3D image for each channel.

    Raises:
        MaskSAMError: the image is no NIfTI file or has another number of channels.
    """
    try:
        image: Any = nibabel.load(path)
        shape = image.shape
    except Exception as error:
        raise MaskSAMError(f"{member.path} cannot be read: {error}") from error
    if len(shape) != 4 or shape[3] != channels:
        raise MaskSAMError(f"{member.path} is no 4D image of {channels} channels: it has {shape}")
    # Channels are read one by one, because all of them together may not fit in memory.
    stem = path.name.removesuffix(f"_0000{_SUFFIX}")
    for channel in reversed(range(channels)):
        part = np.asanyarray(image.dataobj[..., channel])
        if part.dtype == np.float64 and image.get_data_dtype() != np.float64:
            part = part.astype(np.float32)  # scaled integers
        header = image.header.copy()
        header.set_data_dtype(part.dtype)
        single = type(image)(part, image.affine, header)
        target = path.with_name(f"{stem}_{channel:04d}{_SUFFIX}")
        if channel:
            nibabel.save(single, target)
    del image
    temporary = path.with_name(f"first{_SUFFIX}")
    nibabel.save(single, temporary)
    temporary.replace(path)


def _check(found: FoundDataset, new: Path, report: Callable[[str], None]) -> None:
    """Read and check all cases, and give labelmaps their new values.

    Raises:
        MaskSAMError: some cases have problems; one message reports all of them.
    """
    report(f"Checking {len(found.cases)} cases")
    problems: list[str] = []
    present: Counter[int] = Counter()
    moved = []
    labelled = 0
    for case in found.cases:
        try:
            checked = _check_case(case, found, new)
        except MaskSAMError as error:
            problems.append(str(error).replace(f"{new}/", ""))
            continue
        if checked is not None:
            values, unplaced = checked
            labelled += 1
            present.update(values)
            moved += [case.name] if unplaced else []
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise MaskSAMError("; ".join(problems[:5]) + more)
    if moved:
        report(
            f"Note: headers of {len(moved)} labelmaps put them elsewhere in space than their images"
            f" ({', '.join(moved[:3])}{', ...' if len(moved) > 3 else ''}): each voxel of theirs is"
            " taken for the image's of the same index"
        )
    for value, name in enumerate(found.labels, start=1):
        if present[value] < labelled:
            report(f"Note: {present[value]} of {labelled} labelled cases have {name}")


def _check_case(case: FoundCase, found: FoundDataset, new: Path) -> tuple[set[int], bool] | None:
    """Check a case, and rewrite its labelmap if its grid or its values must change.

    Returns:
        New values in the labelmap without 0, and True if its header put it elsewhere than the
        image; None for a case without a labelmap.
    """
    stem = new / f"images{case.part}" / case.name
    image = read_volume(Path(f"{stem}_0000{_SUFFIX}"))
    for channel in range(1, len(found.channels)):
        other = Path(f"{stem}_{channel:04d}{_SUFFIX}")
        if not read_volume(other).same_grid(image, SAME_GRID_MM):
            raise MaskSAMError(f"{other.name} does not lie on the grid of the first channel")
    if case.labelmap is None:
        return None
    path = new / f"labels{case.part}" / f"{case.name}{_SUFFIX}"
    labelmap = read_labelmap(path)
    values = {int(value) for value in np.unique(labelmap.array)} - {0}
    known = found.new_values or {value: value for value in range(1, len(found.labels) + 1)}
    unknown = sorted(values - set(known))
    if unknown:
        raise MaskSAMError(f"{path} has values that are no label of {found.name}: {unknown[:5]}")
    placed, unplaced = _on_grid(labelmap.array, labelmap, image, path)
    if placed is not labelmap.array or any(known[value] != value for value in values):
        array = np.zeros_like(placed)
        for value in values:
            array[placed == value] = known[value]
        write_labelmap(array, image, path, (), overwrite=True)
    return {known[value] for value in values} - {0}, unplaced


def _on_grid(
    labels: NDArray[np.integer], labelmap: Volume, image: Volume, path: Path
) -> tuple[NDArray[np.integer], bool]:
    """Return labels on the grid of an image, and True if nothing but their shape fits the image.

    Raises:
        MaskSAMError: the labelmap has another shape than the image.
    """
    if labelmap.same_grid(image, SAME_GRID_MM):
        return labels, False
    turned = reorient(labelmap, _ANY_ORIENTATION)
    if turned.same_grid(reorient(image, _ANY_ORIENTATION), SAME_GRID_MM):
        # Both lie on the same voxels, with axes in another order or direction.
        return invert_axes(turned.array, *axis_mapping(image.ijk_to_ras, _ANY_ORIENTATION)), False
    if labelmap.shape != image.shape:
        raise MaskSAMError(
            f"{path} has {labelmap.shape} voxels along K, J, I, but its image has {image.shape}"
        )
    return labels.copy(), True


def _describe(found: FoundDataset, new: Path) -> None:
    """Write ``dataset.json`` and the split files."""
    training = [case.name for case in found.cases if case.part == "Tr"]
    description: dict[str, Any] = {
        "name": found.name,
        "reference": found.reference,
        "channel_names": {str(index): name for index, name in enumerate(found.channels)},
        "labels": {"background": 0, **{n: i for i, n in enumerate(found.labels, start=1)}},
        "numTraining": len(training),
        "file_ending": _SUFFIX,
    }
    if found.patients is not None:
        known = set(training)
        lists = {
            patient: [n for n in names if n in known] for patient, names in found.patients.items()
        }
        description["patients"] = {patient: names for patient, names in lists.items() if names}
    write_json(new / _DESCRIPTION, description)
    for name, split in found.splits.items():
        write_json(new / name, split)


def summary(found: FoundDataset) -> str:
    """Return the numbers of cases in one line."""
    counts = Counter((case.part, case.labelmap is not None) for case in found.cases)
    kinds = {"Tr": "training and validation", "Va": "further labelled", "Ts": "test"}
    parts = []
    for (part, labelled), count in counts.items():
        unlabelled = "" if labelled else " without labels"
        parts.append(f"{count} {kinds[part]}{unlabelled}")
    splits = [_sizes(split) for split in found.splits.get("splits_final.json", ())]
    known = f"; split {splits[0]}" if len(splits) == 1 else ""
    known = f"; {len(splits)} folds of {splits[0]}" if len(splits) > 1 else known
    return f"{found.name}: cases: {', '.join(parts)}{known}"


def _sizes(split: Mapping[str, Sequence[str]]) -> str:
    return " and ".join(f"{len(names)} ({side})" for side, names in split.items())

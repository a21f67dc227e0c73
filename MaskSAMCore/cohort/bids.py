"""BIDS datasets: the images to segment, and the dataset of derivatives with the results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from MaskSAMCore.cohort.case import Case, ImageSource, LeftOut
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import read_json, write_json, write_text
from MaskSAMCore.labels import Label

DESCRIPTION = "dataset_description.json"
LOOKUP_TABLE = "dseg.tsv"
# Suffixes of the images that are segmented unless others are given.
DEFAULT_SUFFIXES = ("T1w",)
_BIDS_VERSION = "1.10.0"
_SUFFIX = re.compile(r"[A-Za-z0-9]+")


def is_bids(path: Path) -> bool:
    """Return whether a folder holds subjects with anatomical images, as BIDS names them."""
    patterns = ("sub-*/anat", "sub-*/ses-*/anat")
    return path.is_dir() and any(next(path.glob(pattern), None) for pattern in patterns)


def bids_cases(
    dataset: Path, output: Path, suffixes: Sequence[str], channels: int, image_format: str
) -> tuple[list[Case], list[LeftOut]]:
    """Return the cases of a BIDS dataset.

    Args:
        dataset: folder of the dataset.
        output: folder of the derivatives, whose subfolders mirror those of the dataset.
        suffixes: suffixes of the images to segment, such as "T1w". A model with several channels
            needs one suffix per channel, in order; a model with one channel segments every image
            that has any of the suffixes.
        channels: number of images of a case.
        image_format: format of the results.

    Returns:
        The cases, and the cases that are left out because they have too few images.

    Raises:
        MaskSAMError: a suffix is invalid, the number of suffixes does not fit the model, no image
            has any of them, or two images have the same name.
    """
    wrong = [suffix for suffix in suffixes if not _SUFFIX.fullmatch(suffix)]
    if wrong:
        raise MaskSAMError(f"'{wrong[0]}' is no BIDS suffix: give one such as T1w, without dots")
    if channels > 1 and len(suffixes) != channels:
        raise MaskSAMError(
            f"this model takes {channels} images a case: add --bids-suffix for each, in order"
        )
    groups = [tuple(suffixes)] if channels > 1 else [(suffix,) for suffix in suffixes]
    cases: list[Case] = []
    left_out: list[LeftOut] = []
    for group in groups:
        for stem, images in _images(dataset, group).items():
            name = f"{stem.name}_{group[0]}" if len(group) == 1 else stem.name
            missing = [suffix for suffix in group if suffix not in images]
            found = tuple(images[suffix] for suffix in group if suffix in images)
            if missing:
                reason = f"{stem} has no image with the suffix {' and '.join(missing)}"
                left_out.append(LeftOut(name, found, reason))
                continue
            # The suffixes in the file name distinguish segmentations of different images.
            target = f"{stem.name}_space-orig_desc-{''.join(group)}_dseg.{image_format}"
            folder = output / stem.parent.relative_to(dataset)
            cases.append(Case(name, tuple(map(ImageSource, found)), folder / target))
    if not cases and not left_out:
        names = ", ".join(f"*_{suffix}.nii.gz" for suffix in suffixes)
        raise MaskSAMError(
            f"{dataset} holds no anatomical image named {names}: choose a --bids-suffix"
        )
    return cases, left_out


def _images(dataset: Path, suffixes: Sequence[str]) -> dict[Path, dict[str, Path]]:
    """Return images by path without the suffix (in sorted order), then by suffix."""
    found: dict[Path, dict[str, Path]] = {}
    for level in ("sub-*/anat", "sub-*/ses-*/anat"):
        for suffix in suffixes:
            for ending in (".nii", ".nii.gz"):
                for path in dataset.glob(f"{level}/sub-*_{suffix}{ending}"):
                    stem = path.with_name(path.name[: -len(f"_{suffix}{ending}")])
                    other = found.setdefault(stem, {}).setdefault(suffix, path)
                    if other != path:
                        raise MaskSAMError(f"{other} and {path} are two images of one name")
    return dict(sorted(found.items()))


def write_derivatives(
    output: Path, datasets: Sequence[Path], labels: Sequence[Label], model: str, version: str
) -> None:
    """Write the description and lookup table of a BIDS dataset of derivatives.

    An existing description, or lookup table of the same classes, is kept.

    Args:
        output: folder of the derivatives.
        datasets: BIDS datasets that were segmented.
        labels: classes of the labelmaps, which become the dataset's lookup table.
        model: name of the model.
        version: version of the software.

    Raises:
        MaskSAMError: the folder cannot be written to.
    """
    path = output / DESCRIPTION
    if not path.exists():
        values = {
            "Name": f"Segmentations by MaskSAM ({model})",
            "BIDSVersion": _BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "MaskSAM", "Version": version, "Description": model}],
            "SourceDatasets": [{"URL": dataset.resolve().as_uri()} for dataset in datasets],
        }
        write_json(path, values, ensure_ascii=False)
    rows = ["index\tname\tcolor"]
    for label in labels:
        color = "".join(f"{round(255 * part):02x}" for part in label.color)
        rows.append(f"{label.value}\t{label.name}\t#{color}")
    # A table of the same classes may have columns that the user added.
    if labels and not _has_classes(output / LOOKUP_TABLE, labels):
        write_text(output / LOOKUP_TABLE, "\n".join(rows) + "\n")


def _has_classes(table: Path, labels: Sequence[Label]) -> bool:
    """Return whether a lookup table exists with the values and names of the labels.

    Raises:
        MaskSAMError: the table cannot be read.
    """
    if not table.exists():
        return False
    try:
        rows = table.read_text(encoding="utf-8-sig").split("\n")[1:]
    except (OSError, UnicodeError) as error:
        raise MaskSAMError(f"{table} cannot be read: move it, or choose another folder") from error
    known = [row.split("\t")[:2] for row in rows if row.strip()]
    return known == [[str(label.value), label.name] for label in labels]


def check_derivatives(
    output: Path, datasets: Sequence[Path], labels: Sequence[Label], overwrite: bool = False
) -> None:
    """Check that derivatives of datasets may be written to a folder.

    Args:
        output: folder of the derivatives.
        datasets: BIDS datasets to segment.
        labels: classes of the labelmaps.
        overwrite: whether results that exist may be replaced.

    Raises:
        MaskSAMError: the folder is one of the datasets or a BIDS dataset of another kind, or has
            results of other classes that may not be replaced.
    """
    table = output / LOOKUP_TABLE
    if labels and table.exists() and not overwrite and not _has_classes(table, labels):
        raise MaskSAMError(
            f"{table} names other classes than those of this model: choose another folder, or add"
            " --overwrite to replace the results"
        )
    path = output / DESCRIPTION
    values = read_json(path) if path.exists() else {"DatasetType": "derivative"}
    is_source = output.resolve() in {dataset.resolve() for dataset in datasets}
    if is_source or not isinstance(values, dict) or values.get("DatasetType") != "derivative":
        raise MaskSAMError(
            f"{output} is a BIDS dataset, but not of derivatives: choose another folder, such as"
            f" {output / 'derivatives' / 'masksam'}"
        )

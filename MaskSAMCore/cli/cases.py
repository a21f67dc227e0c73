"""Which cases the paths on a command line are, and where their results go."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from MaskSAMCore.errors import MaskSAMError

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
OUTPUT_FORMATS = ("nii.gz", "nrrd", "seg.nrrd", "mha")
_WRITTEN = (".nii.gz", ".nii", ".nrrd", ".mha")
# What a person means as the name of a file, unlike the dots in "model-1.5mm".
_FILE_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,7}$")
_CHANNEL = re.compile(r"_(\d{4})$")


@dataclass(frozen=True)
class Case:
    """A case to segment: its name, one path a channel, and where its labelmap goes."""

    name: str
    channels: tuple[Path, ...]
    output: Path


def stem(path: Path) -> str:
    """A file's name without its image suffix."""
    for suffix in (".seg.nrrd", *IMAGE_SUFFIXES):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def find_cases(
    inputs: Sequence[Path], output: Path, channels: int, image_format: str
) -> list[Case]:
    """The cases of a ``masksam predict``.

    Args:
        inputs: image files, DICOM series folders, or folders of cases. Files named
            ``{case}_0000``, ``{case}_0001`` … are the channels of one case.
        output: a file for one case, else a folder.
        channels: how many images a case of the model has.
        image_format: one of ``OUTPUT_FORMATS``, for results in a folder.

    Raises:
        MaskSAMError: a path that is absent or holds no image, a case with too few or too many
            channels, two cases of one name, one output file for several cases, or an output file
            of a format that is not written.
    """
    single = _is_file_name(output)
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in inputs:
        for found in _images(path):
            if channels == 1 and not path.is_dir():
                groups[stem(found)].append(found)
            else:
                groups[_CHANNEL.sub("", stem(found))].append(found)
    if len(groups) == channels > 1 and all(len(g) == 1 for g in groups.values()):
        # Files with names of their own: the channels of one case, in the order given.
        groups = {next(iter(groups)): [group[0] for group in groups.values()]}
    if single and len(groups) > 1:
        raise MaskSAMError(
            f"{len(groups)} cases cannot go into the one file {output}: give a folder as -o"
        )
    cases = []
    for name, paths in groups.items():
        _require_different(name, paths, channels)
        if len(paths) != channels:
            raise MaskSAMError(
                f"case '{name}' has {len(paths)} image(s), but this model takes {channels}:"
                " name them CASE_0000, CASE_0001 and so on"
            )
        target = output if single else output / f"{name}.{image_format}"
        order = paths if len(groups) == 1 else sorted(paths)
        cases.append(Case(name, tuple(order), target))
    return cases


def _require_different(name: str, paths: list[Path], channels: int) -> None:
    """Raise where two images of a case can only be two cases of one name."""
    stems = [stem(path) for path in paths]
    for path, own in zip(paths, stems, strict=True):
        # T1/x and T2/x may be the channels of x, but never T1/x_0000 and T2/x_0000.
        if stems.count(own) > 1 and (len(paths) != channels or _CHANNEL.search(own)):
            other = paths[stems.index(own, stems.index(own) + 1)]
            raise MaskSAMError(
                f"two cases are named '{name}' ({path} and {other}): rename one, or segment them"
                " one by one"
            )


def _images(path: Path) -> list[Path]:
    if not path.exists():
        raise MaskSAMError(f"{path} does not exist")
    if not path.is_dir():
        return [path]
    images = sorted(p for p in path.iterdir() if p.name.lower().endswith(IMAGE_SUFFIXES))
    if images:
        return images
    if any(p.is_file() for p in path.iterdir()):
        return [path]  # a DICOM series: reading it says if it is none
    raise MaskSAMError(f"{path} is an empty folder")


def _is_file_name(path: Path) -> bool:
    if path.is_dir():
        return False
    if path.name.lower().endswith(_WRITTEN):
        return True
    if _FILE_SUFFIX.search(path.name):
        raise MaskSAMError(
            f"{path}: segmentations are not written as '{path.suffix}': end the name in"
            f" {', '.join(OUTPUT_FORMATS)}, or give a folder (one with such a name must exist)"
        )
    return False

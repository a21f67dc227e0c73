"""Cases to segment, found from the paths of a command line."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import WRITTEN_SUFFIXES, image_stem, is_image_name

# Formats of segmentations in a folder.
OUTPUT_FORMATS = ("nii.gz", "nrrd", "seg.nrrd", "mha")
# Suffix of a file name, as opposed to the dot in a folder name such as "model-1.5mm".
_FILE_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,7}$")
_CHANNEL = re.compile(r"_(\d{4})$")


@dataclass(frozen=True)
class PredictionCase:
    """A case to segment.

    Attributes:
        name: name of the case.
        channels: image of each channel, a file or a DICOM series folder.
        output: file to write the labelmap to.
    """

    name: str
    channels: tuple[Path, ...]
    output: Path


def find_cases(
    inputs: Sequence[Path], output: Path, channels: int, image_format: str
) -> list[PredictionCase]:
    """Find the cases of a ``masksam predict``.

    Args:
        inputs: image files, DICOM series folders, or folders of cases. Files named
            ``{case}_0000``, ``{case}_0001`` and so on are the channels of one case.
        output: a file for one case, else a folder.
        channels: number of images of a case.
        image_format: format of results in a folder, one of ``OUTPUT_FORMATS``.

    Raises:
        MaskSAMError: a path does not exist or holds no image, a case has too few or too many
            channels, two cases have the same name, several cases would go into one file, or the
            output file has a format that cannot be written.
    """
    single = _is_file_name(output)
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in inputs:
        for found in _images(path):
            if channels == 1 and not path.is_dir():
                groups[image_stem(found)].append(found)
            else:
                groups[_CHANNEL.sub("", image_stem(found))].append(found)
    if len(groups) == channels > 1 and all(len(g) == 1 for g in groups.values()):
        # Files with different names are the channels of one case, in the order given.
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
        cases.append(PredictionCase(name, tuple(order), target))
    return cases


def _require_different(name: str, paths: list[Path], channels: int) -> None:
    """Raise an error if two images of a case can only be two cases with the same name."""
    stems = [image_stem(path) for path in paths]
    for path, stem in zip(paths, stems, strict=True):
        # T1/x and T2/x may be the channels of x, but T1/x_0000 and T2/x_0000 may not.
        if stems.count(stem) > 1 and (len(paths) != channels or _CHANNEL.search(stem)):
            other = paths[stems.index(stem, stems.index(stem) + 1)]
            raise MaskSAMError(
                f"two cases are named '{name}' ({path} and {other}): rename one, or segment them"
                " one by one"
            )


def _images(path: Path) -> list[Path]:
    if not path.exists():
        raise MaskSAMError(f"{path} does not exist")
    if not path.is_dir():
        return [path]
    images = sorted(p for p in path.iterdir() if is_image_name(p))
    if images:
        return images
    if any(p.is_file() for p in path.iterdir()):
        return [path]  # a DICOM series, whose reader raises an error for other files
    raise MaskSAMError(f"{path} is an empty folder")


def _is_file_name(path: Path) -> bool:
    if path.is_dir():
        return False
    if path.name.lower().endswith(WRITTEN_SUFFIXES):
        return True
    if _FILE_SUFFIX.search(path.name):
        raise MaskSAMError(
            f"{path}: segmentations are not written as '{path.suffix}': end the name in"
            f" {', '.join(OUTPUT_FORMATS)}, or give a folder (one with such a name must exist)"
        )
    return False

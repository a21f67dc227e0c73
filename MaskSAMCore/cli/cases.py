"""Cases to segment, found from the paths of a command line."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import WRITTEN_SUFFIXES, image_stem, is_image_name
from MaskSAMCore.io.listing import listed

# Formats of segmentations in a folder.
OUTPUT_FORMATS = ("nii.gz", "nrrd", "seg.nrrd", "mha")
# Suffix of a file name, as opposed to the dot in a folder name such as "model-1.5mm".
_FILE_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,7}$")
_CHANNEL = re.compile(r"_([0-9]{4})$")
_NO_NUMBER = -1


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

    A name that ends in four digits is nnU-Net's name of a channel only if the numbers of its case
    run from 0000 to the last channel of the model. Any other number is part of the case's name.

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
    given: list[Path] = []
    in_folders: list[Path] = []
    for path in inputs:
        images = _images(path)
        (given if images == [path] else in_folders).extend(images)
    if channels == 1:
        groups = _single(given, _single_in_folders(in_folders))
    else:
        groups = _several([*given, *in_folders], channels, chosen=not in_folders)
    if single and len(groups) > 1:
        raise MaskSAMError(
            f"{len(groups)} cases cannot go into the one file {output}: give a folder as -o"
        )
    return [
        PredictionCase(name, paths, output if single else output / f"{name}.{image_format}")
        for name, paths in groups.items()
    ]


def _single_in_folders(images: list[Path]) -> dict[str, tuple[Path, ...]]:
    """Return the cases of images in folders, one image each."""
    cases: dict[str, tuple[Path, ...]] = {}
    unnumbered: list[Path] = []
    for name, paths in _by_case(images).items():
        numbers = _numbers(paths)
        if numbers == [0]:
            cases[name] = (paths[0],)
        elif numbers == list(range(len(paths))) or numbers[:2] == [_NO_NUMBER, 0]:
            raise _wrong_count(name, paths, 1)
        else:
            unnumbered += paths
    return _single(unnumbered, cases)


def _single(images: list[Path], cases: dict[str, tuple[Path, ...]]) -> dict[str, tuple[Path, ...]]:
    """Return the cases of one image each, in addition to others, under the images' names."""
    found = dict(cases)
    for path in images:
        name = _name(path)
        if name in found:
            raise _same_name(name, found[name][0], path)
        found[name] = (path,)
    return found


def _several(images: list[Path], channels: int, chosen: bool) -> dict[str, tuple[Path, ...]]:
    """Return the cases of several channels.

    Args:
        images: all images.
        channels: number of images of a case.
        chosen: whether each image was named by the user, and not found in a folder.
    """
    groups = _by_case(images)
    first = _name(images[0])
    if chosen and len(images) == channels == len({_name(path) for path in images}):
        # Files with different names are the channels of one case, in the order given.
        groups = {_CHANNEL.sub("", first): images}
        if _numbers(images) != list(range(channels)):
            return {name: tuple(paths) for name, paths in groups.items()}
    cases = {}
    for name, paths in groups.items():
        names = [_name(path) for path in paths]
        if _numbers(paths) == list(range(channels)):
            cases[name] = tuple(sorted(paths, key=_name))
        elif len(set(names)) == 1 and len(paths) == channels and not _CHANNEL.search(names[0]):
            # T1/x and T2/x may be the channels of x, but T1/x_0000 and T2/x_0000 may not.
            cases[name] = tuple(paths)
        elif len(set(names)) < len(names):
            one = next(path for path in paths if names.count(_name(path)) > 1)
            other = next(path for path in paths if path != one and _name(path) == _name(one))
            raise _same_name(name, one, other)
        else:
            raise _wrong_count(name, paths, channels)
    return cases


def _by_case(images: list[Path]) -> dict[str, list[Path]]:
    """Return images by their names without a channel's number."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in images:
        groups[_CHANNEL.sub("", _name(path))].append(path)
    return groups


def _name(path: Path) -> str:
    """Return the name of an image; dots in the name of a DICOM series' folder are part of it."""
    return path.name if path.is_dir() and not is_image_name(path) else image_stem(path)


def _numbers(paths: Sequence[Path]) -> list[int]:
    """Return the channels' numbers in the names of a case's images, in ascending order."""
    found = (_CHANNEL.search(_name(path)) for path in paths)
    return sorted(int(match.group(1)) if match else _NO_NUMBER for match in found)


def _same_name(name: str, one: Path, other: Path) -> MaskSAMError:
    return MaskSAMError(
        f"two cases are named '{name}' ({one} and {other}): rename one, or segment them one by one"
    )


def _wrong_count(name: str, paths: Sequence[Path], channels: int) -> MaskSAMError:
    advice = "name them CASE_0000, CASE_0001 and so on"
    if channels == 1:
        advice = "if they are separate cases, give the files in place of their folder"
    elif len(paths) == channels:
        advice = "number them from CASE_0000 on"
    return MaskSAMError(
        f"case '{name}' has {len(paths)} image(s), but this model takes {channels}: {advice}"
    )


def _images(path: Path) -> list[Path]:
    """Return the images of a folder; the path itself if it is a file or a DICOM series."""
    if not path.exists():
        raise MaskSAMError(f"{path} does not exist")
    if not path.is_dir():
        return [path]
    content = listed(path)
    images = [p for p in content if is_image_name(p)]
    if images:
        return images
    if any(p.is_file() for p in content):
        return [path]  # a DICOM series, whose reader raises an error for other files
    raise MaskSAMError(f"{path} holds no image")


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

"""Cases to segment, found in the paths of a command line."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from MaskSAMCore.cohort.bids import DEFAULT_SUFFIXES, bids_cases, is_bids
from MaskSAMCore.cohort.case import Case, ImageSource, LeftOut
from MaskSAMCore.cohort.table import TABLE_NAME, is_table
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.dicom_files import has_dicom_names
from MaskSAMCore.io.dicom_segmentation import DICOM_SUFFIX
from MaskSAMCore.io.dicom_series import DicomSeries, find_series
from MaskSAMCore.io.files import WRITTEN_SUFFIXES, image_stem, is_image_name
from MaskSAMCore.io.listing import walked

# Formats of segmentations in a folder.
OUTPUT_FORMATS = ("nii.gz", "nrrd", "seg.nrrd", "mha", "dcm")
# Suffix of a file name, as opposed to the dot in a folder name such as "model-1.5mm".
_FILE_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,7}$")
_CHANNEL = re.compile(r"_([0-9]{4})$")
_NO_NUMBER = -1


@dataclass(frozen=True)
class FoundCases:
    """Cases of a ``masksam predict`` run.

    Attributes:
        cases: cases to segment, at least one.
        left_out: images that are not segmented.
        folders: folders of cases among the inputs.
        bids: BIDS datasets among the inputs.
    """

    cases: tuple[Case, ...]
    left_out: tuple[LeftOut, ...] = ()
    folders: tuple[Path, ...] = ()
    bids: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Found:
    """An image that was found.

    Attributes:
        name: name of the image, including its subfolders and its channel number.
        source: the image.
        notes: messages for the user.
    """

    name: str
    source: ImageSource
    notes: tuple[str, ...] = ()


@dataclass
class _Listing:
    """Images and folders found in the paths of a command line."""

    given: list[_Found] = field(default_factory=list)
    in_folders: list[_Found] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    bids: list[Path] = field(default_factory=list)


def find_cases(
    inputs: Sequence[Path],
    output: Path,
    channels: int,
    image_format: str,
    bids_suffixes: Sequence[str] = DEFAULT_SUFFIXES,
) -> FoundCases:
    """Find the cases of a ``masksam predict`` run.

    Four digits at the end of a name are nnU-Net's channel number only if the numbers of the case
    run from 0000 to the last channel of the model. Any other number is part of the case name.

    Args:
        inputs: image files, DICOM series folders, BIDS datasets, or folders of images or of DICOM
            studies, also in subfolders. Files named ``{case}_0000``, ``{case}_0001`` and
            so on are the channels of one case.
        output: a file for one case, else a folder.
        channels: number of images of a case.
        image_format: format of results in a folder, one of ``OUTPUT_FORMATS``.
        bids_suffixes: suffixes of the images to segment in a BIDS dataset, see
            :func:`bids.bids_cases`.

    Raises:
        MaskSAMError: a path does not exist, there is no case to segment, two cases have the same
            name, several cases would go into one file, the output file has a format that cannot be
            written, or the output is an input folder.
    """
    single = _is_file_name(output)
    listing = _Listing()
    cases: list[Case] = []
    for path in inputs:
        if is_bids(path):
            listing.bids.append(path)
            listing.folders.append(path)
            found, left_out = bids_cases(path, output, bids_suffixes, channels, image_format)
            cases += found
            listing.left_out += left_out
        else:
            _list(path, output, listing)
    cases += [
        Case(
            name,
            tuple(image.source for image in images),
            output / f"{name}.{image_format}",
            tuple(note for image in images for note in image.notes),
        )
        for name, images in _groups(listing, channels).items()
    ]
    _check_names(cases)
    if not cases:
        raise _nothing_to_segment(inputs, listing.left_out)
    if single and len(cases) > 1:
        raise MaskSAMError(
            f"{len(cases)} cases cannot go into the one file {output}: give a folder as -o"
        )
    if single:
        cases = [Case(case.name, case.images, output, case.notes) for case in cases]
    folders, bids = tuple(listing.folders), tuple(listing.bids)
    return FoundCases(tuple(cases), tuple(listing.left_out), folders, bids)


def _groups(listing: _Listing, channels: int) -> dict[str, tuple[_Found, ...]]:
    """Return the images of each case by its name."""
    if not listing.given and not listing.in_folders:
        return {}
    if channels == 1:
        return _single(listing.given, _single_in_folders(listing))
    images = [*listing.given, *listing.in_folders]
    return _several(images, channels, listing)


def _single_in_folders(listing: _Listing) -> dict[str, tuple[_Found, ...]]:
    """Return the cases of images in folders, one image each."""
    cases: dict[str, tuple[_Found, ...]] = {}
    unnumbered: list[_Found] = []
    for name, images in _by_case(listing.in_folders).items():
        numbers = _numbers(images)
        if numbers == [0]:
            cases[name] = (images[0],)
        elif numbers == list(range(len(images))) or numbers[:2] == [_NO_NUMBER, 0]:
            listing.left_out.append(_wrong_count(name, images, 1))
        else:
            unnumbered += images
    return _single(unnumbered, cases)


def _single(
    images: Sequence[_Found], cases: dict[str, tuple[_Found, ...]]
) -> dict[str, tuple[_Found, ...]]:
    """Return given cases and a case of each image, under the name of the image."""
    found = dict(cases)
    for image in images:
        if image.name in found:
            raise _same_name(image.name, found[image.name][0].source.path, image.source.path)
        found[image.name] = (image,)
    return found


def _several(
    images: list[_Found], channels: int, listing: _Listing
) -> dict[str, tuple[_Found, ...]]:
    """Return the cases of several channels.

    Args:
        images: all images.
        channels: number of images of a case.
        listing: content of the paths; cases with too few or too many images are added to its
            ``left_out``.
    """
    groups = _by_case(images)
    chosen = not listing.in_folders
    if chosen and len(images) == channels == len({image.name for image in images}):
        # Files with different names are the channels of one case, in the order given.
        groups = {_CHANNEL.sub("", images[0].name): images}
        if _numbers(images) != list(range(channels)):
            return {name: tuple(images) for name, images in groups.items()}
    cases = {}
    for name, found in groups.items():
        names = [image.name for image in found]
        if _numbers(found) == list(range(channels)):
            cases[name] = tuple(sorted(found, key=lambda image: image.name))
        elif len(set(names)) == 1 and len(found) == channels and not _CHANNEL.search(names[0]):
            # T1/x and T2/x may be the channels of x, but T1/x_0000 and T2/x_0000 may not.
            cases[name] = tuple(found)
        elif len(set(names)) < len(names):
            one = next(image for image in found if names.count(image.name) > 1)
            other = next(image for image in found if image is not one and image.name == one.name)
            raise _same_name(name, one.source.path, other.source.path)
        else:
            listing.left_out.append(_wrong_count(name, found, channels))
    return cases


def _by_case(images: Sequence[_Found]) -> dict[str, list[_Found]]:
    """Return images by their names without the channel number."""
    groups: dict[str, list[_Found]] = defaultdict(list)
    for image in images:
        # A file that is named "_0000" alone keeps its name.
        groups[_CHANNEL.sub("", image.name) or image.name].append(image)
    return groups


def _numbers(images: Sequence[_Found]) -> list[int]:
    """Return the channel numbers in the names of a case's images, in ascending order."""
    found = (_CHANNEL.search(image.name) for image in images)
    return sorted(int(match.group(1)) if match else _NO_NUMBER for match in found)


def _same_name(name: str, one: Path, other: Path) -> MaskSAMError:
    return MaskSAMError(
        f"two cases are named '{name}' ({one} and {other}): rename one, or segment them one by one"
    )


def _check_names(cases: Sequence[Case]) -> None:
    """Raise an error if two cases, one of them in a BIDS dataset, have the same name."""
    seen: dict[str, Case] = {}
    for case in cases:
        other = seen.setdefault(case.name, case)
        if other is not case:
            raise _same_name(case.name, other.paths[0], case.paths[0])


def _wrong_count(name: str, images: Sequence[_Found], channels: int) -> LeftOut:
    advice = "name them CASE_0000, CASE_0001 and so on"
    if channels == 1:
        advice = "if they are separate cases, give the files in place of their folder"
    elif len(images) == channels:
        advice = "number them from CASE_0000 on"
    reason = f"case '{name}' has {len(images)} image(s), but this model takes {channels}: {advice}"
    return LeftOut(name, tuple(image.source.path for image in images), reason)


def _nothing_to_segment(inputs: Sequence[Path], left_out: Sequence[LeftOut]) -> MaskSAMError:
    """Return the error for paths without a case: the reason for the first image left out."""
    failed = [one for one in left_out if one.failed]
    if failed:
        return MaskSAMError(failed[0].reason)
    if left_out:
        one = left_out[0]
        return MaskSAMError(f"no case can be segmented, such as '{one.name}': {one.reason}")
    return MaskSAMError(f"{', '.join(map(str, inputs))} holds no image")


def _list(path: Path, output: Path, listing: _Listing) -> None:
    """Add the images of a path: the path itself if it is a file or a DICOM series."""
    if not path.exists():
        raise MaskSAMError(f"{path} does not exist")
    if not path.is_dir():
        listing.given.append(_Found(image_stem(path), ImageSource(path)))
        return
    images: list[Path] = []
    dicom_folders: list[Path] = []
    for folder, files in _walk(path, output, listing.left_out):
        found = [file for file in files if is_image_name(file)]
        images += found
        if files and not found:
            dicom_folders.append(folder)
    series, damaged = find_series(dicom_folders)
    if not images and dicom_folders == [path] and len(series) <= 1:
        # The reader raises an error for a folder without a series, or with a damaged file.
        name = image_stem(path) if is_image_name(path) else path.name
        listing.given.append(_Found(name, ImageSource(path)))
        return
    if output.resolve() == path.resolve():
        raise MaskSAMError(
            f"{output} is the input folder, where the next run would take the results for images:"
            " give another folder as -o"
        )
    if images and not series:
        # Beside images of other formats, an empty file without a suffix is no damaged slice.
        damaged = {folder: all_of for folder, all_of in damaged.items() if has_dicom_names(folder)}
    listing.folders.append(path)
    listing.in_folders += [
        _Found(_relative(file.with_name(image_stem(file)), path), ImageSource(file))
        for file in images
    ]
    _list_series(path, series, damaged, listing)


def _walk(path: Path, output: Path, left_out: list[LeftOut]) -> list[tuple[Path, list[Path]]]:
    """Return a folder and its subfolders, each with its files sorted by name.

    Files left by operating systems, and the output if it lies inside, are not listed. Folders with
    the results of other runs are left out.
    """

    def unreadable(error: OSError) -> None:
        folder = Path(error.filename)
        reason = f"{folder} cannot be read: {(error.strerror or str(error)).lower()}"
        left_out.append(LeftOut(_relative(folder, path), (folder,), reason))

    found = walked(path, unreadable, [output] if output.resolve() != path.resolve() else [])
    results = {folder for folder, files in found if folder != path and any(map(is_table, files))}
    for folder in sorted(results):
        reason = (
            f"{folder} has the results of another run, as its {TABLE_NAME} says: to segment them,"
            " give this folder"
        )
        left_out.append(LeftOut(_relative(folder, path), (folder,), reason, failed=False))
    return [
        (folder, files) for folder, files in found if results.isdisjoint((folder, *folder.parents))
    ]


def _list_series(
    root: Path,
    series: Sequence[DicomSeries],
    damaged: dict[Path, list[str]],
    listing: _Listing,
) -> None:
    """Add the DICOM series of a tree; localizers and derived series are left out."""
    in_folder = Counter(one.folder for one in series)
    per_folder = Counter(folder for one in series for folder in {f.parent for f in one.files})
    names: set[str] = set()
    for one in series:
        name = _series_name(one, root, in_folder[one.folder] == 1)
        if name in names:
            name = f"{name}_{one.uid}"
        names.add(name)
        alone = all(per_folder[file.parent] == 1 for file in one.files)
        if one.localizer or one.derived:
            kind = "a localizer" if one.localizer else "derived from other images"
            reason = (
                f"{name} is {kind}, as its header says: to segment it, give a folder with its files"
                " alone"
            )
            listing.left_out.append(LeftOut(name, one.files[:1], reason, failed=False))
        elif one.damaged and alone:
            listing.left_out.append(LeftOut(name, one.files[:1], one.damaged[0]))
        else:
            notes = tuple(f"{name} may lack slices: {message}" for message in one.damaged)
            listing.in_folders.append(_Found(name, ImageSource(one.folder, one.files), notes))
    for folder, messages in damaged.items():
        if per_folder[folder] != 1:
            name = _relative(folder, root)
            while name in names:
                name += "_damaged"
            names.add(name)
            listing.left_out.append(LeftOut(name, (folder,), messages[0]))


def _series_name(series: DicomSeries, root: Path, alone: bool) -> str:
    """Return the name of a series: its folder, its own name, or both if the folder has others."""
    if alone and series.folder != root:
        return _relative(series.folder, root)
    words = (re.sub(r"[^\w.-]+", "-", text) for text in (series.number, series.description))
    own = "_".join(word.strip(".-") for word in words if word.strip(".-")) or series.uid or "series"
    return own if series.folder == root else f"{_relative(series.folder, root)}/{own}"


def _relative(path: Path, root: Path) -> str:
    """Return a path relative to a folder, with "/" between its parts."""
    return root.name if path == root else path.relative_to(root).as_posix()


def _is_file_name(path: Path) -> bool:
    if path.is_dir():
        return False
    if path.name.lower().endswith((*WRITTEN_SUFFIXES, DICOM_SUFFIX)):
        return True
    if _FILE_SUFFIX.search(path.name):
        raise MaskSAMError(
            f"{path}: segmentations are not written as '{path.suffix}': end the name in"
            f" {', '.join(OUTPUT_FORMATS)}, or give a folder (one with such a name must exist)"
        )
    return False

"""Checks of a command's outputs, and the folders that are made for them.

No output may replace an input. New folders are removed again after an error.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.companions import companions
from MaskSAMCore.io.files import made_folders


@dataclass(frozen=True)
class Outputs:
    """Files and folders that a command writes.

    Attributes:
        files: files to write.
        replaced: folders that are written as a whole, replacing any folder of the same name.
        filled: folders that files are added to.
        extended: files that may exist without --overwrite, such as tables that get new rows.
        advice: advice to the user about a file that exists and must not be replaced.
    """

    files: tuple[Path, ...] = ()
    replaced: tuple[Path, ...] = ()
    filled: tuple[Path, ...] = ()
    extended: tuple[Path, ...] = ()
    advice: str = "add --overwrite to replace it"

    @property
    def written(self) -> tuple[Path, ...]:
        """All files and folders that are written, without the folders in `filled`."""
        return (*self.files, *self.replaced, *self.extended)


@dataclass(frozen=True)
class Inputs:
    """Files and folders that a command reads.

    Attributes:
        paths: files and folders that must not be replaced. The voxel files that belong to an image
            header are protected with it.
        closed: folders that are read as a whole, such as those of DICOM series; no output may lie
            in them.
    """

    paths: tuple[Path, ...] = ()
    closed: tuple[Path, ...] = ()


def present(*paths: Path | None) -> tuple[Path, ...]:
    """Return the paths that were given, for options that may be left out."""
    return tuple(path for path in paths if path is not None)


@contextmanager
def prepared(outputs: Outputs, inputs: Inputs, overwrite: bool) -> Iterator[None]:
    """Check the outputs of a command and make their folders, which an error in the block removes.

    Raises:
        MaskSAMError: an output is an input or would replace or join one, two outputs are the same
            file, an output exists and must not be replaced, or a folder cannot be written to.
    """
    _check_inputs(outputs, inputs)
    _check_files(outputs, overwrite)
    parents = {path.parent for path in outputs.written}
    with made_folders(sorted({*parents, *outputs.filled})):
        _check_names(outputs)
        _check_different(outputs)
        _check_no_folders(outputs)  # a file may have the name of a folder that was just made
        yield


def _check_files(outputs: Outputs, overwrite: bool) -> None:
    _check_no_folders(outputs)
    for path in (*outputs.files, *outputs.extended):
        if path.exists() and not path.is_file():
            raise MaskSAMError(f"{path} is a device or a pipe: name another file")
    for path in (*outputs.files, *outputs.replaced):
        if os.path.lexists(path) and not overwrite:
            raise MaskSAMError(f"{path} exists: {outputs.advice}")


def _check_no_folders(outputs: Outputs) -> None:
    for path in (*outputs.files, *outputs.extended):
        if path.is_dir():
            raise MaskSAMError(f"{path} is a folder: name another file")


def _check_inputs(outputs: Outputs, inputs: Inputs) -> None:
    paths = (*inputs.paths, *(file for path in inputs.paths for file in companions(path)))
    given = {key: path for path in (*paths, *inputs.closed) for key in _keys(path)}
    parents = {parent: path for path in given.values() for parent in _above(path)}
    above = {key: path for parent, path in parents.items() for key in _keys(parent)}
    closed = {key: path for path in inputs.closed for key in _keys(path)}
    # Cached, because many outputs lie in the same folders.
    keys = lru_cache(maxsize=None)(_keys)
    for output in (*outputs.written, *outputs.filled):
        if not _keys(output).isdisjoint(given):
            raise MaskSAMError(
                f"{output} is an input, and inputs are never replaced: name another output"
            )
        folders = [closed[key] for parent in _above(output) for key in keys(parent) & closed.keys()]
        if folders:
            raise MaskSAMError(
                f"{output} would lie among the input files in {folders[0]}: name an output outside"
            )
    for output in outputs.replaced:
        for key in _keys(output) & above.keys():
            raise MaskSAMError(
                f"{output} holds the input {above[key]}, and inputs are never replaced: name"
                " another output"
            )


def _check_names(outputs: Outputs) -> None:
    """Raise an error if the disk cannot store an output's name; the folders must exist."""
    for path in outputs.written:
        try:
            path.lstat()
        except FileNotFoundError:
            continue
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise MaskSAMError(f"cannot write {path} ({reason}): choose another name") from error


def _check_different(outputs: Outputs) -> None:
    """Raise an error if two outputs are the same file; the folders must exist."""
    seen: dict[str, Path] = {}
    for path in outputs.written:
        resolved = _resolved(path)
        name = str(resolved)
        other = seen.setdefault(_folded(name) if _ignores_case(resolved.parent) else name, path)
        if other is not path:
            also = "" if path == other else f" (also as {other})"
            raise MaskSAMError(f"{path} would be written twice{also}: name another file")


def _keys(path: Path) -> set[object]:
    """Return the keys of a path; paths that share a key are the same file or folder, even by links.

    Names in one folder that differ only in upper and lower case count as the same, because many
    disks do not distinguish them.
    """
    resolved = _resolved(path)
    keys: set[object] = {resolved, (_folded(resolved.name), resolved.parent)}
    with suppress(OSError):
        found = path.stat()
        keys.add((found.st_dev, found.st_ino))
    return keys


def _above(path: Path) -> tuple[Path, ...]:
    return tuple(_resolved(path).parents)


def _resolved(path: Path) -> Path:
    """Return the absolute path without links and "..", even if the file does not exist."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return Path(os.path.abspath(path))


def _folded(name: str) -> str:
    # macOS stores accents as separate characters.
    return unicodedata.normalize("NFC", name).casefold()


def _ignores_case(folder: Path) -> bool:
    """Return whether the disk of a folder ignores upper and lower case in names."""
    for path in (folder, *folder.parents):
        other = path.with_name(path.name.swapcase()) if path.name else path
        if other != path:
            try:
                return os.path.samefile(path, other)
            except OSError:
                return False
    return False

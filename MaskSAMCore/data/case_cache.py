"""Cache of preprocessed cases: arrays in files that all processes of a training share.

Every process maps the files into its memory, so that they share one copy, of which only the parts
in use are loaded. An entry is complete or absent. In a training its name has a hash of everything
that it was made from, see :func:`entry_name`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import atomic_folder, remove_abandoned

# Smaller files are read instead of mapped, because mapping has an overhead.
_MAPPED_BYTES = 1 << 16
# Digits of a SHA-256 in the name of an entry.
_DIGITS = 20
_ENTRY_NAME = re.compile(rf".+-[0-9a-f]{{{_DIGITS}}}")

Opened = TypeVar("Opened", covariant=True)


class CaseSource(Protocol[Opened]):
    """A case that each process opens for itself; a cached one is small to send to a process."""

    def open(self) -> Opened:
        """Return the case with its arrays."""
        ...


@dataclass(frozen=True)
class StoredArrays:
    """Arrays of an entry.

    Attributes:
        folder: folder of the entry.
    """

    folder: Path

    def read(self, name: str) -> NDArray[Any]:
        """Return an array; a large one is mapped into memory.

        Raises:
            MaskSAMError: the file is missing or damaged.
        """
        path = self.folder / f"{name}.npy"
        try:
            large = path.stat().st_size > _MAPPED_BYTES
            # Copy on write: PyTorch warns about read-only arrays, and no change reaches the file.
            array = np.load(path, mmap_mode="c" if large else None)
        except (EOFError, OSError, ValueError) as error:
            raise MaskSAMError(
                f"{path} is missing or damaged: continue the training with --resume, which"
                " preprocesses the case again"
            ) from error
        return np.asarray(array)


class CaseCache:
    """Entries of preprocessed cases in a folder.

    Args:
        folder: folder of the entries; it is made when the first entry is stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, entry: str, names: Collection[str]) -> StoredArrays | None:
        """Return an entry with arrays of the given names, or None if there is none."""
        found = StoredArrays(self.folder / entry)
        try:
            for name in names:
                found.read(name)
        except MaskSAMError:
            return None
        return found

    def store(
        self, entry: str, arrays: Mapping[str, NDArray[Any]], keep: bool = False
    ) -> StoredArrays:
        """Write an entry, complete or not at all.

        Args:
            entry: name of the entry.
            arrays: arrays by name.
            keep: whether a complete entry of that name is kept, such as one that another training
                has written meanwhile and may be reading.

        Raises:
            MaskSAMError: the entry cannot be written, for example because the disk is full.
        """
        target = self.folder / entry
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise MaskSAMError(f"cannot write {self.folder}: {reason}") from error
        kept = (lambda: self.find(entry, arrays) is not None) if keep else None
        with atomic_folder(target, keep=kept) as folder:
            for name, array in arrays.items():
                np.save(folder / f"{name}.npy", array, allow_pickle=False)
        return StoredArrays(target)

    def check_space(self, needed: int) -> None:
        """Check that the disk has space for further entries.

        Args:
            needed: size of the entries in bytes.

        Raises:
            MaskSAMError: the disk has too little free space.
        """
        existing = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if free < needed:
            raise MaskSAMError(
                f"the preprocessed cases need {gigabytes(needed)} in {self.folder}, where only"
                f" {gigabytes(free)} are free: choose a folder on another disk with --cache"
            )

    def remove_others(self, entries: Collection[str]) -> None:
        """Remove all entries but the given ones, and the folder once it is empty.

        Files and folders that are not entries stay. No other process may be writing to the cache.
        """
        remove_abandoned(self.folder, 0)
        for path in self.folder.glob("*"):
            if _ENTRY_NAME.fullmatch(path.name) and path.name not in entries:
                shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            self.folder.rmdir()


def entry_name(case: str, facts: Mapping[str, Any]) -> str:
    """Return the name of a case's entry.

    Args:
        case: name of the case.
        facts: everything that the arrays depend on, in plain types.
    """
    text = json.dumps(facts, sort_keys=True)
    return f"{case}-{hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]}"


def gigabytes(size: int) -> str:
    """Return a number of bytes in words, such as "1.3 GB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{max(size / 1e6, 0.1):.1f} MB"

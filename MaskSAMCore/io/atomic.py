"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import MaskSAMError

# Endings of two parts that readers and writers go by.
_LONG_SUFFIXES = (".nii.gz", ".seg.nrrd", ".mrk.json")


def file_suffix(path: Path) -> str:
    """The ending of a file name in lower case, both parts of one such as ``.nii.gz``."""
    name = path.name.lower()
    return next((s for s in _LONG_SUFFIXES if name.endswith(s)), Path(name).suffix)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` when the block ends well.

    The file is written beside its place, under the same ending, forced to the disk and renamed. If
    anything fails, nothing of it remains and a file that was there before is untouched. Missing
    folders are made.

    Raises:
        MaskSAMError: the disk is full, or the place cannot be written to.

    Example:
        >>> with atomic_path("out/table.csv") as temporary:
        ...     temporary.write_text("a,b")
    """
    path = Path(path)
    if path.is_dir():
        raise MaskSAMError(f"cannot write '{path}': it is a folder")
    temporary = path.with_name(f".{secrets.token_hex(6)}.partial{file_suffix(path)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise MaskSAMError(f"cannot write '{path}': {reason}") from error
    finally:
        # A path that cannot be reached has nothing in it; the first error is the one to tell.
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise MaskSAMError where ``path`` exists and may not be replaced."""
    if path.exists() and not overwrite:
        raise MaskSAMError(f"'{path}' exists already: remove it, or allow overwriting")

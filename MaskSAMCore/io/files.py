"""Outputs that are complete or absent."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from MaskSAMCore.errors import MaskSAMError

# Suffixes of the image files that can be read, apart from DICOM.
IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


@contextmanager
def atomic_path(path: Path, overwrite: bool = True) -> Iterator[Path]:
    """A path to write to that becomes ``path`` when the block ends well, and vanishes otherwise.

    It lies in a folder of its own beside ``path`` and has the same name, so that writers which go
    by suffixes, or add files of their own, work as usual.

    Raises:
        MaskSAMError: ``path`` exists and must not be replaced, or cannot be written (no such
            folder, no permission, disk full).
    """
    if path.exists() and not overwrite:
        raise MaskSAMError(f"{path} exists: choose another name, or replace it with --overwrite")
    try:
        folder = tempfile.TemporaryDirectory(prefix=".masksam-", dir=path.parent)
    except OSError as error:
        raise MaskSAMError(f"cannot write {path}: {reason(error)}") from error
    with folder as name:
        beside = Path(name) / path.name
        try:
            yield beside
            with open(beside, "rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(beside, path)
        except OSError as error:
            raise MaskSAMError(f"cannot write {path}: {reason(error)}") from error


def write_text(path: Path, text: str, overwrite: bool = True) -> None:
    """Writes a text file, complete or not at all; see :func:`atomic_path`."""
    with atomic_path(path, overwrite) as beside:
        beside.write_text(text, encoding="utf-8")


def reason(error: OSError) -> str:
    """What went wrong, in the system's words, without numbers and paths."""
    return (error.strerror or str(error)).lower()


def write_json(path: Path, values: Any) -> None:
    """Write values as JSON, complete or not at all; see :func:`atomic_path`."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def image_stem(path: Path) -> str:
    """Return a file's name without its image suffix."""
    for suffix in (".seg.nrrd", *IMAGE_SUFFIXES):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem

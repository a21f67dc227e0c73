"""Recognition of files that a failed download left in place of the wanted one."""

from __future__ import annotations

from pathlib import Path

from MaskSAMCore.errors import MaskSAMError

_START_BYTES = 1024
_PAGE_STARTS = (b"<!doctype", b"<html", b"<?xml", b"<!--", b"<head", b"<script")
_POINTER_START = b"version https://git-lfs"


def check_downloaded(path: Path) -> None:
    """Check that a file is not empty, a web page or a pointer of Git LFS.

    Raises:
        MaskSAMError: the file is empty, a web page, a pointer or a folder, does not exist or cannot
            be read.
    """
    if path.is_dir():
        raise MaskSAMError(f"{path} is a folder: give a file")
    try:
        with path.open("rb") as stream:
            start = stream.read(_START_BYTES)
    except FileNotFoundError as error:
        raise MaskSAMError(f"{path} does not exist") from error
    except OSError as error:
        raise MaskSAMError(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}"
        ) from error
    if not start:
        raise MaskSAMError(f"{path} is an empty file: download it again")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_PAGE_STARTS):
        raise MaskSAMError(
            f"{path} is a web page, not the file itself: download it again in a browser"
        )
    if text.startswith(_POINTER_START):
        raise MaskSAMError(
            f"{path} is a pointer of Git LFS, not the file itself: download it again, or run"
            " git lfs pull"
        )

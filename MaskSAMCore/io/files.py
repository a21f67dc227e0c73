"""Atomic writing of files and folders, locks, JSON, checksums, and names of image files."""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from MaskSAMCore.errors import MaskSAMError

# A suffix comes before its own ending: .seg.nrrd before .nrrd. Pairs of .hdr and .img are named by
# their header.
IMAGE_SUFFIXES = (
    *(".nii.gz", ".nii", ".hdr.gz", ".hdr"),
    *(".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd"),
)
WRITTEN_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")

# Largest compression ratio of Deflate, the method of gzip.
LARGEST_COMPRESSION = 1032

# Prefix of the temporary folders that hold the embeddings of a session.
EMBEDDINGS_PREFIX = "masksam-embeddings-"

# Errors that parsing code raises on content, such as JSON, of an unexpected form.
MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

_VOXEL_SUFFIXES = (".img.gz", ".img")
_TEMPORARY_PREFIX = ".masksam-"
_LOCK_NAME = ".masksam-lock"
# UTF-32 comes first, because its little-endian mark begins with that of UTF-16.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def is_image_name(path: Path) -> bool:
    """Return whether the file name has the suffix of an image format that can be read."""
    return path.name.lower().endswith(IMAGE_SUFFIXES)


def is_segmentation_name(path: Path) -> bool:
    """Return whether a file name is that of a segmentation of 3D Slicer."""
    return path.name.lower().endswith(".seg.nrrd")


def files_in(*paths: Path) -> tuple[Path, ...]:
    """Return the files directly in folders; paths that are no folders are returned as they are."""
    found: list[Path] = []
    for path in paths:
        found += sorted(path.iterdir()) if path.is_dir() else [path]
    return tuple(found)


def image_stem(path: Path) -> str:
    """Return the file name without its image suffix, else without its last suffix.

    A number is no suffix: DICOM files may be named after their UID, such as "MR.1.2.840.7".
    """
    for suffix in (*IMAGE_SUFFIXES, *_VOXEL_SUFFIXES):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name if path.suffix[1:].isdecimal() else path.stem


@contextmanager
def atomic_file(path: Path, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path whose file becomes ``path`` when the block ends without an error.

    The temporary file has the name of ``path`` and lies in a separate folder beside it, so that
    writers which choose a format by suffix, or write further files, work as usual. After an error
    nothing is left, and an existing ``path`` is unchanged.

    Raises:
        MaskSAMError: ``path`` exists and must not be replaced, or it cannot be written (missing
            folder, no permission, full disk).
    """
    _check_free(path, overwrite)
    with temporary_folder(path) as folder:
        temporary = folder / path.name
        try:
            yield temporary
            with open(temporary, "rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except OSError as error:
            raise _cannot_write(path, error) from error


@contextmanager
def atomic_folder(
    path: Path,
    overwrite: bool = True,
    *,
    mark: str | None = None,
    keep: Callable[[], bool] | None = None,
) -> Iterator[Path]:
    """Yield a new, empty folder that becomes ``path`` when the block ends without an error.

    After an error nothing is left, and an existing ``path`` is unchanged.

    Args:
        path: final place of the folder.
        overwrite: whether an existing folder may be replaced.
        mark: name of a file that all folders of the same kind have; an existing folder without this
            file is replaced only if it is empty. None allows any folder to be replaced.
        keep: function that returns whether a folder that exists when the block ends is kept, in
            place of the new one; of several processes that make ``path`` at the same time, the
            first one then wins. None replaces it.

    Raises:
        MaskSAMError: ``path`` exists and must not be replaced, or it cannot be written.
    """
    _check_free(path, overwrite)
    if mark is not None:
        _check_kind(path, mark)
    with temporary_folder(path) as folder:
        new = folder / "new"
        try:
            new.mkdir()
            yield new
        except OSError as error:
            raise _cannot_write(path, error) from error
        if keep is None or not (_moved(new, path) or keep()):
            replace_folder(new, path)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder on the same disk as ``path``, removed when the block ends.

    Raises:
        MaskSAMError: the folder of ``path`` is missing or cannot be written to.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=_TEMPORARY_PREFIX, dir=path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    with folder as name:
        yield Path(name)


@contextmanager
def made_folders(folders: Iterable[Path]) -> Iterator[None]:
    """Make folders for outputs before the block runs, and remove them if it fails.

    Only folders that were made here and are still empty are removed.

    Raises:
        MaskSAMError: a folder cannot be made or written to.
    """
    made: list[Path] = []
    try:
        for folder in folders:
            try:
                _make(folder, made)
            except OSError as error:
                raise _cannot_write(folder, error) from error
            if not os.access(folder, os.W_OK | os.X_OK):
                raise MaskSAMError(f"cannot write {folder}: permission denied")
        yield
    except BaseException:
        for folder in reversed(made):
            # A folder with results stays.
            with suppress(OSError):
                folder.rmdir()
        raise


def _make(folder: Path, made: list[Path]) -> None:
    """Make a folder and its missing parents, and append each new folder to ``made``."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        _make(folder.parent, made)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise NotADirectoryError(0, "not a folder") from None
        return  # Another process made it at the same time.
    made.append(folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder until the block ends; other programs that lock it wait.

    The lock is released when its process ends, even after a crash.

    Raises:
        MaskSAMError: the folder cannot be written to.
    """
    path = folder / _LOCK_NAME
    while True:
        try:
            stream = path.open("ab")
        except OSError as error:
            raise _cannot_write(path, error) from error
        with stream:
            if not _wait_for_lock(path, stream.fileno()):
                continue
            try:
                yield
            finally:
                # Windows does not remove an open file, so the lock file stays.
                with suppress(OSError):
                    path.unlink()
            return


def _wait_for_lock(path: Path, descriptor: int) -> bool:
    """Wait for the lock of an open file, and return whether it is still the file at ``path``."""
    if sys.platform == "win32":
        import msvcrt

        while True:
            try:
                msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
            except OSError as error:
                if error.errno == errno.EDEADLK:  # after ten seconds
                    continue
            return True
    else:
        import fcntl

        # Some network drives do not support locks.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            return os.path.samestat(os.fstat(descriptor), path.stat())
        except FileNotFoundError:
            return False


def _moved(new: Path, path: Path) -> bool:
    """Move the folder ``new`` to ``path`` and return True, or return False if ``path`` exists."""
    try:
        new.rename(path)
    except OSError:
        return False
    return True


def replace_folder(new: Path, path: Path) -> None:
    """Move the folder ``new`` to ``path``; an old folder there is kept until the move succeeds.

    Args:
        new: folder inside a :func:`temporary_folder` of ``path``; the old folder is moved beside
            ``new`` and removed with the temporary folder.
        path: final place of the folder.

    Raises:
        MaskSAMError: ``path`` cannot be replaced.
    """
    old = new.with_name("old")
    try:
        if path.exists():
            path.replace(old)
        new.replace(path)
    except OSError as error:
        if old.exists() and not path.exists():
            old.replace(path)
        raise _cannot_write(path, error) from error


def remove_abandoned(folder: Path, min_age_seconds: float) -> None:
    """Remove temporary folders that killed processes left in ``folder``.

    Args:
        folder: folder that :func:`atomic_file` or :func:`atomic_folder` wrote to.
        min_age_seconds: least time in seconds since the last change in a temporary folder; another
            process may still write to a folder that changed more recently.
    """
    for path in folder.glob(f"{_TEMPORARY_PREFIX}*"):
        with suppress(OSError):
            written = max(one.lstat().st_mtime for one in (path, *path.rglob("*")))
            if time.time() - written >= min_age_seconds:
                shutil.rmtree(path)


def write_text(path: Path, text: str, overwrite: bool = True) -> None:
    """Write a text file in UTF-8, complete or not at all; see :func:`atomic_file`.

    Bytes of file names that are not UTF-8 are written as escapes, such as ``\\udce9``.
    """
    with atomic_file(path, overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_bytes(path: Path, content: bytes, overwrite: bool = True) -> None:
    """Write a file, complete or not at all; see :func:`atomic_file`."""
    with atomic_file(path, overwrite) as temporary:
        temporary.write_bytes(content)


def write_json(
    path: Path, values: Any, overwrite: bool = True, *, ensure_ascii: bool = True
) -> None:
    """Write a JSON file in UTF-8, complete or not at all; see :func:`atomic_file`.

    Args:
        path: file to write.
        values: content of plain types; NaN and infinity are written as nnU-Net does.
        overwrite: whether an existing file may be replaced.
        ensure_ascii: whether characters beyond ASCII are escaped.
    """
    text = json.dumps(values, indent=1, ensure_ascii=ensure_ascii) + "\n"
    write_text(path, text, overwrite)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Raises:
        MaskSAMError: the file cannot be read, is not JSON, or has a key twice in one object.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MaskSAMError(f"{path} cannot be read as JSON: {reason}") from error
    marks = (name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark))
    try:
        text = content.decode(next(marks, "utf-8-sig"))
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise MaskSAMError(f"{path} cannot be read as JSON: it is nested too deeply") from error
    except UnicodeError as error:
        raise MaskSAMError(f"{path} cannot be read as JSON: save it in UTF-8") from error
    except ValueError as error:
        raise MaskSAMError(f"{path} cannot be read as JSON: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object from its pairs.

    Raises:
        ValueError: a key occurs twice; Python would silently keep the last value.
    """
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"it has the key '{key}' twice in one object")
        values[key] = value
    return values


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_free(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise MaskSAMError(
            f"{path} exists: choose another name, or replace it with --overwrite"
            " (in Python overwrite=True)"
        )
    if path.exists() and not path.is_file() and not path.is_dir():
        raise MaskSAMError(f"cannot write {path}: it is a device or a pipe, not a file")


def _check_kind(path: Path, mark: str) -> None:
    """Raise an error unless a path is free, an empty folder or a folder with the mark."""
    if not path.exists() or (path / mark).is_file():
        return
    if not path.is_dir() or any(path.iterdir()):
        raise MaskSAMError(
            f"{path} is not replaced, because it has no {mark} and other files may be lost: name"
            " another folder"
        )


def _cannot_write(path: Path, error: OSError) -> MaskSAMError:
    # The message omits the error numbers and temporary paths of the system's description.
    return MaskSAMError(f"cannot write {path}: {(error.strerror or str(error)).lower()}")

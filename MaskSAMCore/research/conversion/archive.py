"""Archives of datasets: a zip file, a tar file, or the folder that one was extracted to.

Paths in archives are not trusted: files are found by their names in the listing and copied to paths
that the caller chooses, never to their paths in the archive. Links are left out.
"""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol, cast

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.listing import is_litter

# Errors of damaged archives; zipfile raises RuntimeError for encrypted members.
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    NotImplementedError,
)
_LARGEST_TEXT = 1 << 24


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        path: path in the archive, from its root.
        size: size of the extracted file in bytes.
        position: index of the file in the order in which the archive is read fastest.
    """

    path: PurePosixPath
    size: int
    position: int


class Archive(Protocol):
    """An open archive.

    :class:`_Folder`, :class:`_Zip` and :class:`_Tar` implement it.
    """

    @property
    def path(self) -> Path:
        """Path of the archive."""
        ...

    @property
    def members(self) -> Sequence[Member]:
        """Files of the archive, without hidden files and files left by operating systems."""
        ...

    def stream(self, member: Member) -> BinaryIO:
        """Open a file of the archive for reading."""
        ...


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive.

    Raises:
        MaskSAMError: the path is no folder, zip file or tar file, or the archive is damaged, which
            may only be found in the ``with`` block.
    """
    if not path.exists():
        raise MaskSAMError(f"{path} does not exist")
    try:
        if path.is_dir():
            yield _Folder(path)
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as opened:
                yield _Zip(path, opened)
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                yield _Tar(path, archive)
        else:
            raise MaskSAMError(
                f"{path} is neither a folder nor a zip or tar archive, or is incomplete: give the"
                " archive as it was downloaded, or the folder that it was extracted to"
            )
    except _DAMAGED as error:
        if isinstance(error, MaskSAMError):
            raise
        raise MaskSAMError(
            f"{path} cannot be read: it is damaged, incomplete or encrypted; download it again"
        ) from error


def read_text(archive: Archive, member: Member) -> str:
    """Return the text of a small file of an archive.

    Raises:
        MaskSAMError: the file is too large, or is not text in UTF-8.
    """
    with archive.stream(member) as stream:
        content = stream.read(_LARGEST_TEXT + 1)
    try:
        if len(content) <= _LARGEST_TEXT:
            return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    raise MaskSAMError(f"{archive.path}: {member.path} is not a text file in UTF-8")


def _listed(names: Sequence[tuple[str, int]]) -> tuple[Member, ...]:
    """Return the files of an archive with their positions, without litter."""
    members = []
    for position, (name, size) in enumerate(names):
        path = PurePosixPath(name)
        if not any(is_litter(Path(part)) for part in path.parts):
            members.append(Member(path, size, position))
    return tuple(members)


class _Folder:
    """A folder that an archive was extracted to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        files = sorted(one for one in path.rglob("*") if one.is_file())
        relative = [(one.relative_to(path).as_posix(), one.stat().st_size) for one in files]
        self.members = _listed(relative)

    def stream(self, member: Member) -> BinaryIO:
        """Open a file of the archive for reading."""
        return (self.path / member.path).open("rb")


class _Zip:
    """A zip file."""

    def __init__(self, path: Path, opened: zipfile.ZipFile) -> None:
        self.path = path
        self._opened = opened
        self._entries = opened.infolist()
        self.members = tuple(
            member
            for member in _listed([(one.filename, one.file_size) for one in self._entries])
            if not self._entries[member.position].filename.endswith("/")
        )

    def stream(self, member: Member) -> BinaryIO:
        """Open a file of the archive for reading."""
        return cast(BinaryIO, self._opened.open(self._entries[member.position]))


class _Tar:
    """A tar file, compressed or not."""

    def __init__(self, path: Path, opened: tarfile.TarFile) -> None:
        self.path = path
        self._opened = opened
        self._entries = opened.getmembers()
        self.members = tuple(
            member
            for member in _listed([(one.name, one.size) for one in self._entries])
            if self._entries[member.position].isreg()
        )

    def stream(self, member: Member) -> BinaryIO:
        """Open a file of the archive for reading."""
        stream = self._opened.extractfile(self._entries[member.position])
        assert stream is not None
        return cast(BinaryIO, stream)

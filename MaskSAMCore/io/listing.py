"""Listing of folders without the files that systems and programs leave there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

# Names without a leading dot, in lower case.
_LITTER = (
    "$recycle.bin",
    "@eadir",
    "#recycle",
    "__macosx",
    "desktop.ini",
    "ehthumbs.db",
    "icon\r",
    "lost+found",
    "system volume information",
    "thumbs.db",
)


def is_litter(path: Path) -> bool:
    """Return whether a file or folder is hidden, or was left by a system or an office program.

    Examples are ``._a.nii.gz`` and ``.DS_Store`` of macOS, ``Thumbs.db`` of Windows, ``.nfs…`` of
    network drives, ``@eaDir`` of Synology and ``~$a.docx`` of Word.
    """
    return path.name.startswith((".", "~$")) or path.name.lower() in _LITTER


def listed(folder: Path) -> list[Path]:
    """Return the content of a folder in the order of its names, without litter."""
    return sorted(path for path in folder.iterdir() if not is_litter(path))


def walked(
    folder: Path, unreadable: Callable[[OSError], None], without: Iterable[Path] = ()
) -> list[tuple[Path, list[Path]]]:
    """Return a folder and its subfolders, each with its files sorted by name, without litter.

    Args:
        folder: top folder; links to folders are followed, once each.
        unreadable: function that receives the error of a folder that cannot be read.
        without: folders that are left out with all their content.
    """
    found: list[tuple[Path, list[Path]]] = []
    seen = {path.resolve() for path in without}
    for name, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        path = Path(name)
        if path.resolve() in seen:
            folders.clear()
            continue
        seen.add(path.resolve())
        folders[:] = sorted(one for one in folders if not is_litter(path / one))
        content = (path / one for one in sorted(files))
        found.append((path, [one for one in content if not is_litter(one)]))
    return found

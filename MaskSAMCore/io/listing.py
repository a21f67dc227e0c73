"""Listing of folders without the files that systems and programs leave there."""

from __future__ import annotations

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

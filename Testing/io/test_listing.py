"""Folder listings leave out files and folders that systems and programs create."""

from __future__ import annotations

from pathlib import Path

from MaskSAMCore.io.listing import listed

_LITTER = (
    "._a.nii.gz",
    ".DS_Store",
    ".nfs000000000012",
    "Thumbs.db",
    "thumbs.db",
    "desktop.ini",
    "~$notes.docx",
    "Icon\r",
)


def test_litter_of_systems_and_programs_is_left_out(tmp_path: Path) -> None:
    for name in (*_LITTER, "b.nii.gz", "a.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    for name in ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "series"):
        (tmp_path / name).mkdir()
    assert [path.name for path in listed(tmp_path)] == ["a.nii.gz", "b.nii.gz", "series"]

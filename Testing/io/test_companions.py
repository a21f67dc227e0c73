"""Files that belong to a header are known without reading the image."""

from __future__ import annotations

from pathlib import Path

import pytest

from MaskSAMCore.io.companions import companions


@pytest.mark.parametrize(
    ("header", "text", "others"),
    [
        ("a.hdr", "", ["a.img"]),
        ("A.HDR", "", ["A.IMG"]),
        ("a.img.gz", "", ["a.hdr.gz"]),
        ("a.mhd", "NDims = 3\nElementDataFile = a b.raw\n", ["a b.raw"]),
        ("a.mhd", "ElementDataFile = LIST\n1.raw\n2.raw\n", ["1.raw", "2.raw"]),
        ("a.mhd", "ElementDataFile = s%02d.raw 1 2 1\n", ["s01.raw", "s02.raw"]),
        ("a.nhdr", "NRRD0004\ndata file: parts/a.raw\n", ["parts/a.raw"]),
        ("a.nhdr", "NRRD0004\nunit:=cm\ndatafile: LIST\n1.raw\n2.raw\n", ["1.raw", "2.raw"]),
        ("a.nhdr", "NRRD0004\ndata file: missing.raw\n", []),
        ("a.nii.gz", "", []),
    ],
)
def test_the_files_of_a_header_are_found(
    header: str, text: str, others: list[str], tmp_path: Path
) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / header).write_text(text, encoding="utf-8")
    for name in (*others, "other.raw"):
        (tmp_path / name).write_bytes(b"")
    assert sorted(companions(tmp_path / header)) == sorted(tmp_path / name for name in others)


def test_a_header_that_does_not_exist_has_no_further_files(tmp_path: Path) -> None:
    assert companions(tmp_path / "a.nhdr") == ()

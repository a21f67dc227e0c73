"""Files that hold the voxels of a detached header: ``.hdr``, ``.mhd`` or ``.nhdr``."""

from __future__ import annotations

import re
from pathlib import Path

_TEXT_HEADERS = (".mhd", ".nhdr")
# Limit on the bytes read from a header, which has a few kilobytes.
_HEADER_BYTES = 1 << 20
# Placeholder in the name of numbered files, such as "slice%03d.raw".
_NUMBER = re.compile(r"%[0-9]*d")
# Field of a text header that names a voxel file; LOCAL means the header file itself.
_OTHER_FILE = re.compile(r"^(ElementDataFile *=|data ?file *:) *(?!LOCAL *$)\S", re.I | re.M)


def companions(path: Path) -> tuple[Path, ...]:
    """Return the other existing files that belong to an image.

    A ``.hdr`` and an ``.img`` file belong to each other; a ``.mhd`` or ``.nhdr`` header names its
    files. The files found are not opened.
    """
    if is_text_header(path):
        return _named_files(path)
    partner = paired_file(path)
    return () if partner is None else (partner,)


def is_text_header(path: Path) -> bool:
    """Return whether a file name is that of a text header, which names the voxel files."""
    return path.name.lower().endswith(_TEXT_HEADERS)


def lacks_voxels(path: Path) -> bool:
    """Return whether a text header names separate voxel files, none of which exists."""
    named = is_text_header(path) and _OTHER_FILE.search(_header_text(path)) is not None
    return named and not _named_files(path)


def _header_text(path: Path) -> str:
    try:
        with open(path, "rb") as stream:
            text = stream.read(_HEADER_BYTES).decode("utf-8", "surrogateescape")
    except OSError:
        return ""  # the image reader reports the error
    return "\n".join(text.splitlines())


def _named_files(path: Path) -> tuple[Path, ...]:
    """Return the existing files that a text header names, in a field or on a line of their own."""
    found: dict[Path, None] = {}
    for line in _header_text(path).splitlines():
        value = re.split(r":=|[:=]", line, maxsplit=1)[-1].strip()
        for name in dict.fromkeys((line.strip(), value, value.partition(" ")[0])):
            found.update(dict.fromkeys(_existing(path.parent, name)))
    return tuple(file for file in found if file != path)


def _existing(folder: Path, name: str) -> list[Path]:
    try:
        if not name or not _NUMBER.search(name):
            return [folder / name] if name and (folder / name).is_file() else []
        place = (folder / name).parent
        pattern = re.compile("[0-9]+".join(map(re.escape, _NUMBER.split(Path(name).name))))
        return [file for file in place.iterdir() if pattern.fullmatch(file.name)]
    except (OSError, ValueError):  # the text cannot be a file name
        return []


def paired_file(path: Path) -> Path | None:
    """Return the other file of a pair of ``.hdr`` and ``.img``, if it exists."""
    return partner_file(path, ".hdr", ".img") or partner_file(path, ".img", ".hdr")


def partner_file(path: Path, own: str, other: str) -> Path | None:
    """Return the other file of a pair, preferably compressed like the given one."""
    for compression in (".gz", ""):
        suffix = own + compression
        if path.name.lower().endswith(suffix):
            stem, given = path.name[: -len(suffix)], path.name[-len(suffix) :]
            partner = other.upper() if given[1:4].isupper() else other
            candidates = (partner + given[4:], partner, partner + ".gz")
            names = [stem + candidate for candidate in candidates]
            return next((path.with_name(n) for n in names if path.with_name(n).is_file()), None)
    return None

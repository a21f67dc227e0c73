"""What models exist: those that ship, those that can be downloaded, and those a person added."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.resources import resources

Kind = Literal["model", "backbone"]


@dataclass(frozen=True)
class Entry:
    """A line of the catalog.

    Attributes:
        name: for commands.
        title: for people.
        kind: "model" (a bundle), or "backbone" (official SAM weights).
        licence: of what is downloaded.
        size: bytes.
        url, sha256: where it is downloaded from; empty for what ships or was added by hand.
        folder: where a model's bundle is, once it is installed.
    """

    name: str
    title: str
    kind: Kind
    licence: str
    size: int
    url: str = ""
    sha256: str = ""
    folder: Path | None = None

    @property
    def file(self) -> Path:
        """Where a download is kept."""
        return user_folder() / "downloads" / Path(self.url).name


def user_folder() -> Path:
    """Where downloads and added models are kept: MASKSAM_HOME, else the system's place for data of
    applications."""
    home = os.environ.get("MASKSAM_HOME")
    if home:
        return Path(home)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    return base / "MaskSAM"


def catalog() -> list[Entry]:
    """All entries: shipped models first, then a person's own, then what can be downloaded."""
    shipped = _folders(resources() / "Models")
    own = _folders(user_folder() / "models")
    listed = read_catalog(resources() / "Models" / "catalog.json")
    installed = {entry.name for entry in (*shipped, *own)}
    return [*shipped, *own, *(entry for entry in listed if entry.name not in installed)]


def find(name: str) -> Entry:
    """The entry of a name.

    Raises:
        MaskSAMError: there is none; the message lists those there are.
    """
    entries = catalog()
    for entry in entries:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in entries if entry.kind == "model")
    raise MaskSAMError(f"no model named '{name}': there are {known}; or give a bundle's path")


def installed(entry: Entry) -> bool:
    """Whether it can be used now."""
    return entry.folder is not None or (bool(entry.url) and entry.file.is_file())


def describe(entry: Entry) -> dict[str, Any]:
    """What an installed model says of itself (``masksam.json``: labels, plan, card); empty for what
    is not installed. The weights are neither read nor verified.

    Raises:
        MaskSAMError: the description cannot be read.
    """
    if entry.folder is None:
        return {}
    path = entry.folder / "masksam.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MaskSAMError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise MaskSAMError(f"{path} is no model description")
    return values


def read_catalog(path: Path) -> list[Entry]:
    """The downloadable entries of a catalog file.

    Raises:
        MaskSAMError: it is damaged; the message says where.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return [_entry(value) for value in values["entries"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MaskSAMError(f"{path} is no usable catalog: {error}") from error


def _entry(value: dict[str, Any]) -> Entry:
    entry = Entry(
        name=str(value["name"]),
        title=str(value["title"]),
        kind=value["kind"],
        licence=str(value["licence"]),
        size=int(value["size"]),
        url=str(value["url"]),
        sha256=str(value["sha256"]),
    )
    if entry.kind not in ("model", "backbone"):
        raise ValueError(f"'{entry.name}' has the unknown kind '{entry.kind}'")
    if len(entry.sha256) != 64 or not entry.url.startswith(("https://", "http://127.0.0.1")):
        raise ValueError(f"'{entry.name}' needs an https address and a SHA-256")
    return entry


def _folders(parent: Path) -> list[Entry]:
    """Bundles that lie in a folder, by their description alone (they are verified when used)."""
    entries = []
    for path in sorted(parent.glob("*/masksam.json")):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            licence = str(values.get("card", {}).get("licence", "not stated"))
            size = sum(p.stat().st_size for p in path.parent.iterdir() if p.is_file())
            name, title = str(values["name"]), str(values["title"])
        except (OSError, ValueError, KeyError, AttributeError):
            continue
        entries.append(Entry(name, title, "model", licence, size, folder=path.parent))
    return entries

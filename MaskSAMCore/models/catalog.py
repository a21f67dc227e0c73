"""What models exist: those that ship, those that can be downloaded, and those a person added."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.resources import resources

# What segments where nothing else is asked for.
DEFAULT_MODEL = "brain"
Kind = Literal["model", "backbone"]
# How a SAM checkpoint wants its slices.
PREPARATIONS = ("sam", "medsam")
# A checkpoint that was brought by hand, in a folder of its own.
CHECKPOINT_RECORD, CHECKPOINT_WEIGHTS = "checkpoint.json", "checkpoint.pth"


@dataclass(frozen=True)
class Entry:
    """A line of the catalog.

    Attributes:
        name: for commands.
        title: for people.
        kind: "model" (a bundle), or "backbone" (SAM weights: what models are trained on, and by
            themselves a model that segments what boxes are drawn around).
        licence: of what is downloaded.
        size: bytes.
        url, sha256: where it is downloaded from; empty for what ships. The SHA-256 of a backbone
            that was brought by hand is the one it came with.
        folder: where a model's bundle, or a backbone brought by hand, is once it is installed.
        preparation: of a backbone, one of PREPARATIONS.
        page: where people get what cannot be downloaded from here.
    """

    name: str
    title: str
    kind: Kind
    licence: str
    size: int
    url: str = ""
    sha256: str = ""
    folder: Path | None = None
    preparation: str = ""
    page: str = ""

    @property
    def file(self) -> Path:
        """Where a download, or a backbone brought by hand, is kept."""
        if self.url:
            return user_folder() / "downloads" / Path(self.url).name
        return user_folder() / "checkpoints" / self.name / CHECKPOINT_WEIGHTS

    @property
    def needs_boxes(self) -> bool:
        """Whether it segments what boxes of any names are drawn around, and nothing without."""
        return self.kind == "backbone"


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
    own = [*_folders(user_folder() / "models"), *_checkpoints(user_folder() / "checkpoints")]
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


def how_to_get(entry: Entry) -> str:
    """What a person does to install an entry, in one line."""
    if entry.url:
        return f"'{entry.name}' is not installed: masksam models download {entry.name}"
    return (
        f"'{entry.name}' is not installed: get its file from {entry.page}, then"
        f" masksam models add FILE --name {entry.name}"
    )


def describe(entry: Entry) -> dict[str, Any]:
    """What an installed model says of itself (``masksam.json``: labels, plan, card); empty for what
    is not installed, and for a backbone. The weights are neither read nor verified.

    Raises:
        MaskSAMError: the description cannot be read.
    """
    if entry.folder is None or entry.kind == "backbone":
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
        url=str(value.get("url", "")),
        sha256=str(value.get("sha256", "")),
        preparation=str(value.get("preparation", "")),
        page=str(value.get("page", "")),
    )
    if entry.kind not in ("model", "backbone"):
        raise ValueError(f"'{entry.name}' has the unknown kind '{entry.kind}'")
    if entry.kind == "backbone" and entry.preparation not in PREPARATIONS:
        raise ValueError(f"'{entry.name}' has the unknown preparation '{entry.preparation}'")
    if entry.kind == "backbone" and entry.page.startswith("https://") and not entry.url:
        return entry
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


def _checkpoints(parent: Path) -> list[Entry]:
    """Backbones brought by hand, by their records alone (they are verified when used)."""
    entries = []
    for path in sorted(parent.glob(f"*/{CHECKPOINT_RECORD}")):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            size = (path.parent / CHECKPOINT_WEIGHTS).stat().st_size
            name, title, licence, sha256, preparation, page = (
                str(values[key])
                for key in ("name", "title", "licence", "sha256", "preparation", "page")
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if name == path.parent.name and preparation in PREPARATIONS:
            entry = Entry(name, title, "backbone", licence, size, "", sha256, path.parent)
            entries.append(replace(entry, preparation=preparation, page=page))
    return entries

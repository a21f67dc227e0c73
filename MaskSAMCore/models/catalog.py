"""Catalog of models: shipped, downloadable, and added by the user."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import MALFORMED, read_json
from MaskSAMCore.resources import resources

DEFAULT_MODEL = "brain"
Kind = Literal["model", "backbone"]
# Number of SHA-256 digits that distinguish the weights of models.
VERSION_DIGITS = 12
# Names of the preprocessing that a SAM checkpoint was trained with.
PREPARATIONS = ("sam", "medsam")
# File in the folder of a bundle that describes the model.
DESCRIPTION = "masksam.json"
# Files in the folder of a checkpoint that the user added.
CHECKPOINT_RECORD, CHECKPOINT_WEIGHTS = "checkpoint.json", "checkpoint.pth"


@dataclass(frozen=True)
class Entry:
    """An entry of the catalog.

    Attributes:
        name: model name for commands and scripts.
        title: one line that describes the model to the user.
        kind: "model" (a bundle) or "backbone" (a SAM checkpoint: the base of models, and by itself
            a model that segments the content of boxes).
        licence: licence of the files.
        size: size in bytes.
        url: address of the download, empty if there is none.
        sha256: SHA-256 of the download, or of the checkpoint that the user added.
        folder: folder of an installed bundle or of a checkpoint that the user added, else None.
        preparation: preprocessing of a backbone, one of PREPARATIONS.
        page: web page that offers a file which cannot be downloaded directly.
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
        """Path of the download, or of the checkpoint that the user added."""
        if self.url:
            return user_folder() / "downloads" / Path(self.url).name
        return user_folder() / "checkpoints" / self.name / CHECKPOINT_WEIGHTS

    @property
    def needs_boxes(self) -> bool:
        """True for a model that segments the content of boxes, and nothing without a box."""
        return self.kind == "backbone"


def user_folder() -> Path:
    """Return the folder of downloads and added models.

    The environment variable MASKSAM_HOME gives its path; the default is in the system's folder for
    application data.

    Raises:
        MaskSAMError: the home folder is needed but unknown, as for some users of containers.
    """
    try:
        return _user_folder()
    except RuntimeError as error:
        raise MaskSAMError(
            "the home folder is not known: set MASKSAM_HOME to the path of a folder for models"
        ) from error


def _user_folder() -> Path:
    if home := os.environ.get("MASKSAM_HOME"):
        return Path(home).expanduser()
    # Empty variables count as unset, because an empty path would be the current folder.
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "MaskSAM"


def catalog() -> list[Entry]:
    """Return all entries: shipped models first, then added ones, then those not yet installed."""
    shipped = _folders(resources() / "Models")
    own = [*_folders(user_folder() / "models"), *_checkpoints(user_folder() / "checkpoints")]
    listed = read_catalog(resources() / "Models" / "catalog.json")
    installed = {entry.name for entry in (*shipped, *own)}
    return [*shipped, *own, *(entry for entry in listed if entry.name not in installed)]


def find(name: str) -> Entry:
    """Return the entry with a given name.

    Raises:
        MaskSAMError: no entry has this name; the message lists all names.
    """
    entries = catalog()
    for entry in entries:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in entries)
    raise MaskSAMError(f"no model named '{name}': choose {known}, or give the path of a bundle")


def is_path(name_or_path: str | Path) -> bool:
    """Return whether a model is given by the path of its bundle instead of its catalog name.

    If a folder, for example one with results, has the same name as a model in the catalog, the name
    means the model unless the folder holds a bundle.
    """
    path = Path(name_or_path)
    if path.is_dir() and not (path / DESCRIPTION).exists():
        return all(entry.name != str(name_or_path) for entry in catalog())
    return path.exists()


def check_name(name: str) -> None:
    """Check the name of a new model.

    Raises:
        MaskSAMError: the name is empty or has characters other than letters, digits, - and _.
    """
    if not name or not all(c.isalnum() or c in "-_" for c in name):
        raise MaskSAMError(f"'{name}' cannot be a model's name: use letters, digits, - and _")


def installed(entry: Entry) -> bool:
    """Return whether the files of an entry are installed."""
    return entry.folder is not None or (bool(entry.url) and entry.file.is_file())


def how_to_get(entry: Entry) -> str:
    """Return one line for the user on how to install an entry."""
    if entry.url:
        return f"'{entry.name}' is not installed: masksam models download {entry.name}"
    return (
        f"'{entry.name}' is not installed: get its file from {entry.page}, then"
        f" masksam models add FILE --name {entry.name}"
    )


def describe(entry: Entry) -> dict[str, Any]:
    """Return the description of an installed model (``masksam.json``: labels, plan, card).

    It is empty for a backbone and for a model that is not installed. The weights are neither read
    nor verified.

    Raises:
        MaskSAMError: the description cannot be read.
    """
    if entry.folder is None or entry.kind == "backbone":
        return {}
    path = entry.folder / DESCRIPTION
    values = read_json(path)
    if not isinstance(values, dict):
        raise MaskSAMError(f"{path} is not the description of a model")
    return values


def read_catalog(path: Path) -> list[Entry]:
    """Return the entries of a catalog file.

    Raises:
        MaskSAMError: the file is damaged; the message says where.
    """
    try:
        return [_entry(value) for value in read_json(path)["entries"]]
    except MALFORMED as error:
        raise MaskSAMError(f"{path} is not a usable catalog: {error}") from error


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
    """Return the bundles in a folder from their descriptions; they are verified when opened."""
    entries = []
    for path in sorted(parent.glob(f"*/{DESCRIPTION}")):
        try:
            values = read_json(path)
            licence = str(values.get("card", {}).get("licence", "not stated"))
            size = sum(p.stat().st_size for p in path.parent.iterdir() if p.is_file())
            name, title = str(values["name"]), str(values["title"])
        except (OSError, *MALFORMED):
            continue
        entries.append(Entry(name, title, "model", licence, size, folder=path.parent))
    return entries


def _checkpoints(parent: Path) -> list[Entry]:
    """Return the checkpoints that the user added; they are verified when opened."""
    entries = []
    for path in sorted(parent.glob(f"*/{CHECKPOINT_RECORD}")):
        try:
            values = read_json(path)
            size = (path.parent / CHECKPOINT_WEIGHTS).stat().st_size
            name, title, licence, sha256, preparation, page = (
                str(values[key])
                for key in ("name", "title", "licence", "sha256", "preparation", "page")
            )
        except (OSError, *MALFORMED):
            continue
        if name == path.parent.name and preparation in PREPARATIONS:
            entry = Entry(name, title, "backbone", licence, size, "", sha256, path.parent)
            entries.append(replace(entry, preparation=preparation, page=page))
    return entries

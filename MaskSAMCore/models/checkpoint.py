"""SAM and MedSAM checkpoints as models: found, verified, and brought by hand.

An official file lies where its download does and must have the SHA-256 of the catalog. Any other
lies in a folder of its own beside ``checkpoint.json``, which records the SHA-256 it came with.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling.sam.predictor import PlainSam, checkpoint_config
from MaskSAMCore.models.backbone import sha256
from MaskSAMCore.models.bundle import replace_folder
from MaskSAMCore.models.catalog import (
    CHECKPOINT_RECORD,
    CHECKPOINT_WEIGHTS,
    PREPARATIONS,
    Entry,
    catalog,
    find,
    how_to_get,
    user_folder,
)


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk.

    Attributes:
        entry: of the catalog.
        file: the weights.
    """

    entry: Entry
    file: Path

    def build(self) -> PlainSam:
        """The SAM with its weights, ready for inference.

        Raises:
            MaskSAMError: the weights do not fit; all that does not is named.
        """
        try:
            return PlainSam.from_checkpoint(self.file, checkpoint_config(self.file))
        except ValueError as error:
            raise MaskSAMError(str(error)) from error


def open_checkpoint(name: str) -> Checkpoint | None:
    """The verified checkpoint of a catalog name; None where the name is no checkpoint's.

    Raises:
        MaskSAMError: it is not installed, or another file than the one it was.
    """
    entry = next((e for e in catalog() if e.name == name and e.needs_boxes), None)
    if entry is None:
        return None
    if not entry.file.is_file():
        raise MaskSAMError(how_to_get(entry))
    _check(entry)
    return Checkpoint(entry, entry.file)


def _check(entry: Entry) -> None:
    if sha256(entry.file) != entry.sha256:
        raise MaskSAMError(
            f"{entry.file} is damaged or was exchanged (its SHA-256 is not the recorded one):"
            f" masksam models remove {entry.name}, and get it again"
        )


def add_checkpoint(
    path: Path,
    name: str,
    *,
    preparation: str | None = None,
    expected_sha256: str | None = None,
    unverified: bool = False,
) -> Entry:
    """Takes a checkpoint of which the catalog knows no SHA-256: MedSAM's, or a person's own.

    The file is read as tensors only, and must have exactly the names and shapes of a SAM of an
    official size. Its SHA-256 is recorded, and every later use verifies it.

    Args:
        path: the file; MedSAM's training files, which wrap the weights, are accepted.
        name: "medsam", or one of the person's own.
        preparation: "sam" or "medsam": how it wants its slices. None for that of the catalog's
            entry of this name, else "sam".
        expected_sha256: what the place it comes from says.
        unverified: the person knows that nothing vouches for the file.

    Raises:
        MaskSAMError: neither of the two is given, the SHA-256 is another, the name is taken, or
            something in the file does not fit; all that does not is named.
    """
    listed = _by_hand(name)
    how = preparation or (listed.preparation if listed else "sam")
    if how not in PREPARATIONS:
        raise MaskSAMError(f"unknown preparation '{how}': choose {' or '.join(PREPARATIONS)}")
    if not path.is_file():
        raise MaskSAMError(f"{path} does not exist")
    if expected_sha256 is None and not unverified:
        raise MaskSAMError(
            f"nothing vouches for {path}, whose SHA-256 is {sha256(path)}: compare it with what"
            " the file's source says and add --sha256, or add --unverified to trust the file as"
            " it is"
        )
    found = sha256(path)
    if expected_sha256 is not None and found != expected_sha256.strip().lower():
        raise MaskSAMError(f"{path} is another file than was meant: its SHA-256 is {found}")
    try:
        config = checkpoint_config(path)
    except ValueError as error:
        raise MaskSAMError(str(error)) from error
    record = {
        "format_version": 1,
        "name": name,
        "title": listed.title if listed else f"{name}: what you draw boxes around",
        "licence": listed.licence if listed else "not stated",
        "page": listed.page if listed else "",
        "architecture": config.name,
        "preparation": how,
        "sha256": found,
        "verified": expected_sha256 is not None,
    }
    folder = user_folder() / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".masksam-", dir=folder) as beside:
        new = Path(beside) / name
        new.mkdir()
        shutil.copyfile(path, new / CHECKPOINT_WEIGHTS)
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        (new / CHECKPOINT_RECORD).write_text(text, encoding="utf-8")
        if sha256(new / CHECKPOINT_WEIGHTS) != found:
            raise MaskSAMError(f"{path} changed while it was copied: try again")
        replace_folder(new, folder / name)
    return find(name)


def _by_hand(name: str) -> Entry | None:
    """The entry of a name whose file people bring by hand; None for a new name.

    Raises:
        MaskSAMError: the name is unusable, or means another model.
    """
    if not name or not all(c.isalnum() or c in "-_" for c in name):
        raise MaskSAMError(f"'{name}' cannot be a model's name: use letters, digits, - and _")
    entry = next((e for e in catalog() if e.name == name), None)
    if entry is not None and (entry.url or not entry.needs_boxes):
        raise MaskSAMError(f"there is a model named '{name}' already: give yours another name")
    return entry

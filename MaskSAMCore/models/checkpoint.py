"""SAM and MedSAM checkpoints as models that segment the content of boxes.

An official checkpoint is kept with the downloads and must have the SHA-256 of the catalog. A
checkpoint that the user adds is kept in a separate folder with ``checkpoint.json``, which records
the SHA-256.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.downloads import check_downloaded
from MaskSAMCore.io.files import atomic_folder, made_folders, sha256, write_json
from MaskSAMCore.modeling.sam.checkpoint import checkpoint_config
from MaskSAMCore.modeling.sam.predictor import PlainSam
from MaskSAMCore.models.catalog import (
    CHECKPOINT_RECORD,
    CHECKPOINT_WEIGHTS,
    PREPARATIONS,
    Entry,
    catalog,
    check_name,
    find,
    how_to_get,
    user_folder,
)


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk.

    Attributes:
        entry: entry of the catalog.
        file: checkpoint file.
    """

    entry: Entry
    file: Path

    def build(self) -> PlainSam:
        """Build the SAM with its weights, ready for inference.

        Raises:
            MaskSAMError: some weights do not fit; the message names all of them.
        """
        try:
            return PlainSam.from_checkpoint(self.file, checkpoint_config(self.file))
        except ValueError as error:
            raise MaskSAMError(str(error)) from error


def open_checkpoint(name: str) -> Checkpoint | None:
    """Open and verify a checkpoint by its name; None if no checkpoint has this name.

    Raises:
        MaskSAMError: the checkpoint is not installed, or has another SHA-256 than recorded.
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
            f"{entry.file} is damaged or was replaced (its SHA-256 is not the recorded one):"
            f" masksam models remove {entry.name}, then install it again"
        )


def add_checkpoint(
    path: Path,
    name: str,
    *,
    preparation: str | None = None,
    expected_sha256: str | None = None,
    unverified: bool = False,
) -> Entry:
    """Install a checkpoint whose SHA-256 is not in the catalog: MedSAM's, or one of the user's own.

    The file is read as tensors only, and must have exactly the names and shapes of a SAM of an
    official size. Its SHA-256 is recorded and verified whenever the checkpoint is opened.

    Args:
        path: checkpoint file, which is copied; MedSAM's training checkpoints are accepted too.
        name: "medsam", or a new name.
        preparation: preprocessing that the checkpoint was trained with, "sam" or "medsam"; None
            takes the catalog's, or "sam" for a new name.
        expected_sha256: SHA-256 that the source of the file states.
        unverified: whether the file is accepted without an expected SHA-256.

    Raises:
        MaskSAMError: the file has another SHA-256 than expected, or none was given; the name
            belongs to another model or to a checkpoint with other weights; or some weights do not
            fit, and the message names all of them.
    """
    listed = _by_hand(name)
    how = preparation or (listed.preparation if listed else "sam")
    if how not in PREPARATIONS:
        raise MaskSAMError(f"unknown preparation '{how}': choose {' or '.join(PREPARATIONS)}")
    check_downloaded(path)
    if expected_sha256 is None and not unverified:
        raise MaskSAMError(
            f"the SHA-256 of {path} is {sha256(path)}: compare it with the one that its source"
            " states and add --sha256, or add --unverified to accept the file without it"
        )
    found = sha256(path)
    if expected_sha256 is not None and found != expected_sha256.strip().lower():
        raise MaskSAMError(f"{path} has another SHA-256 than expected: its SHA-256 is {found}")
    if listed is not None and listed.folder is not None and listed.sha256 != found:
        raise MaskSAMError(
            f"another checkpoint named '{name}' is installed: remove it first (masksam models"
            f" remove {name}), or give the new one another name"
        )
    try:
        config = checkpoint_config(path)
    except ValueError as error:
        raise MaskSAMError(str(error)) from error
    record = {
        "format_version": 1,
        "name": name,
        "title": listed.title if listed else f"{name}: segments the content of boxes",
        "licence": listed.licence if listed else "not stated",
        "page": listed.page if listed else "",
        "architecture": config.name,
        "preparation": how,
        "sha256": found,
        "verified": expected_sha256 is not None,
    }
    folder = user_folder() / "checkpoints"
    with made_folders([folder]), atomic_folder(folder / name) as new:
        shutil.copyfile(path, new / CHECKPOINT_WEIGHTS)
        write_json(new / CHECKPOINT_RECORD, record, ensure_ascii=False)
        if sha256(new / CHECKPOINT_WEIGHTS) != found:
            raise MaskSAMError(f"{path} changed while it was copied: try again")
    return find(name)


def _by_hand(name: str) -> Entry | None:
    """Return the entry of a checkpoint that cannot be downloaded; None for a new name.

    Raises:
        MaskSAMError: the name is not allowed, or another model has it.
    """
    check_name(name)
    entry = next((e for e in catalog() if e.name == name), None)
    if entry is not None and (entry.url or not entry.needs_boxes):
        raise MaskSAMError(f"a model named '{name}' exists already: choose another name")
    return entry

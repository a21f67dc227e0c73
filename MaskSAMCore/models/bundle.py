"""A trained model as files: ``masksam.json`` and ``weights.safetensors`` in a folder or a zip.

Nothing is unpickled, and nothing is loaded whose SHA-256 does not agree with what is written in
``masksam.json``.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from MaskSAMCore.data import Plan
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling import (
    Network,
    NetworkConfig,
    UNet,
    build_model,
    kept_names,
    load_sam_checkpoint,
    read_config,
)
from MaskSAMCore.models.backbone import check_backbone, sha256

DESCRIPTION, WEIGHTS = "masksam.json", "weights.safetensors"
FORMAT_VERSION = 1
# A bundle is a description of kilobytes and at most some gigabytes of weights.
_LARGEST_DESCRIPTION = 2**20
_LARGEST_WEIGHTS = 8 * 2**30


@dataclass(frozen=True)
class Bundle:
    """A verified model on disk.

    Attributes:
        folder: where its two files are.
        name, title: for commands, and for people.
        config, plan: the network and its preprocessing.
        labels: classes 1 to K.
        largest_component: values of labels of which only the largest component is kept.
        background_weight: what the background's scores are multiplied with.
        mirror: axes of a window that mirrored passes may flip.
        card: everything else that people should know: modality, spacing range, training data with
            licence and attribution, test figures, citation.
        sam_sha256: of the file with the frozen SAM it was trained beside; None without one, and in
            bundles from before it was written down.
    """

    folder: Path
    name: str
    title: str
    config: NetworkConfig
    plan: Plan
    labels: tuple[Label, ...]
    largest_component: tuple[int, ...]
    mirror: tuple[int, ...]
    card: dict[str, Any] = field(default_factory=dict)
    sam_sha256: str | None = None
    background_weight: float = 1.0

    def build(self, sam_checkpoint: Path | None = None) -> Network:
        """The network with its weights, ready for inference.

        Args:
            sam_checkpoint: official weights of the frozen SAM; needed where the bundle has none.

        Raises:
            MaskSAMError: the weights do not fit, or the SAM is needed and absent, or another one
                than the model was trained beside.
        """
        try:
            model = build_model(self.config)
        except ValueError as error:
            raise MaskSAMError(f"model '{self.name}' cannot be built: {error}") from error
        sam = self.config.frozen_sam
        if sam is not None and not isinstance(model, UNet):
            if sam_checkpoint is None:
                raise MaskSAMError(
                    f"model '{self.name}' works on top of SAM {sam.name}, which is not"
                    f" installed: masksam models download sam_{sam.name}"
                )
            check_backbone(sam_checkpoint, self.sam_sha256, f"model '{self.name}'")
            try:
                load_sam_checkpoint(model.sam, sam_checkpoint)
            except ValueError as error:
                raise MaskSAMError(str(error)) from error
        state = _read_weights(self.folder / WEIGHTS)
        found = model.load_state_dict(state, strict=False)
        kept = set(kept_names(model))
        missing = [key for key in found.missing_keys if key in kept]
        wrong = [f"missing {key}" for key in missing]
        wrong += [f"unexpected {key}" for key in found.unexpected_keys]
        if wrong:
            raise MaskSAMError(f"the weights of model '{self.name}' do not fit: {'; '.join(wrong)}")
        return model.eval().requires_grad_(False)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum((self.folder / name).stat().st_size for name in (DESCRIPTION, WEIGHTS))


def load_bundle(folder: Path) -> Bundle:
    """Reads and verifies a bundle folder.

    Raises:
        MaskSAMError: a file is absent, the description is damaged or of a newer version, or the
            weights are not those it was written with.
    """
    values = _read_description(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise MaskSAMError(f"{folder} is no complete model: {WEIGHTS} is missing")
    if sha256(weights) != values["weights_sha256"]:
        raise MaskSAMError(
            f"{weights} is damaged or was exchanged (its SHA-256 is not the recorded one):"
            " install the model again"
        )
    return _bundle(folder, values)


def _bundle(folder: Path, values: dict[str, Any]) -> Bundle:
    try:
        labels = tuple(Label.from_json(v) for v in values["labels"])
        bundle = Bundle(
            folder=folder,
            name=str(values["name"]),
            title=str(values["title"]),
            config=read_config(values["architecture"]),
            plan=Plan.from_dict(values["plan"]),
            labels=labels,
            largest_component=tuple(int(v) for v in values.get("largest_component", [])),
            mirror=tuple(int(v) for v in values.get("mirror", [])),
            card=dict(values.get("card", {})),
            sam_sha256=values.get("sam_sha256"),
            background_weight=check_background_weight(values.get("background_weight", 1.0)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise MaskSAMError(f"{folder / DESCRIPTION} is damaged: {error}") from error
    if len(labels) != bundle.config.num_classes:
        raise MaskSAMError(f"{folder / DESCRIPTION}: labels and network disagree in number")
    return bundle


def check_background_weight(value: Any) -> float:
    """A weight of the background as a number.

    Raises:
        ValueError: it is none, or not between 0.01 and 100.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.01 <= value <= 100:
        raise ValueError(f"background_weight {value!r} is no number between 0.01 and 100")
    return float(value)


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise MaskSAMError(f"{folder} is no model bundle: it has no {DESCRIPTION}")
    if path.stat().st_size > _LARGEST_DESCRIPTION:
        raise MaskSAMError(f"{path} is far too large for a model's description")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MaskSAMError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("format_version"), int):
        raise MaskSAMError(f"{path} is no description of a MaskSAM model")
    if values["format_version"] > FORMAT_VERSION:
        raise MaskSAMError(f"{folder} was made by a newer MaskSAM: update this one to use it")
    if not isinstance(values.get("weights_sha256"), str):
        raise MaskSAMError(f"{path} does not say the SHA-256 of its weights")
    return values


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise MaskSAMError(f"{path} cannot be read as safetensors: {error}") from error
    return {k: v.float() if v.dtype == torch.float16 else v for k, v in state.items()}


def save_bundle(
    folder: Path,
    name: str,
    title: str,
    state: dict[str, Tensor],
    config: NetworkConfig,
    plan: Plan,
    labels: tuple[Label, ...],
    largest_component: tuple[int, ...] = (),
    mirror: tuple[int, ...] = (),
    card: dict[str, Any] | None = None,
    half: bool = True,
    overwrite: bool = False,
    sam_sha256: str | None = None,
    background_weight: float = 1.0,
) -> Bundle:
    """Writes a bundle folder, complete or not at all.

    Args:
        state: the network's own weights (without a frozen SAM's).
        half: store matrices as float16, half the size; they are float32 again in memory.
        sam_sha256: of the file with the frozen SAM, where there is one.

    Raises:
        MaskSAMError: the folder exists, or cannot be written.
    """
    if folder.exists() and not overwrite:
        raise MaskSAMError(f"{folder} exists: choose another folder, or add --overwrite")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".masksam-", dir=folder.parent) as beside:
        new = Path(beside) / "bundle"
        new.mkdir()
        small = {
            key: value.half() if half and value.dtype == torch.float32 and value.ndim > 1 else value
            for key, value in state.items()
        }
        save_file({k: v.contiguous() for k, v in small.items()}, new / WEIGHTS)
        values = {
            "format_version": FORMAT_VERSION,
            "name": name,
            "title": title,
            "labels": [label.to_json() for label in labels],
            "largest_component": list(largest_component),
            "background_weight": background_weight,
            "mirror": list(mirror),
            "plan": plan.to_dict(),
            "architecture": config.to_dict(),
            "weights_sha256": sha256(new / WEIGHTS),
            "card": card or {},
        }
        if sam_sha256 is not None:
            values["sam_sha256"] = sam_sha256
        text = json.dumps(values, indent=1, ensure_ascii=False)
        (new / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
        (new / WEIGHTS).chmod(0o644)
        replace_folder(new, folder)
    return load_bundle(folder)


def replace_folder(new: Path, folder: Path) -> None:
    """Moves ``new`` to where ``folder`` is; an old one is removed once the new one is in place."""
    old = new.with_name("old")
    if folder.exists():
        folder.replace(old)
    try:
        new.replace(folder)
    except OSError as error:
        if old.exists():
            old.replace(folder)
        raise MaskSAMError(f"cannot write {folder}: {error.strerror}") from error


def unpack_bundle(archive: Path, target: Path) -> Bundle:
    """Unpacks a bundle's zip into the new folder ``target`` and verifies it there.

    Only the two files of a bundle are taken, under their own names, from the archive's top or from
    one folder in it; no path of the archive is ever used to write.

    Raises:
        MaskSAMError: not a zip, not a bundle, too large, or damaged.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened, archive)
            target.mkdir(parents=True)
            for name, member in members.items():
                with opened.open(member) as source, (target / name).open("wb") as copy:
                    shutil.copyfileobj(source, copy)
        return load_bundle(target)
    except (zipfile.BadZipFile, OSError, RuntimeError, EOFError) as error:
        shutil.rmtree(target, ignore_errors=True)
        raise MaskSAMError(f"{archive} cannot be unpacked: {error}") from error
    except MaskSAMError:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _members(opened: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    limits = {DESCRIPTION: _LARGEST_DESCRIPTION, WEIGHTS: _LARGEST_WEIGHTS}
    found: dict[str, zipfile.ZipInfo] = {}
    for member in opened.infolist():
        path = PurePosixPath(member.filename)
        if path.name not in limits or len(path.parts) > 2 or ".." in path.parts:
            continue
        if path.is_absolute() or path.name in found or member.file_size > limits[path.name]:
            raise MaskSAMError(f"{archive} is no proper model archive: see '{member.filename}'")
        found[path.name] = member
    if set(found) != set(limits):
        raise MaskSAMError(f"{archive} holds no model: {DESCRIPTION} and {WEIGHTS} are not in it")
    return found

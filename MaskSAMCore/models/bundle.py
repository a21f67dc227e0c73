"""Model bundles: a folder, or a zip of one, with ``masksam.json`` and ``weights.safetensors``, and
with ``quality.json`` if the Dice of results can be estimated.

Nothing is unpickled, and weights are loaded only if they have the SHA-256 that ``masksam.json``
records.
"""

from __future__ import annotations

import errno
import lzma
import shutil
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from MaskSAMCore.data import Plan
from MaskSAMCore.data.label_scheme import LARGEST_VALUE
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.downloads import check_downloaded
from MaskSAMCore.io.files import (
    MALFORMED,
    atomic_folder,
    made_folders,
    read_json,
    sha256,
    write_json,
)
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling import (
    Network,
    NetworkConfig,
    build_limited,
    expected_state,
    load_sam_checkpoint,
    read_config,
)
from MaskSAMCore.modeling.sam.checkpoint import state_mismatches
from MaskSAMCore.models.catalog import DESCRIPTION
from MaskSAMCore.models.expected_dice import (
    MAX_QUALITY_BYTES,
    QUALITY,
    DiceEstimator,
    read_estimator,
)
from MaskSAMCore.models.inference_settings import InferenceSettings
from MaskSAMCore.models.suitability import ANY_INPUT, Suitability

WEIGHTS = "weights.safetensors"
FORMAT_VERSION = 1
# Larger files in an archive are not unpacked.
_MAX_DESCRIPTION_BYTES = 2**20
_MAX_WEIGHTS_BYTES = 8 * 2**30
# Limits above the number of values in the largest SAM, which a bundle does not include, and in the
# unused parts of SAM.
_SAM_VALUES, _FEW_VALUES = 700_000_000, 1_000_000
# Errors that damaged archives of any kind raise; encrypted ones raise RuntimeError.
_UNPACKING_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class Bundle:
    """A verified model bundle on disk.

    Attributes:
        folder: folder of the bundle.
        name: model name for commands and scripts.
        title: one line that describes the model to the user.
        config: configuration of the network.
        plan: preprocessing of volumes.
        labels: labels of the classes 1 to K.
        inference: settings that decide how scores become a labelmap.
        card: further facts for the user: modality, spacing range, training data with licence and
            attribution, test figures, citation.
        sam_sha256: SHA-256 of the frozen SAM's checkpoint; None without a frozen SAM, and in
            bundles of older versions, which did not record it.
        suitability: inputs that the model was made for, as the card states them.
        weights_sha256: SHA-256 of the weights.
        estimator: estimator of the Dice of results; None without ``quality.json``.
        intracranial: names of the classes that fill the skull together, as the card states them;
            empty if the card does not.
    """

    folder: Path
    name: str
    title: str
    config: NetworkConfig
    plan: Plan
    labels: tuple[Label, ...]
    inference: InferenceSettings
    card: dict[str, Any] = field(default_factory=dict)
    sam_sha256: str | None = None
    suitability: Suitability = ANY_INPUT
    weights_sha256: str = ""
    estimator: DiceEstimator | None = None
    intracranial: tuple[str, ...] = ()

    def build(self, sam_checkpoint: Path | None = None) -> Network:
        """Build the network with its weights, ready for inference.

        Args:
            sam_checkpoint: checkpoint of the frozen SAM, which a bundle does not include.

        Raises:
            MaskSAMError: the weights do not fit the network, or the checkpoint of the frozen SAM is
                missing or not the one that the model was trained with.
        """
        state = _read_weights(self.folder / WEIGHTS)
        sam = self.config.frozen_sam
        # A damaged configuration may describe a network that no memory can hold.
        most = sum(value.numel() for value in state.values()) * 2 + _FEW_VALUES
        try:
            model = build_limited(self.config, most + (_SAM_VALUES if sam is not None else 0))
        except ValueError as error:
            raise MaskSAMError(f"model '{self.name}' cannot be built: {error}") from error
        built = model.state_dict()
        self._check(state, {name: built[name] for name in model.kept_names()})
        if sam is not None and model.sam is not None:
            if sam_checkpoint is None:
                raise MaskSAMError(
                    f"model '{self.name}' needs SAM {sam.name}, which is not installed:"
                    f" masksam models download sam_{sam.name}"
                )
            check_backbone(sam_checkpoint, self.sam_sha256, f"model '{self.name}'")
            try:
                load_sam_checkpoint(model.sam, sam_checkpoint)
            except ValueError as error:
                raise MaskSAMError(str(error)) from error
        model.load_state_dict(state, strict=False)
        return model.eval().requires_grad_(False)

    def weights(self) -> dict[str, Tensor]:
        """Read the weights, without those of a frozen SAM.

        A damaged configuration may describe a network that no memory can hold, so the weights are
        compared with it before the network is built.

        Raises:
            MaskSAMError: the file cannot be read, no network can be built from the configuration,
                or the weights do not fit it or are not finite.
        """
        state = _read_weights(self.folder / WEIGHTS)
        try:
            expected = expected_state(self.config)
        except ValueError as error:
            raise MaskSAMError(f"model '{self.name}' cannot be built: {error}") from error
        self._check(state, expected)
        return state

    def _check(self, state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
        """Check that weights have the expected names and shapes and are finite numbers."""
        wrong = state_mismatches(state, expected)
        if wrong:
            raise MaskSAMError(f"the weights of model '{self.name}' do not fit: {'; '.join(wrong)}")
        broken = [name for name, value in state.items() if not torch.isfinite(value.sum())]
        if broken:
            raise MaskSAMError(
                f"the weights of model '{self.name}' are not finite numbers ({broken[0]}): the"
                " training failed, or the file is damaged"
            )


def load_bundle(folder: Path, source: Path | None = None, with_estimator: bool = True) -> Bundle:
    """Read and verify a bundle folder.

    Args:
        folder: folder of the bundle.
        source: archive that the folder was unpacked from, named in messages instead of the folder.
        with_estimator: whether the estimator of the Dice is also read.

    Raises:
        MaskSAMError: a file is missing, the description is damaged or of a newer version, or the
            weights have another SHA-256 than recorded.
    """
    try:
        return _load_bundle(folder, with_estimator)
    except MaskSAMError as error:
        if source is None:
            raise
        raise MaskSAMError(str(error).replace(str(folder), str(source))) from error


def _load_bundle(folder: Path, with_estimator: bool) -> Bundle:
    values = _read_description(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise MaskSAMError(f"{folder} is not a complete model: {WEIGHTS} is missing")
    if sha256(weights) != values["weights_sha256"]:
        raise MaskSAMError(
            f"{weights} is damaged or was replaced (its SHA-256 is not the recorded one): install"
            " the model again"
        )
    bundle = _bundle(folder, values)
    if not with_estimator:
        return bundle
    estimator = read_estimator(folder, len(bundle.labels), bundle.weights_sha256)
    return replace(bundle, estimator=estimator)


def _bundle(folder: Path, values: dict[str, Any]) -> Bundle:
    try:
        labels = tuple(Label.from_json(v) for v in values["labels"])
        bundle = Bundle(
            folder=folder,
            name=_text(values, "name"),
            title=_text(values, "title"),
            config=read_config(values["architecture"]),
            plan=Plan.from_dict(values["plan"]),
            labels=labels,
            inference=InferenceSettings.from_json(values),
            card=dict(values.get("card", {})),
            sam_sha256=values.get("sam_sha256"),
            suitability=Suitability.from_card(values.get("card", {})),
            weights_sha256=values["weights_sha256"],
            intracranial=intracranial_classes(values.get("card", {}), labels),
        )
        _check_values(bundle)
    except MALFORMED as error:
        raise MaskSAMError(f"{folder / DESCRIPTION} is damaged: {error}") from error
    if len({label.value for label in labels}) < len(labels):
        raise MaskSAMError(f"{folder / DESCRIPTION}: two labels have one value")
    if len(labels) != bundle.config.num_classes:
        raise MaskSAMError(
            f"{folder / DESCRIPTION}: it has {len(labels)} labels for"
            f" {bundle.config.num_classes} classes of the network"
        )
    return bundle


def _text(values: dict[str, Any], key: str) -> str:
    if not isinstance(values[key], str):
        raise ValueError(f"'{key}' is not a text")
    return str(values[key])


def _check_values(bundle: Bundle) -> None:
    """Check that the parts of a description fit each other.

    Raises:
        ValueError: two parts do not fit, or the value of a label is too large.
    """
    plan = bundle.plan
    if not len(plan.channels) == len(plan.normalization) == bundle.config.in_channels:
        raise ValueError("its plan has another number of channels than the network")
    for label in bundle.labels:
        if label.value > LARGEST_VALUE:
            raise ValueError(f"label '{label.name}' has a value above {LARGEST_VALUE}")


def intracranial_classes(card: Mapping[str, Any], labels: Sequence[Label]) -> tuple[str, ...]:
    """Return the names of the classes that fill the skull together, in the order of the labels.

    Args:
        card: card of a model; its "intracranial" is "all" or a list of class names.
        labels: classes of the model.

    Raises:
        ValueError: "intracranial" is something else, or names a class that the model does not have.
    """
    wanted = card.get("intracranial", [])
    names = tuple(label.name for label in labels)
    if wanted == "all":
        return names
    if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
        raise ValueError("'intracranial' must be \"all\" or a list of class names")
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise ValueError(f"'intracranial' has names of no class: {', '.join(unknown)}")
    return tuple(name for name in names if name in wanted)


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise MaskSAMError(
            f"{folder} is not a model bundle: it has no {DESCRIPTION} (masksam export makes a"
            " bundle of a training)"
        )
    if path.stat().st_size > _MAX_DESCRIPTION_BYTES:
        raise MaskSAMError(f"{path} is too large for the description of a model")
    values = read_json(path)
    if not isinstance(values, dict) or not isinstance(values.get("format_version"), int):
        raise MaskSAMError(f"{path} does not describe a MaskSAM model")
    if values["format_version"] > FORMAT_VERSION:
        raise MaskSAMError(f"{folder} was made by a newer MaskSAM: update this one to use it")
    if not isinstance(values.get("weights_sha256"), str):
        raise MaskSAMError(f"{path} does not record the SHA-256 of the weights")
    return values


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise MaskSAMError(
            f"{path} cannot be read as safetensors: it is damaged or another kind of file"
        ) from error
    return {k: v.float() if v.dtype == torch.float16 else v for k, v in state.items()}


def save_bundle(
    folder: Path,
    name: str,
    title: str,
    state: dict[str, Tensor],
    config: NetworkConfig,
    plan: Plan,
    labels: tuple[Label, ...],
    inference: InferenceSettings = InferenceSettings(),
    card: dict[str, Any] | None = None,
    half: bool = True,
    overwrite: bool = False,
    sam_sha256: str | None = None,
) -> Bundle:
    """Write a bundle folder, complete or not at all.

    Args:
        folder: folder to write.
        name, title, config, plan, labels, inference, card: see :class:`Bundle`.
        state: weights of the network, without those of a frozen SAM.
        half: whether matrices are stored as float16, at half the size; in memory they are float32.
        overwrite: whether an existing bundle or an empty folder may be replaced.
        sam_sha256: SHA-256 of the frozen SAM's checkpoint, or None.

    Raises:
        MaskSAMError: the folder exists and is no bundle to replace, or cannot be written.
    """
    with made_folders([folder.parent]), atomic_folder(folder, overwrite, mark=DESCRIPTION) as new:
        small = {
            key: value.half() if half and value.dtype == torch.float32 and value.ndim > 1 else value
            for key, value in state.items()
        }
        # The file writer of safetensors raises errors of its own where the disk is full.
        (new / WEIGHTS).write_bytes(save({k: v.contiguous() for k, v in small.items()}))
        values = {
            "format_version": FORMAT_VERSION,
            "name": name,
            "title": title,
            "labels": [label.to_json() for label in labels],
            **inference.to_json(),
            "plan": plan.to_dict(),
            "architecture": config.to_dict(),
            "weights_sha256": sha256(new / WEIGHTS),
            "card": card or {},
        }
        if sam_sha256 is not None:
            values["sam_sha256"] = sam_sha256
        write_json(new / DESCRIPTION, values, ensure_ascii=False)
    return load_bundle(folder)


def check_backbone(checkpoint: Path, expected: str | None, owner: str) -> str:
    """Return the SHA-256 of a frozen SAM's checkpoint, after comparing it with the expected one.

    Adapters only work with the weights that they were trained with.

    Args:
        checkpoint: checkpoint file of the frozen SAM.
        expected: SHA-256 that the file must have; None if it was not recorded.
        owner: model or training that needs the SAM, for the message.

    Raises:
        MaskSAMError: the file cannot be read, or has another SHA-256.
    """
    if not checkpoint.is_file():
        raise MaskSAMError(f"the SAM checkpoint {checkpoint} cannot be read: no such file")
    check_downloaded(checkpoint)
    found = sha256(checkpoint)
    if expected is not None and found != expected:
        raise MaskSAMError(
            f"{owner} was trained with another SAM than {checkpoint}: the SHA-256 is {found}, and"
            f" must be {expected}"
        )
    return found


def unpack_bundle(archive: Path, target: Path) -> Bundle:
    """Unpack the zip of a bundle into a new folder and verify the bundle there.

    Only the files of a bundle are unpacked, under their own names, from the top of the archive or
    from one folder in it. No path of the archive is used for writing.

    Args:
        archive: zip file.
        target: folder to create.

    Raises:
        MaskSAMError: the archive is not a zip, holds no bundle, is too large or is damaged.
    """
    check_downloaded(archive)
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened, archive)
            target.mkdir(parents=True)
            for name, member in members.items():
                with opened.open(member) as source, (target / name).open("wb") as copy:
                    shutil.copyfileobj(source, copy)
        return load_bundle(target, source=archive)
    except MaskSAMError:
        shutil.rmtree(target, ignore_errors=True)
        raise
    except _UNPACKING_ERRORS as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = str(error.strerror).lower()
            raise MaskSAMError(f"{archive} cannot be unpacked: {reason}") from error
        raise MaskSAMError(
            f"{archive} cannot be unpacked: it is damaged, or no zip of a model"
        ) from error


def _members(opened: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    limits = {
        DESCRIPTION: _MAX_DESCRIPTION_BYTES,
        WEIGHTS: _MAX_WEIGHTS_BYTES,
        QUALITY: MAX_QUALITY_BYTES,
    }
    found: dict[str, zipfile.ZipInfo] = {}
    for member in opened.infolist():
        path = PurePosixPath(member.filename)
        if path.name not in limits or len(path.parts) > 2 or ".." in path.parts:
            continue
        if path.is_absolute() or path.name in found or member.file_size > limits[path.name]:
            raise MaskSAMError(
                f"{archive} is not a model archive: remove '{member.filename}' from it"
            )
        found[path.name] = member
    if not {DESCRIPTION, WEIGHTS} <= set(found):
        raise MaskSAMError(
            f"{archive} holds no model: {DESCRIPTION} and {WEIGHTS} are neither at its top nor in a"
            " folder there"
        )
    return found

"""What is refused before a dataset is read, in words."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.multiprocessing.spawn import ProcessRaisedException

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import axis_mapping
from MaskSAMCore.modeling import build_model, load_sam_checkpoint
from MaskSAMCore.models.bundle import check_backbone
from MaskSAMCore.training.callbacks import newest_checkpoint
from MaskSAMCore.training.preset import Preset
from MaskSAMCore.training.run_folder import RUN_FILE, TrainingRecord

if TYPE_CHECKING:
    from MaskSAMCore.training.fit import FitOptions


def last_checkpoint(options: FitOptions) -> Path | None:
    """The checkpoint to go on from; None for a new run, or one that was stopped before its first.

    Raises:
        MaskSAMError: the run exists and is not resumed, or the other way round.
    """
    exists = (options.run / RUN_FILE).exists()
    if options.resume:
        if not exists:
            raise MaskSAMError(f"{options.run} holds no training to resume")
        return newest_checkpoint(options.run)
    if exists:
        raise MaskSAMError(
            f"{options.run} already holds a training: add --resume to go on with it, or choose"
            " another folder"
        )
    return None


def known_record(options: FitOptions) -> TrainingRecord:
    """The record of a run to go on with.

    Raises:
        MaskSAMError: it is damaged, or of another dataset.
    """
    record = TrainingRecord.load(options.run)
    name = options.dataset.resolve().name
    if name != record.dataset:
        raise MaskSAMError(
            f"{options.run} was trained on '{record.dataset}', not on '{name}': give its own"
            " dataset, or start another run"
        )
    return record


def chosen_preset(options: FitOptions, changes: Mapping[str, Any]) -> Preset:
    """Return the preset of a new training with the user's changes.

    Args:
        options: options of the training.
        changes: fields of the network to change.

    Raises:
        MaskSAMError: there is no preset, or a change does not fit it.
    """
    preset = options.preset
    if preset is None:
        raise MaskSAMError("a new training needs a preset")
    constraints: dict[str, Any] = {}
    if options.orientation is not None:
        axis_mapping(np.eye(4), options.orientation)
        constraints["orientation"] = options.orientation
    if options.spacing is not None:
        constraints["spacing"] = options.spacing
    try:
        network = preset.network.replace(**changes)
    except (TypeError, ValueError) as error:
        raise MaskSAMError(f"preset '{preset.name}' cannot be changed so: {error}") from error
    return replace(preset, network=network, plan=preset.plan.replace(**constraints))


def check_sam(
    options: FitOptions, known: TrainingRecord | None, preset: Preset | None
) -> str | None:
    """The SHA-256 of the frozen SAM's file, checked before a dataset is read; None without one.

    Raises:
        MaskSAMError: there is no such preset, or the file is absent, no weights of its SAM, or
            other ones than the run began with.
    """
    if known is not None:
        config, name = known.config, known.preset
    else:
        assert preset is not None
        config, name = preset.network, preset.name
    if config.frozen_sam is None:
        return None
    file = options.sam_checkpoint
    if file is None:
        raise MaskSAMError(
            f"preset '{name}' trains beside a frozen SAM: give its official weights"
            " with --sam-checkpoint (masksam models list tells where they are)"
        )
    expected = None if known is None else known.facts.get("sam_sha256")
    found = check_backbone(file, expected, f"the run in {options.run}")
    try:
        # On the meta device nothing is computed or kept: only names and shapes are compared.
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = build_model(config)
            assert model.sam is not None
            load_sam_checkpoint(model.sam, file)
    except ValueError as error:
        raise MaskSAMError(str(error)) from error
    return found


def told(error: ProcessRaisedException) -> Exception:
    """The MaskSAMError inside a process that ended, or the exception as it is."""
    lines = str(error).strip().splitlines()
    kind, _, message = lines[-1].partition(": ") if lines else ("", "", "")
    return MaskSAMError(message) if kind.rpartition(".")[2] == MaskSAMError.__name__ else error

"""A small model, saved as a bundle."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from MaskSAMCore import models
from MaskSAMCore.data import ChannelNormalization, Plan
from MaskSAMCore.labels import Code, Label, Terminology
from MaskSAMCore.modeling import MaskSAM, build_model
from MaskSAMCore.models.bundle import WEIGHTS
from MaskSAMCore.models.catalog import DESCRIPTION
from MaskSAMCore.training.run_folder import own_weights
from Testing.helpers.networks import small_masksam_config

PLAN = Plan("RSA", (1.0, 1.0, 1.0), (5, 16, 20), (ChannelNormalization(),), ("MR",))
CODES = Terminology(Code("SCT", "123037004", "Anatomical Structure"), Code("SCT", "1", "One"))
LABELS = (Label(1, "One", (1.0, 0.0, 0.0), CODES), Label(2, "Zwei ü", (0.0, 1.0, 0.5)))


def save(folder: Path, name: str = "small", **changes: object) -> tuple[models.Bundle, MaskSAM]:
    """Save a small network as a bundle; ``changes`` are fields of its configuration."""
    torch.manual_seed(0)
    config = small_masksam_config(**changes)
    model = build_model(config)
    inference = models.InferenceSettings(largest_component=frozenset({1}), mirror=(0,))
    bundle = models.save_bundle(
        folder, name, "A small one", own_weights(model), config, PLAN, LABELS, inference
    )
    return bundle, model


def zipped(folder: Path, archive: Path, inside: str = "") -> Path:
    """Pack the files of a bundle into a zip, under the prefix ``inside``."""
    with zipfile.ZipFile(archive, "w") as target:
        for name in (DESCRIPTION, WEIGHTS):
            target.write(folder / name, f"{inside}{name}")
    return archive

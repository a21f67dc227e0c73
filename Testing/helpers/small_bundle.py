"""A bundle that is written and run in no time."""

from __future__ import annotations

from pathlib import Path

import torch

from MaskSAMCore.data import ChannelNormalization, Plan
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling import build_model
from MaskSAMCore.models import save_bundle
from MaskSAMCore.training.run_folder import own_weights
from Testing.helpers.networks import small_masksam_config


def small_bundle(folder: Path, channels: int = 1) -> Path:
    """A small random network that finds its two classes somewhere."""
    torch.manual_seed(1)
    config = small_masksam_config(in_channels=channels)
    model = build_model(config)
    with torch.no_grad():
        model.decoder.class_head.bias[1:3] += 3
        for parameter in (
            model.sam.mask_decoder.output_hypernetworks_mlps[0].layers[-1].parameters()
        ):
            parameter.mul_(5)
    how = (ChannelNormalization(),) * channels
    names = tuple(f"MR{c}" for c in range(channels))
    plan = Plan("SAR", (2.0, 1.0, 1.0), config.window, how, names)
    labels = (Label(1, "Bright", (1.0, 0.8, 0.1)), Label(2, "Dark", (0.1, 0.4, 0.9)))
    save_bundle(folder, "small", "Small", own_weights(model), config, plan, labels, (), (0,))
    return folder

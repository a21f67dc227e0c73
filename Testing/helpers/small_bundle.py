"""A bundle that is written and run in milliseconds."""

from __future__ import annotations

from pathlib import Path

import torch

from MaskSAMCore.data import ChannelNormalization, Plan
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling import build_model
from MaskSAMCore.models import InferenceSettings, save_bundle
from MaskSAMCore.training.run_folder import own_weights
from Testing.helpers.networks import small_masksam_config


def small_bundle(
    folder: Path,
    name: str = "small",
    channels: int = 1,
    class_names: tuple[str, str] = ("Bright", "Dark"),
    card: dict[str, object] | None = None,
    seed: int = 4,
) -> Path:
    """Write a bundle of a small random network that finds both of its classes in any image."""
    torch.manual_seed(seed)
    config = small_masksam_config(in_channels=channels)
    model = build_model(config).eval()
    with torch.no_grad():
        model.decoder.class_head.weight.mul_(4)
        for parameter in (
            model.sam.mask_decoder.output_hypernetworks_mlps[0].layers[-1].parameters()
        ):
            parameter.mul_(5)
        logits = model(torch.rand(1, channels, *config.window)).class_logits
        # A random network prefers one class for all of its queries; with this bias, half of the
        # queries prefer each class.
        preference = (logits[..., 1] - logits[..., 2]).median()
        bias = model.decoder.class_head.bias
        bias[1:3] += 3 - torch.stack([preference, -preference]) / 2
    normalization = (ChannelNormalization(),) * channels
    channel_names = tuple(f"MR{c}" for c in range(channels))
    plan = Plan("SAR", (2.0, 1.0, 1.0), config.window, normalization, channel_names)
    colors = (1.0, 0.8, 0.1), (0.1, 0.4, 0.9)
    labels = tuple(
        Label(value, class_name, color)
        for value, (class_name, color) in enumerate(zip(class_names, colors, strict=True), 1)
    )
    inference = InferenceSettings(mirror=(0,))
    save_bundle(folder, name, "Small", own_weights(model), config, plan, labels, inference, card)
    return folder

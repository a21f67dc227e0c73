"""Presets of the baseline U-Net and of the paper's ablations."""

from __future__ import annotations

from dataclasses import replace

from MaskSAMCore.presets.paper import ACDC
from MaskSAMCore.presets.small import TINY
from MaskSAMCore.research.ablations import ablations
from MaskSAMCore.research.unet.config import UNetConfig
from MaskSAMCore.research.unet.loss import LossSettings
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.preset import Preset

UNET = Preset(
    "unet",
    UNetConfig(num_classes=2),
    # nnU-Net's own training.
    TrainSettings(
        optimizer="sgd",
        learning_rate=1e-2,
        weight_decay=3e-5,
        schedule="poly",
        warm_up=0,
        iterations=250 * 1000,
        ema=0.0,
        loss=LossSettings(),
    ),
)


def _ablations(prefix: str, whole: Preset) -> tuple[Preset, ...]:
    return tuple(
        Preset(f"{prefix}_{name}", network, whole.training, whole.plan)
        for name, network in ablations(whole.network).items()
    )


def _prompt_forms(whole: Preset) -> tuple[Preset, ...]:
    """Return a preset with the forms of prompts of Figure 2 (a) to (c); its own is (d)."""
    return tuple(
        replace(whole, name=f"{whole.name}_{form}", network=whole.network.replace(prompts=form))
        for form in ("masks", "boxes", "both")
    )


PRESETS = (
    UNET,
    *_prompt_forms(TINY),
    *_ablations("ablation", TINY),
    *_ablations("acdc_ablation", ACDC),
)

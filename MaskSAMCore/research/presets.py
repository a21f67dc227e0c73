"""Presets of the networks that the paper compares with, and of its ablations."""

from __future__ import annotations

from dataclasses import replace

from MaskSAMCore.modeling import SAM_CONFIGS
from MaskSAMCore.presets.paper import ACDC
from MaskSAMCore.presets.small import TINY
from MaskSAMCore.research.ablations import ablations
from MaskSAMCore.research.sam_baselines.config import BaselineConfig
from MaskSAMCore.research.sam_baselines.loss import LossSettings as BaselineLoss
from MaskSAMCore.research.unet.config import UNetConfig
from MaskSAMCore.research.unet.loss import LossSettings as UNetLoss
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
        loss=UNetLoss(),
    ),
)


# Training settings of the public code; Docs/papers.md lists the sources and what they leave open.
_ADAPTED = TrainSettings(
    epsilon=1e-8, beta2=0.999, decay_all=True, clip=0.0, ema=0.0, loss=BaselineLoss()
)

SAMED = Preset(
    "samed",
    BaselineConfig(num_classes=3, sam=SAM_CONFIGS["vit_h"]),
    _ADAPTED.replace(
        learning_rate=5e-3,
        weight_decay=0.1,
        schedule="poly",
        iterations=18_600,
        batch=6,
    ),
)
MED_SA = Preset(
    "med_sa",
    BaselineConfig(
        num_classes=3,
        sam=SAM_CONFIGS["vit_h"],
        pixels=1024,
        encoder="space_depth",
        # The width is not published; this one gives the 13 M parameters of the paper's Table 6.
        adapter_dim=36,
    ),
    _ADAPTED.replace(
        learning_rate=1e-4, weight_decay=0.0, schedule="poly", exponent=0.0, warm_up=0
    ),
)
ADAPTER_3DSAM = Preset(
    "3dsam_adapter",
    BaselineConfig(
        num_classes=3, window=(256, 256, 256), encoder="volume", decoder="levels", channels=(128,)
    ),
    _ADAPTED.replace(
        learning_rate=4e-4,
        weight_decay=0.0,
        schedule="poly",
        exponent=1.0,
        warm_up=0,
        batch=1,
        clip=12.0,
        loss=BaselineLoss(cross_entropy=0.5, dice=0.5, background=False),
    ),
)
SAM3D = Preset(
    "sam3d",
    BaselineConfig(
        num_classes=3,
        window=(16, 160, 160),
        pixels=None,
        encoder="frozen",
        decoder="convolutions",
    ),
    # nnFormer's training.
    _ADAPTED.replace(
        optimizer="sgd",
        learning_rate=1e-2,
        weight_decay=3e-5,
        schedule="poly",
        epoch=250,
        warm_up=0,
        iterations=250 * 1000,
        clip=12.0,
        deformation="nnunet",
        loss=BaselineLoss(cross_entropy=1.0, dice=1.0, background=False),
    ),
)


def _small(preset: Preset, **network: object) -> Preset:
    """Return a small form of a preset, with the SAM, window and training of "tiny"."""
    loss = preset.training.loss
    return replace(
        preset,
        name=f"{preset.name}_tiny",
        network=preset.network.replace(
            num_classes=2,
            window=TINY.network.window,
            sam=SAM_CONFIGS["vit_t"],
            pixels=None,
            **network,
        ),
        training=TINY.training.replace(loss=loss),
    )


BASELINES = (SAMED, MED_SA, ADAPTER_3DSAM, SAM3D)
SMALL_BASELINES = (
    _small(SAMED),
    _small(MED_SA),
    _small(ADAPTER_3DSAM, adapter_dim=96, token_slices=2, channels=(64,)),
    _small(SAM3D),
)


def _ablations(prefix: str, whole: Preset) -> tuple[Preset, ...]:
    return tuple(
        Preset(f"{prefix}_{name}", network, whole.training, whole.plan)
        for name, network in ablations(whole.network).items()
    )


def _prompt_forms(whole: Preset) -> tuple[Preset, ...]:
    """Return copies of a preset with prompt forms (a) to (c) of Figure 2; its own form is (d)."""
    return tuple(
        replace(whole, name=f"{whole.name}_{form}", network=whole.network.replace(prompts=form))
        for form in ("masks", "boxes", "both")
    )


PRESETS = (
    UNET,
    *_ablations("ablation", TINY),
    *_ablations("acdc_ablation", ACDC),
    *_prompt_forms(TINY),
    *BASELINES,
    *SMALL_BASELINES,
)

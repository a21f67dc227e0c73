"""Presets of the paper's experiments (supplement, Table 5)."""

from __future__ import annotations

from MaskSAMCore.modeling import SAM_CONFIGS, MaskSAMConfig
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.losses.masksam import LossSettings
from MaskSAMCore.training.preset import Preset

# The class head needs no higher weight over the paper's 125,000 iterations and more.
_CLASSIFICATION = 0.2

_TRAINING = TrainSettings(
    optimizer="sgd",
    learning_rate=1e-3,
    weight_decay=3e-5,
    schedule="poly",
    warm_up=0,
    loss=LossSettings(classification=_CLASSIFICATION),
)

ACDC = Preset("acdc", MaskSAMConfig(num_classes=3, window=(4, 256, 256), queries=8), _TRAINING)

SYNAPSE = Preset(
    "synapse",
    MaskSAMConfig(
        num_classes=8,
        window=(26, 256, 256),
        queries=24,
        sam=SAM_CONFIGS["vit_h"],
        stem_channels=(8,),
        upsampling=1,
    ),
    _TRAINING.replace(iterations=250 * 1000),
)

AMOS = Preset(
    "amos",
    MaskSAMConfig(
        num_classes=15,
        window=(9, 512, 512),
        queries=24,
        sam=SAM_CONFIGS["vit_h"],
        stem_channels=(8,),
        upsampling=1,
    ),
    _TRAINING.replace(
        optimizer="adamw",
        epsilon=1e-4,
        iterations=250 * 1000,
        loss=LossSettings(classification=_CLASSIFICATION, mask_bce=1.2, mask_dice=1.2),
    ),
)

PRESETS = (ACDC, SYNAPSE, AMOS)

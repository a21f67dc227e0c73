"""Presets of the paper's experiments (supplement, Table 5), and the experiments as published.

Where the paper is silent, the published recipes follow the authors' public code.
"""

from __future__ import annotations

from dataclasses import replace

from MaskSAMCore.modeling import SAM_CONFIGS, MaskSAMConfig
from MaskSAMCore.modeling.configuration import Configuration
from MaskSAMCore.modeling.prompted.config import PromptedConfig
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.losses.masksam import LossSettings
from MaskSAMCore.training.losses.prompted import LossSettings as PromptedLossSettings
from MaskSAMCore.training.losses.prompting import PromptSettings
from MaskSAMCore.training.preset import Preset

# Over the paper's 125,000 iterations or more, the class head needs no higher weight.
_CLASSIFICATION = 0.2

_TRAINING = TrainSettings(
    optimizer="sgd",
    learning_rate=1e-3,
    weight_decay=3e-5,
    schedule="poly",
    warm_up=0,
    loss=LossSettings(classification=_CLASSIFICATION),
)

# The paper's loss is that of the matched pairs alone (Equation 1), and every prompt is a proposal.
_PUBLISHED_LOSS = LossSettings(
    classification=_CLASSIFICATION,
    semantic=0.0,
    each_window=True,
    prompts=PromptSettings(share=0.0),
)
# Published augmentation, schedule by epochs of 250 iterations, and weights that are not averaged.
_PUBLISHED = {
    "beta2": 0.999,
    "decay_all": True,
    "epoch": 250,
    "ema": 0.0,
    "deformation": "nnunet",
    "tta": "mirror",
}


def _published(preset: Preset, loss: Configuration, **network: object) -> Preset:
    """Return a preset's experiment as it was published."""
    changes = {
        "stem_norms": True,
        "dense_decoder_position": True,
        "generator_grid": "window",
        "mask_prompt": "binary",
        **network,
    }
    return replace(
        preset,
        network=preset.network.replace(**changes),
        training=preset.training.replace(**_PUBLISHED, loss=loss),
        recipe="paper",
    )


def _prompted(preset: Preset) -> Preset:
    """Return a preset without the prompt generator (supplement, section 6)."""
    values = {**preset.network.to_dict(), "queries": preset.network.num_classes + 1}
    return replace(
        preset,
        name=f"{preset.name}_prompted",
        network=PromptedConfig.from_dict(values),
        training=preset.training.replace(loss=PromptedLossSettings(classification=_CLASSIFICATION)),
        published=None if preset.published is None else _prompted(preset.published),
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

ACDC = replace(ACDC, published=_published(ACDC, _PUBLISHED_LOSS))
SYNAPSE = replace(SYNAPSE, published=_published(SYNAPSE, _PUBLISHED_LOSS, mask_upscaling="learned"))
AMOS = replace(
    AMOS,
    published=_published(
        AMOS,
        _PUBLISHED_LOSS.replace(mask_bce=1.2, mask_dice=1.2),
        mask_upscaling="learned",
    ),
)
ACDC_PROMPTED, SYNAPSE_PROMPTED = _prompted(ACDC), _prompted(SYNAPSE)

PRESETS = (ACDC, SYNAPSE, AMOS, ACDC_PROMPTED, SYNAPSE_PROMPTED)

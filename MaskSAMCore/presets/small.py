"""Presets of the bundled models, which are trained on an ordinary computer."""

from __future__ import annotations

from MaskSAMCore.modeling import SAM_CONFIGS, MaskSAMConfig
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.losses.masksam import LossSettings
from MaskSAMCore.training.losses.prompting import PromptSettings
from MaskSAMCore.training.preset import PlanConstraints, Preset

TINY = Preset(
    "tiny",
    MaskSAMConfig(
        num_classes=2,
        window=(16, 40, 56),
        queries=4,
        sam=SAM_CONFIGS["vit_t"],
        stem_channels=(32, 64, 128),
        upsampling=1,
        stem_pyramid=True,
        generator_channels=(128, 64, 32),
    ),
    TrainSettings(
        learning_rate=2e-3,
        warm_up=200,
        iterations=8000,
        clip=5.0,
        mirror=(0,),
        loss=LossSettings(prompts=PromptSettings(share=0.3, jitter=0.05)),
    ),
)

# Users draw tight boxes, loose boxes and boxes that hold only a part of a class.
_PROMPTS = PromptSettings(share=0.5, drop_mask=0.0, jitter=0.03, growth=0.15, partial=0.15)

# The window holds a whole hippocampus.
COMPACT = Preset(
    "compact",
    TINY.network.replace(
        window=(40, 44, 56),
        sam=SAM_CONFIGS["vit_t"].replace(
            embed_dim=128, num_heads=4, prompt_dim=64, decoder_mlp_dim=128, decoder_heads=2
        ),
        stem_channels=(32, 48, 96),
        prompts="masks",
        mask_prompt="box",
        box_kinds=True,
        generator_channels=(96, 48, 32),
        generator_joins="sum",
        generator_maps=True,
    ),
    TINY.training.replace(
        loss=LossSettings(prompts=_PROMPTS.replace(repeats=2)),
        generator_first=0.4,
    ),
)

# Encoder and prompt generator come from a model of the preset "compact" and are not trained.
COMPACT_DECODER = Preset(
    "compact_decoder",
    COMPACT.network,
    COMPACT.training.replace(
        learning_rate=1.5e-3,
        generator_first=0.0,
        decoder_alone=True,
        loss=LossSettings(prompts=_PROMPTS.replace(repeats=4)),
    ),
)

BRAIN = Preset(
    "brain",
    MaskSAMConfig(
        num_classes=31,
        window=(40, 88, 80),
        queries=32,
        sam=SAM_CONFIGS["vit_t"].replace(
            patch_size=8, prompt_dim=64, decoder_mlp_dim=128, decoder_heads=2
        ),
        stem_channels=(16, 32, 64, 128),
        detail_channels=32,
        residual_masks=True,
        prototypes=16,
        upsampling=1,
        stem_pyramid=True,
        mask_prompt="box",
        box_kinds=True,
        generator_channels=(128, 64, 32),
        generator_maps=True,
    ),
    TrainSettings(
        learning_rate=2e-3,
        warm_up=200,
        iterations=60_000,
        batch=1,
        clip=5.0,
        foreground_share=0.8,
        mirror=(),
        loss=LossSettings(prompts=_PROMPTS, affinity=4.0),
        generator_first=0.5,
        common_contrasts=0.5,
        contrast_ramp=0.5,
    ),
    PlanConstraints(orientation="SAR", spacing=(2.0, 2.0, 2.0)),
)

PRESETS = (TINY, COMPACT, COMPACT_DECODER, BRAIN)

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

# The encoder and the prompt generator come from a model of the preset "tiny", and stay as they are.
TINY_DECODER = Preset(
    "tiny_decoder",
    TINY.network.replace(mask_prompt="box", box_kinds=True, generator_maps=True, prompts="masks"),
    TINY.training.replace(
        learning_rate=1.5e-3,
        decoder_alone=True,
        loss=LossSettings(
            prompts=PromptSettings(
                share=0.5, drop_mask=0.0, jitter=0.03, growth=0.15, partial=0.15, repeats=4
            )
        ),
    ),
)

BRAIN = Preset(
    "brain",
    MaskSAMConfig(
        num_classes=29,
        window=(40, 88, 80),
        queries=30,
        sam=SAM_CONFIGS["vit_t"].replace(
            patch_size=8, prompt_dim=64, decoder_mlp_dim=128, decoder_heads=2
        ),
        stem_channels=(16, 32, 64, 128),
        detail_channels=32,
        residual_masks=True,
        prototypes=16,
        upsampling=1,
        stem_pyramid=True,
        generator_channels=(128, 64, 32),
    ),
    TrainSettings(
        learning_rate=2e-3,
        warm_up=200,
        iterations=60_000,
        batch=1,
        clip=5.0,
        foreground_share=0.8,
        mirror=(),
        loss=LossSettings(prompts=PromptSettings(share=0.3, jitter=0.05), affinity=4.0),
        generator_first=0.7,
        common_contrasts=0.5,
        contrast_ramp=0.5,
    ),
    PlanConstraints(orientation="SAR", spacing=(2.0, 2.0, 2.0)),
)

PRESETS = (TINY, TINY_DECODER, BRAIN)

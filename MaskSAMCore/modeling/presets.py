"""Network presets: the supplement's Table 5, and the small one of the bundled model."""

from __future__ import annotations

from dataclasses import replace

from .config import SAM_CONFIGS, MaskSAMConfig

PRESETS: dict[str, MaskSAMConfig] = {
    "tiny": MaskSAMConfig(
        num_classes=2,
        window=(16, 40, 56),
        queries=4,
        sam=SAM_CONFIGS["vit_t"],
        stem_channels=(32, 64, 128),
        upsampling=1,
        stem_pyramid=True,
        generator_channels=(128, 64, 32),
    ),
    "brain": MaskSAMConfig(
        num_classes=29,
        window=(24, 96, 96),
        queries=32,
        sam=replace(
            SAM_CONFIGS["vit_t"], patch=8, prompt_dim=64, decoder_mlp_dim=128, decoder_heads=2
        ),
        stem_channels=(16, 32, 64, 128),
        detail_channels=16,
        upsampling=1,
        stem_pyramid=True,
        generator_channels=(128, 64, 32),
    ),
    "acdc": MaskSAMConfig(num_classes=3, window=(4, 256, 256), queries=8),
    "synapse": MaskSAMConfig(
        num_classes=8,
        window=(26, 256, 256),
        queries=24,
        sam=SAM_CONFIGS["vit_h"],
        stem_channels=(8,),
        upsampling=1,
    ),
    "amos": MaskSAMConfig(
        num_classes=15,
        window=(9, 512, 512),
        queries=24,
        sam=SAM_CONFIGS["vit_h"],
        stem_channels=(8,),
        upsampling=1,
    ),
}


def preset(name: str, **changes: object) -> MaskSAMConfig:
    """A preset by name, with some fields changed.

    Raises:
        ValueError: there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset '{name}': choose one of {', '.join(PRESETS)}")
    return PRESETS[name].replace(**changes)


def paper_parity(name: str) -> MaskSAMConfig:
    """A preset with the choices of the published modules that its parameter counts include."""
    return preset(name, dense_decoder_position=True)

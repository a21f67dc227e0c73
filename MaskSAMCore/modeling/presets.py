"""Network presets: the supplement's Table 5, the small ones of the bundled models, the ablations of
the paper's Table 4, MA-SAM, and a U-Net to compare with."""

from __future__ import annotations

from dataclasses import replace

from MaskSAMCore.modeling.masam.config import MASamConfig
from MaskSAMCore.modeling.masksam.config import SAM_CONFIGS, MaskSAMConfig
from MaskSAMCore.modeling.registry import NetworkConfig
from MaskSAMCore.research.ablations import ablations
from MaskSAMCore.research.unet.config import UNetConfig

# The configurations that ablations are made of, by the beginning of their names.
ABLATED = {"ablation": "tiny", "acdc_ablation": "acdc"}

_MASKSAM: dict[str, MaskSAMConfig] = {
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
        window=(40, 88, 80),
        queries=30,
        sam=replace(
            SAM_CONFIGS["vit_t"], patch=8, prompt_dim=64, decoder_mlp_dim=128, decoder_heads=2
        ),
        stem_channels=(16, 32, 64, 128),
        detail_channels=32,
        residual_masks=True,
        prototypes=16,
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

for _prefix, _base in ABLATED.items():
    _MASKSAM.update(ablations(_prefix, _MASKSAM[_base]))

PRESETS: dict[str, NetworkConfig] = {
    **_MASKSAM,
    "masam_tiny": MASamConfig(
        num_classes=2,
        window=(5, 64, 64),
        sam=SAM_CONFIGS["vit_t"],
        pixels=None,
        rank=8,
        adapter_dim=64,
    ),
    "masam_b": MASamConfig(num_classes=13),
    "masam_h": MASamConfig(num_classes=13, sam=SAM_CONFIGS["vit_h"]),
    "unet": UNetConfig(num_classes=2),
}


def preset(name: str, **changes: object) -> NetworkConfig:
    """A preset by name, with some fields changed.

    Raises:
        ValueError: there is no such preset, or no such field.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset '{name}': choose one of {preset_names()}")
    try:
        return PRESETS[name].replace(**changes)
    except TypeError as error:
        raise ValueError(f"preset '{name}' cannot be changed so: {error}") from error


def preset_names() -> str:
    """The presets in one line, the ablations as ranges."""
    ranges = {f"{prefix}_b1": f"{prefix}_b1 to {prefix}_b9" for prefix in ABLATED}
    ends = tuple(f"_b{n}" for n in range(2, 10))
    names = [ranges.get(name, name) for name in PRESETS]
    return ", ".join(name for name in names if not name.endswith(ends) or " to " in name)


def paper_parity(name: str) -> MaskSAMConfig:
    """A preset with the choices of the published modules that its parameter counts include."""
    return _MASKSAM[name].replace(dense_decoder_position=True)

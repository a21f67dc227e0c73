"""Presets of MA-SAM: those of its paper, and a small one."""

from __future__ import annotations

from MaskSAMCore.modeling import SAM_CONFIGS, MASamConfig, SamConfig
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.losses.masam import LossSettings
from MaskSAMCore.training.preset import PlanConstraints, Preset

_ABDOMEN = PlanConstraints(ct_window=(-200.0, 250.0))

# The published schedule over 400 epochs of BTCV.
_TRAINING = TrainSettings(
    learning_rate=8e-4,
    weight_decay=0.1,
    schedule="poly",
    exponent=7.0,
    warm_up=250,
    iterations=50_000,
    loss=LossSettings(box_share=0.3, box_jitter=0.1),
)

MASAM_TINY = Preset(
    "masam_tiny",
    MASamConfig(
        num_classes=2,
        window=(5, 64, 64),
        sam=SAM_CONFIGS["vit_t"],
        pixels=None,
        rank=8,
        adapter_dim=64,
    ),
    # Trained from scratch in minutes: an exponent of 7 would decay the rate to 1 % halfway through.
    _TRAINING.replace(
        learning_rate=2e-3, weight_decay=0.05, exponent=0.9, iterations=8000, mirror=(0,)
    ),
    _ABDOMEN,
)

# As published: 3 stacks on each of 8 GPUs with averaged losses, and no ground-truth boxes.
_PUBLISHED = _TRAINING.replace(
    epsilon=1e-8,
    beta2=0.999,
    decay_all=True,
    batch=24,
    clip=0.0,
    ema=0.0,
    augmentation_kind="masam",
    loss=LossSettings(box_share=0.0, each_window=True),
)


def _preset(name: str, sam: SamConfig) -> Preset:
    network = MASamConfig(num_classes=13, sam=sam)
    published = Preset(
        name, network.replace(upscaling_norm=True), _PUBLISHED, _ABDOMEN, recipe="paper"
    )
    return Preset(name, network, _TRAINING, _ABDOMEN, published)


MASAM_B = _preset("masam_b", SAM_CONFIGS["vit_b"])
MASAM_H = _preset("masam_h", SAM_CONFIGS["vit_h"])

PRESETS = (MASAM_TINY, MASAM_B, MASAM_H)

"""How a model is trained: one dataclass, with presets named like the networks'."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from MaskSAMCore.modeling.presets import ABLATED
from MaskSAMCore.training.losses.masksam import LossSettings, LossWeights
from MaskSAMCore.training.losses.prompting import PromptSettings


@dataclass(frozen=True)
class TrainSettings:
    """Hyperparameters of a training.

    Attributes:
        optimizer: "adamw", or "sgd" with Nesterov momentum 0.99 (the paper's for ACDC, Synapse, and
            nnU-Net's).
        epsilon: of AdamW; larger than usual, for mixed precision.
        learning_rate, weight_decay: at the start; biases and norms never decay.
        schedule: "cosine" or "poly", over the time budget where there is one, else over
            ``iterations``.
        exponent: of "poly".
        warm_up: iterations of linear increase at the start.
        iterations: how many there are without a time budget.
        batch: windows a step and device.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights, which are those validated and kept; 0 keeps the weights
            as they are.
        foreground_share: share of windows centred on a foreground voxel.
        augmentation: strength, a share of the full ranges and probabilities; 0 is none.
        contrast: share of windows that get another contrast, for use on other scanners' images.
        mirror: mirrored axes of a window (0 depth, 1 rows, 2 columns).
        generator_first: share of the training, its beginning, in which the encoder and the prompt
            generator alone learn, query k to show class k: with many classes the decoder costs four
            fifths of a step, and has nothing to learn from before there are masks.
        common_contrasts: share of synthesised images with one of the contrasts that the labelmaps'
            description names; the others' are random.
        contrast_ramp: share of the training, its beginning, over which that share falls from all:
            what is where is learned many times faster so.
        loss: weights of the losses and the share of prompts from ground truth.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    epsilon: float = 1e-6
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    schedule: Literal["cosine", "poly"] = "cosine"
    exponent: float = 0.9
    warm_up: int = 250
    iterations: int = 250 * 500
    batch: int = 2
    clip: float = 12.0
    ema: float = 0.998
    foreground_share: float = 1 / 3
    augmentation: float = 1.0
    contrast: float = 0.0
    mirror: tuple[int, ...] = (0, 1, 2)
    generator_first: float = 0.0
    common_contrasts: float = 0.0
    contrast_ramp: float = 0.0
    loss: LossSettings = field(default_factory=LossSettings)

    def replace(self, **changes: Any) -> TrainSettings:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainSettings:
        """Inverse of :meth:`to_dict`; an unknown key is a ValueError that names it."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"unknown training setting(s): {', '.join(unknown)}")
        loss = values["loss"]
        weights, prompts = LossWeights(**loss["weights"]), PromptSettings(**loss["prompts"])
        parts = LossSettings(**{**loss, "weights": weights, "prompts": prompts})
        return cls(**{**values, "loss": parts, "mirror": tuple(values["mirror"])})


# Lower than ours: over the paper's 125,000 iterations and more the class head needs no haste.
_PAPER_CLASSIFICATION = 0.2

_PAPER = TrainSettings(
    optimizer="sgd",
    learning_rate=1e-3,
    weight_decay=3e-5,
    schedule="poly",
    warm_up=0,
    loss=LossSettings(LossWeights(classification=_PAPER_CLASSIFICATION)),
)

# MA-SAM's own: its published schedule over 400 epochs of BTCV.
_MASAM = TrainSettings(
    learning_rate=8e-4,
    weight_decay=0.1,
    schedule="poly",
    exponent=7.0,
    warm_up=250,
    iterations=250 * 200,
    loss=LossSettings(prompts=PromptSettings(share=0.3, jitter=0.1)),
)

# nnU-Net's own.
_UNET = TrainSettings(
    optimizer="sgd",
    learning_rate=1e-2,
    weight_decay=3e-5,
    schedule="poly",
    warm_up=0,
    iterations=250 * 1000,
    ema=0.0,
    loss=LossSettings(LossWeights(cross_entropy=1.0, dice=1.0)),
)

# What a preset fixes of the plan, whatever the dataset is like. "ct_window" holds for CT alone.
_ABDOMEN = {"ct_window": (-200.0, 250.0)}
FIXED: dict[str, dict[str, Any]] = {
    "brain": {"orientation": "SAR", "spacing": (2.0, 2.0, 2.0)},
    **dict.fromkeys(("masam_tiny", "masam_b", "masam_h"), _ABDOMEN),
}

SETTINGS: dict[str, TrainSettings] = {
    "tiny": TrainSettings(
        learning_rate=2e-3,
        warm_up=200,
        iterations=8000,
        clip=5.0,
        mirror=(0,),
        loss=LossSettings(prompts=PromptSettings(share=0.3, jitter=0.05)),
    ),
    "brain": TrainSettings(
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
    "acdc": _PAPER,
    "synapse": _PAPER.replace(iterations=250 * 1000),
    "amos": _PAPER.replace(
        optimizer="adamw",
        epsilon=1e-4,
        iterations=250 * 1000,
        loss=LossSettings(
            LossWeights(classification=_PAPER_CLASSIFICATION, mask_bce=1.2, mask_dice=1.2)
        ),
    ),
    # From nothing in minutes: the published rate falls to a hundredth by half of the time.
    "masam_tiny": _MASAM.replace(
        learning_rate=2e-3, weight_decay=0.05, exponent=0.9, iterations=8000, mirror=(0,)
    ),
    "masam_b": _MASAM,
    "masam_h": _MASAM,
    "unet": _UNET,
}
for _prefix, _base in ABLATED.items():
    SETTINGS.update({f"{_prefix}_b{n}": SETTINGS[_base] for n in range(1, 10)})

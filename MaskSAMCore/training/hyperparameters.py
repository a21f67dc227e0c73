"""Hyperparameters of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from MaskSAMCore.data.augmentation import AugmentationKind, Deformation
from MaskSAMCore.modeling.configuration import Configuration
from MaskSAMCore.training.losses import read_loss_settings
from MaskSAMCore.training.losses.masksam import LossSettings

_SHARES = (
    "beta2",
    "ema",
    "foreground_share",
    "contrast",
    "acquisition",
    "generator_first",
    "common_contrasts",
    "contrast_ramp",
)
_AT_LEAST_0 = (
    "learning_rate",
    "weight_decay",
    "exponent",
    "warm_up",
    "clip",
    "augmentation",
    "validation_minutes",
)
_AT_LEAST_1 = ("epoch", "iterations", "batch")


@dataclass(frozen=True)
class TrainSettings(Configuration):
    """Hyperparameters of a training.

    Attributes:
        optimizer: "adamw", or "sgd" with Nesterov momentum 0.99 (the paper's for ACDC and Synapse,
            and nnU-Net's).
        epsilon: epsilon of AdamW, larger than usual because of mixed precision.
        beta2: decay of AdamW's running mean of squared gradients.
        learning_rate: learning rate after the warm-up.
        weight_decay: weight decay.
        decay_all: apply weight decay to biases and norms, too, as in nnU-Net and most published
            trainings.
        schedule: "cosine" or "poly", over the time budget if there is one, else over the
            iterations.
        exponent: exponent of the "poly" schedule.
        epoch: number of iterations between two changes of the learning rate.
        warm_up: number of iterations with a linearly increasing learning rate at the start.
        iterations: number of iterations of a training without a time budget.
        batch: number of windows for each step, over all devices and the parts of an accumulated
            step.
        clip: largest norm of the gradient; 0 does not limit it.
        ema: decay of the averaged weights, which are validated and kept; 0 keeps the weights
            themselves.
        foreground_share: share of windows centred on a foreground voxel.
        augmentation: strength of the augmentation, as a factor of its ranges and probabilities; 0
            means none.
        augmentation_kind: "nnunet", or "masam" for MA-SAM's own augmentation of slices; with it,
            ``deformation``, ``contrast``, ``acquisition`` and ``mirror`` have no effect.
        deformation: "frequent" rotation, scaling and elastic deformation, for few cases, or
            "nnunet", as frequent as in nnU-Net, which has no elastic deformation.
        contrast: share of windows that get another contrast, for images of other scanners.
        acquisition: share of windows with a shade, as of a receive coil, and share with thick
            slices.
        mirror: axes of a window that are mirrored at random (0 depth, 1 rows, 2 columns).
        tta: test-time augmentation of the exported model, unless its user chooses another: "none",
            or "mirror" for all combinations of the mirrored axes.
        generator_first: share of the training, from its start, in which only the encoder and the
            prompt generator are trained, with query k for class k. With many classes the decoder
            takes four fifths of a step and learns little before the proposals are good.
        decoder_alone: train the decoder alone; the encoder and the prompt generator keep their
            initial weights.
        common_contrasts: share of synthesised images that have one of the contrasts named in the
            description of the labelmaps; the others have random contrasts.
        contrast_ramp: share of the training, from its start, over which the share of common
            contrasts falls from 1 to ``common_contrasts``. The positions of structures are learned
            many times faster with common contrasts.
        validation_share: largest share of the time that validations may take.
        validation_minutes: least time between two validations in minutes.
        loss: settings of the network's loss.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    epsilon: float = 1e-6
    beta2: float = 0.99
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    decay_all: bool = False
    schedule: Literal["cosine", "poly"] = "cosine"
    exponent: float = 0.9
    epoch: int = 1
    warm_up: int = 250
    iterations: int = 250 * 500
    batch: int = 2
    clip: float = 12.0
    ema: float = 0.998
    foreground_share: float = 1 / 3
    augmentation: float = 1.0
    augmentation_kind: AugmentationKind = "nnunet"
    deformation: Deformation = "frequent"
    contrast: float = 0.0
    acquisition: float = 0.0
    mirror: tuple[int, ...] = (0, 1, 2)
    tta: Literal["none", "mirror"] = "none"
    generator_first: float = 0.0
    decoder_alone: bool = False
    common_contrasts: float = 0.0
    contrast_ramp: float = 0.0
    validation_share: float = 0.1
    validation_minutes: float = 4.0
    loss: Configuration = field(default_factory=LossSettings)

    def __post_init__(self) -> None:
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1")
        for name in _AT_LEAST_0:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        for name in _AT_LEAST_1:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not 0 < self.validation_share <= 1:
            raise ValueError("validation_share must be more than 0 and at most 1")
        if self.generator_first == 1:
            raise ValueError("generator_first must be less than 1: no time would be left to decode")
        if self.ema == 1 or self.beta2 == 1:
            raise ValueError("a decay of 1 would keep the first values for ever: choose less")
        if not set(self.mirror) <= {0, 1, 2}:
            raise ValueError("mirror must name axes of a window: 0 depth, 1 rows, 2 columns")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], kind: str = "masksam") -> TrainSettings:
        """Build settings from the plain types of :meth:`to_dict`.

        Args:
            values: fields of the settings.
            kind: kind of the network that is trained, which has its own loss settings.

        Raises:
            ValueError: a key or the network is unknown.
        """
        loss = read_loss_settings(values["loss"], kind)
        return super().from_dict({**values, "loss": loss})

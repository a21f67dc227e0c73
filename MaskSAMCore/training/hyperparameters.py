"""Hyperparameters of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from MaskSAMCore.modeling.configuration import Configuration
from MaskSAMCore.training.losses import read_loss_settings
from MaskSAMCore.training.losses.masksam import LossSettings


@dataclass(frozen=True)
class TrainSettings(Configuration):
    """Hyperparameters of a training.

    Attributes:
        optimizer: "adamw", or "sgd" with Nesterov momentum 0.99 (the paper's for ACDC and Synapse,
            and nnU-Net's).
        epsilon: epsilon of AdamW, larger than usual because of mixed precision.
        learning_rate: learning rate after the warm-up.
        weight_decay: weight decay; biases and norms never decay.
        schedule: "cosine" or "poly", over the time budget if there is one, else over the
            iterations.
        exponent: exponent of the "poly" schedule.
        warm_up: number of iterations with a linearly increasing learning rate at the start.
        iterations: number of iterations of a training without a time budget.
        batch: number of windows for each step and device.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights, which are validated and kept; 0 keeps the weights
            themselves.
        foreground_share: share of windows centred on a foreground voxel.
        augmentation: strength of the augmentation, as a factor of its ranges and probabilities; 0
            means none.
        contrast: share of windows that get another contrast, for images of other scanners.
        mirror: axes of a window that are mirrored at random (0 depth, 1 rows, 2 columns).
        generator_first: share of the training, from its start, in which only the encoder and the
            prompt generator are trained, with query k for class k. With many classes the decoder
            takes four fifths of a step and learns little before the proposals are good.
        common_contrasts: share of synthesised images that have one of the contrasts named in the
            description of the labelmaps; the others have random contrasts.
        contrast_ramp: share of the training, from its start, over which the share of common
            contrasts falls from 1 to ``common_contrasts``. The positions of structures are learned
            many times faster with common contrasts.
        loss: settings of the network's loss.
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
    loss: Configuration = field(default_factory=LossSettings)

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

"""Presets: a network, its hyperparameters, and constraints on the plan."""

from __future__ import annotations

from dataclasses import dataclass

from MaskSAMCore.modeling import NetworkConfig
from MaskSAMCore.modeling.configuration import Configuration
from MaskSAMCore.training.hyperparameters import TrainSettings


@dataclass(frozen=True)
class PlanConstraints(Configuration):
    """Parts of the plan that do not depend on the dataset; None leaves a part to planning.

    Attributes:
        orientation: directions of depth, rows and columns, for example "RSA".
        spacing: mm along depth, rows and columns.
        ct_window: lowest and highest intensity of CT images in Hounsfield units.
    """

    orientation: str | None = None
    spacing: tuple[float, float, float] | None = None
    ct_window: tuple[float, float] | None = None


@dataclass(frozen=True)
class Preset:
    """Description of a training, apart from the dataset.

    Attributes:
        name: name for the command line and for ``run.json``.
        network: configuration of the network, adapted to the dataset before training.
        training: hyperparameters.
        plan: constraints on the plan.
    """

    name: str
    network: NetworkConfig
    training: TrainSettings
    plan: PlanConstraints = PlanConstraints()

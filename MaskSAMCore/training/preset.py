"""Presets: a network, its hyperparameters, and constraints on the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from MaskSAMCore.data.planning import LARGEST_MM
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import axis_mapping
from MaskSAMCore.modeling import NetworkConfig
from MaskSAMCore.modeling.configuration import Configuration
from MaskSAMCore.training.hyperparameters import TrainSettings

Recipe = Literal["ours", "paper"]


@dataclass(frozen=True)
class PlanConstraints(Configuration):
    """Parts of the plan that do not depend on the dataset; None leaves a part to planning.

    Attributes:
        orientation: directions of depth, rows and columns, for example "RSA".
        spacing: mm along depth, rows and columns.
        ct_window: lowest and highest intensity of CT images in Hounsfield units.

    Raises:
        MaskSAMError: the orientation does not name each direction once, the spacing is out of
            range, or the window of intensities is empty.
    """

    orientation: str | None = None
    spacing: tuple[float, float, float] | None = None
    ct_window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.orientation is not None:
            axis_mapping(np.eye(4), self.orientation)
        # The comparison is false for NaN, too.
        if self.spacing is not None and not all(0 < mm < LARGEST_MM for mm in self.spacing):
            raise MaskSAMError(
                f"the spacing must be between 0 and {LARGEST_MM:g} mm, not {self.spacing}"
            )
        if self.ct_window is not None and not self.ct_window[0] < self.ct_window[1]:
            raise MaskSAMError(
                f"ct_window must be a lowest and a higher intensity, not {self.ct_window}"
            )


@dataclass(frozen=True)
class Preset:
    """Description of a training, apart from the dataset.

    Attributes:
        name: name for the command line and for ``run.json``.
        network: configuration of the network, adapted to the dataset before training.
        training: hyperparameters.
        plan: constraints on the plan.
        published: preset with the experiment's settings as published in its paper, or None.
        recipe: "ours", or "paper" for a published experiment.
        changes: settings that the user changed, by their names in ``--set``.
    """

    name: str
    network: NetworkConfig
    training: TrainSettings
    plan: PlanConstraints = PlanConstraints()
    published: Preset | None = None
    recipe: Recipe = "ours"
    changes: Mapping[str, Any] = field(default_factory=dict)

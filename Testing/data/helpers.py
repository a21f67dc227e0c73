"""Plans and prepared cases of generated volumes."""

from __future__ import annotations

import numpy as np

from MaskSAMCore.data import ChannelNormalization, Plan, preprocess
from MaskSAMCore.data.windows import IndexedCase
from MaskSAMCore.geometry import Volume
from Testing.helpers.generated import generated_case

ISOTROPIC = (1.0, 1.0, 1.0)
WINDOW = (8, 16, 16)


def plan_of(window: tuple[int, int, int] = WINDOW, channels: int = 1) -> Plan:
    """Return a plan with voxels of 1 mm."""
    names = tuple(f"MR{n}" for n in range(channels))
    return Plan("SAR", ISOTROPIC, window, (ChannelNormalization(),) * channels, names)


def prepared_cases(channels: int = 1) -> list[IndexedCase]:
    """Return two generated cases, each channel a multiple of the first."""
    cases = []
    for seed in range(2):
        image, label = generated_case(seed)
        volumes = [Volume(image * (channel + 1), np.eye(4)) for channel in range(channels)]
        prepared = preprocess(volumes, plan_of(channels=channels), label)
        cases.append(IndexedCase.from_case(prepared))
    return cases

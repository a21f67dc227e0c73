"""A small MaskSAM without the prompt generator."""

from __future__ import annotations

from MaskSAMCore.modeling.prompted import Config
from Testing.helpers.networks import SMALL_SAM


def small_prompted_config(**changes: object) -> Config:
    """Return a configuration that runs in milliseconds on a (5, 16, 20) window."""
    values = {
        "num_classes": 2,
        "window": (5, 16, 20),
        "queries": 3,
        "sam": SMALL_SAM,
        "stem_channels": (8,),
        "upsampling": 1,
    }
    return Config(**{**values, **changes})  # type: ignore[arg-type]

"""Presets, one file for each family.

The presets of ``MaskSAMCore.research`` are found as well where that package is installed.
"""

from __future__ import annotations

import importlib
import importlib.util

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.presets import masam, paper, small
from MaskSAMCore.training.preset import Preset

# The package is found by name instead of imported, because not every installation has it.
_RESEARCH = "MaskSAMCore.research"


def all_presets() -> dict[str, Preset]:
    """Return all presets by name."""
    presets = [*small.PRESETS, *paper.PRESETS, *masam.PRESETS]
    if importlib.util.find_spec(_RESEARCH) is not None:
        presets += importlib.import_module(f"{_RESEARCH}.presets").PRESETS
    return {preset.name: preset for preset in presets}


def find_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        MaskSAMError: there is no such preset.
    """
    presets = all_presets()
    if name not in presets:
        raise MaskSAMError(f"unknown preset '{name}': choose one of {preset_names()}")
    return presets[name]


def preset_names() -> str:
    """Return the names of all presets in one line, ablations as ranges."""
    names = []
    for name in all_presets():
        family, _, number = name.rpartition("_b")
        if not family.endswith("ablation"):
            names.append(name)
        elif number == "1":
            names.append(f"{name} to {family}_b9")
    return ", ".join(names)

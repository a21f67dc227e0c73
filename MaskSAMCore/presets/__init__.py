"""Presets, one file for each family.

The presets of ``MaskSAMCore.research`` are included if that package is installed.
"""

from __future__ import annotations

import importlib
import importlib.util

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.presets import masam, paper, small
from MaskSAMCore.training.preset import Preset, Recipe

# The package is found by name instead of imported, because not every installation has it.
_RESEARCH = "MaskSAMCore.research"


def all_presets() -> dict[str, Preset]:
    """Return all presets by name."""
    presets = [*small.PRESETS, *paper.PRESETS, *masam.PRESETS]
    if importlib.util.find_spec(_RESEARCH) is not None:
        presets += importlib.import_module(f"{_RESEARCH}.presets").PRESETS
    return {preset.name: preset for preset in presets}


def find_preset(name: str, recipe: Recipe = "ours") -> Preset:
    """Return a preset by name.

    Args:
        name: name of the preset.
        recipe: "ours", or "paper" for the experiment as it was published.

    Raises:
        MaskSAMError: there is no such preset, or its experiment was never published.
    """
    presets = all_presets()
    if name not in presets:
        raise MaskSAMError(f"unknown preset '{name}': choose one of {preset_names()}")
    if recipe == "ours":
        return presets[name]
    published = presets[name].published
    if published is None:
        known = ", ".join(preset.name for preset in presets.values() if preset.published)
        raise MaskSAMError(
            f"preset '{name}' has no published recipe: choose one of {known}, or --recipe ours"
        )
    return published


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

"""Choice between the host's replacements and Slicer's own Python files.

With ``SLICER_SOURCE=<checkout of Slicer>``, the checkout's ``ScriptedLoadableModule``,
``parameterNodeWrapper`` and ``i18n`` are used instead of the replacements. ``slicer.util`` is
Slicer's own in both cases, since slicer-core ships it.
"""

from __future__ import annotations

import importlib
import os
import sys

import slicer

_STAND_INS = {
    "i18n": "i18n",
    "ScriptedLoadableModule": "scriptedloadablemodule",
    "parameterNodeWrapper": "parameters",
}
# Modules that slicer-core's wheel names differently from the application.
_KITS = ("MRMLCore", "MRMLLogic", "MRMLDisplayableManager", "vtkSegmentationCore")


def checkout() -> str | None:
    """Return the folder of Slicer's Python files that ``SLICER_SOURCE`` names, or None."""
    source = os.environ.get("SLICER_SOURCE")
    if not source:
        return None
    folder = os.path.join(source, "Base", "Python", "slicer")
    if not os.path.isfile(os.path.join(folder, "ScriptedLoadableModule.py")):
        raise FileNotFoundError(f"SLICER_SOURCE: {folder} has no Slicer Python files")
    return folder


def install() -> None:
    """Make ``slicer.i18n``, ``ScriptedLoadableModule`` and ``parameterNodeWrapper`` importable."""
    folder = checkout()
    if folder is not None:
        slicer.__path__.append(folder)
        for kit in _KITS:
            sys.modules.setdefault(kit + "Python", importlib.import_module(f"slicer_core.{kit}"))
    for public, private in _STAND_INS.items():
        if folder is not None:
            module = importlib.import_module(f"slicer.{public}")
        else:
            module = importlib.import_module(f".{private}", __package__)
            sys.modules[f"slicer.{public}"] = module
        setattr(slicer, public, module)

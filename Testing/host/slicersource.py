"""Which Python files of Slicer's own the host uses: its stand-ins, or a checkout's.

``SLICER_SOURCE=<checkout of Slicer>`` puts the checkout's ``ScriptedLoadableModule``,
``parameterNodeWrapper`` and ``i18n`` in the place of the stand-ins, unchanged. ``slicer.util`` is
Slicer's own in both cases: slicer-core ships it.
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
# What slicer-core's wheel calls otherwise than the application, for the checkout's imports.
_KITS = ("MRMLCore", "MRMLLogic", "MRMLDisplayableManager", "vtkSegmentationCore")


def checkout() -> str | None:
    """The folder with Slicer's own Python files, when the environment names one."""
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

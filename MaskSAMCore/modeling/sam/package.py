"""Access to the ``segment-anything`` package without its own ``__init__``.

Its ``__init__`` imports torchvision, which is missing or broken on many machines. ``build_sam`` and
the modules under ``modeling`` do not need torchvision. ``_segment_anything`` makes the package's
files importable as its own submodules.
"""

from __future__ import annotations

import importlib
from typing import Any


def segment_anything(module: str) -> Any:
    """Return a module of the ``segment-anything`` package, for example ``"modeling.transformer"``.

    Raises:
        ImportError: the package is not installed.
    """
    return importlib.import_module(f"{__package__}._segment_anything.{module}")

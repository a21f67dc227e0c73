"""Access to the ``segment-anything`` package without its own ``__init__``.

Its ``__init__`` imports torchvision, which many machines lack or have broken. The modules under
``modeling`` and ``build_sam`` do not need it. ``_segment_anything`` makes the same files importable
as its own submodules.
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

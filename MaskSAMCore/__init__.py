"""MaskSAM: named, editable segments from volumes without any prompt.

Example:
    >>> from MaskSAMCore import Segmenter, read_volume
    >>> segmenter = Segmenter.from_model("hippocampus")
    >>> result = segmenter.segment(read_volume("brain.nii.gz"))

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Box": "geometry",
    "Cancelled": "errors",
    "Instance": "inference",
    "Label": "labels",
    "MaskSAMError": "errors",
    "Segmentation": "inference",
    "Segmenter": "inference",
    "Volume": "geometry",
    "read_boxes": "io",
    "read_volume": "io",
    "write_labelmap": "io",
}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from MaskSAMCore.errors import Cancelled, MaskSAMError
    from MaskSAMCore.geometry import Box, Volume
    from MaskSAMCore.inference import Instance, Segmentation, Segmenter
    from MaskSAMCore.io import read_boxes, read_volume, write_labelmap
    from MaskSAMCore.labels import Label


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)

"""MaskSAM: class-labelled, editable segments of 3D volumes without any prompt.

Example:
    >>> from MaskSAMCore import Segmenter, read_volume
    >>> segmenter = Segmenter.from_model("hippocampus")
    >>> result = segmenter.segment(read_volume("brain.nii.gz"))

PyTorch and SimpleITK are imported only when a name that needs them is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Box": "geometry",
    "Cancelled": "errors",
    "Instance": "inference",
    "Label": "labels",
    "MaskSAMError": "errors",
    "Segmentation": "inference",
    "Segmenter": "inference",
    "Volume": "geometry",
    "read_boxes": "io.roi_markups",
    "read_volume": "io.images",
    "write_labelmap": "io.images",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from MaskSAMCore.errors import Cancelled, MaskSAMError
    from MaskSAMCore.geometry import Box, Volume
    from MaskSAMCore.inference import Instance, Segmentation, Segmenter
    from MaskSAMCore.io import read_boxes, read_volume, write_labelmap
    from MaskSAMCore.labels import Label


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)

"""Reading and writing of images, segmentations, DICOM series, boxes and plain files.

SimpleITK is imported with the first image function that is used, so that modules which only need
``MaskSAMCore.io.files`` start without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "IMAGE_SUFFIXES": "files",
    "atomic_file": "files",
    "image_stem": "files",
    "read_boxes": "roi_markups",
    "read_json": "files",
    "read_volume": "images",
    "write_boxes": "roi_markups",
    "write_json": "files",
    "write_labelmap": "images",
    "write_probabilities": "images",
    "write_text": "files",
    "write_volume": "images",
}

__all__ = [
    "IMAGE_SUFFIXES",
    "atomic_file",
    "image_stem",
    "read_boxes",
    "read_json",
    "read_volume",
    "write_boxes",
    "write_json",
    "write_labelmap",
    "write_probabilities",
    "write_text",
    "write_volume",
]

if TYPE_CHECKING:
    from MaskSAMCore.io.files import (
        IMAGE_SUFFIXES,
        atomic_file,
        image_stem,
        read_json,
        write_json,
        write_text,
    )
    from MaskSAMCore.io.images import (
        read_volume,
        write_labelmap,
        write_probabilities,
        write_volume,
    )
    from MaskSAMCore.io.roi_markups import read_boxes, write_boxes


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)

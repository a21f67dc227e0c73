"""Model catalog, model bundles and SAM checkpoints.

The catalog is read without PyTorch, which is imported when a name that needs it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from MaskSAMCore.models.catalog import (
    DEFAULT_MODEL,
    Entry,
    catalog,
    describe,
    find,
    how_to_get,
    installed,
    is_path,
    user_folder,
)
from MaskSAMCore.models.suitability import ANY_INPUT, Suitability

_HOMES = {
    "Bundle": "bundle",
    "Checkpoint": "checkpoint",
    "InferenceSettings": "inference_settings",
    "add_checkpoint": "checkpoint",
    "add_file": "store",
    "add_model": "store",
    "download": "store",
    "load_bundle": "bundle",
    "open_checkpoint": "checkpoint",
    "open_model": "store",
    "remove": "store",
    "save_bundle": "bundle",
    "unpack_bundle": "bundle",
    "verify": "store",
}

__all__ = [
    "ANY_INPUT",
    "DEFAULT_MODEL",
    "Bundle",
    "Checkpoint",
    "Entry",
    "InferenceSettings",
    "Suitability",
    "add_checkpoint",
    "add_file",
    "add_model",
    "catalog",
    "describe",
    "download",
    "find",
    "how_to_get",
    "installed",
    "is_path",
    "load_bundle",
    "open_checkpoint",
    "open_model",
    "remove",
    "save_bundle",
    "unpack_bundle",
    "user_folder",
    "verify",
]

if TYPE_CHECKING:
    from MaskSAMCore.models.bundle import Bundle, load_bundle, save_bundle, unpack_bundle
    from MaskSAMCore.models.checkpoint import Checkpoint, add_checkpoint, open_checkpoint
    from MaskSAMCore.models.inference_settings import InferenceSettings
    from MaskSAMCore.models.store import add_file, add_model, download, open_model, remove, verify


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)

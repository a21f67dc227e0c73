"""Trained models: as files, in the catalog, and how they get onto a machine."""

from .bundle import Bundle, load_bundle, save_bundle, unpack_bundle
from .catalog import Entry, catalog, find, user_folder
from .exporting import export_run
from .store import add_file, add_model, download, installed, open_model, remove, verify

__all__ = [
    "Bundle",
    "Entry",
    "add_file",
    "add_model",
    "catalog",
    "download",
    "export_run",
    "find",
    "installed",
    "load_bundle",
    "open_model",
    "remove",
    "save_bundle",
    "unpack_bundle",
    "user_folder",
    "verify",
]

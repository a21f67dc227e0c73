"""Packages that a process cannot import, as if they were not installed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path


def block_packages(folder: Path, names: Collection[str]) -> str:
    """Write a ``sitecustomize.py`` that blocks packages; return its folder for ``PYTHONPATH``."""
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name in {tuple(names)}:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
    )
    return str(folder)

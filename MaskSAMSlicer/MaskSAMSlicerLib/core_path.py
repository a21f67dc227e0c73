"""Where MaskSAMCore is, and what runs it.

In an installed extension the package lies beside this module; in a checkout, one folder up.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

MODULE_FOLDER = Path(__file__).resolve().parent.parent


def core_folder() -> Path:
    """The folder that holds the package MaskSAMCore.

    Raises:
        RuntimeError: it is nowhere.
    """
    for folder in (MODULE_FOLDER, MODULE_FOLDER.parent):
        if (folder / "MaskSAMCore" / "__init__.py").is_file():
            return folder
    raise RuntimeError("MaskSAMCore is missing: install the MaskSAM extension again")


def make_core_importable() -> None:
    """Put MaskSAMCore on the path; its light parts (catalog, geometry, labels) then import."""
    folder = str(core_folder())
    if folder not in sys.path:
        sys.path.append(folder)


def worker_python() -> str:
    """The interpreter for the worker: Slicer's own PythonSlicer, or the running one outside it."""
    return shutil.which("PythonSlicer") or sys.executable

"""Location of MaskSAMCore, and of the Python interpreter that runs it.

In an installed extension the package lies beside the module; in a checkout, one folder up.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

MODULE_FOLDER = Path(__file__).resolve().parent.parent


def core_folder() -> Path:
    """Return the folder that contains the package MaskSAMCore.

    Raises:
        RuntimeError: the package is not installed.
    """
    for folder in (MODULE_FOLDER, MODULE_FOLDER.parent):
        if (folder / "MaskSAMCore" / "__init__.py").is_file():
            return folder
    raise RuntimeError("MaskSAMCore is missing: install the MaskSAM extension again")


def make_core_importable() -> None:
    """Append the folder of MaskSAMCore to ``sys.path``."""
    folder = str(core_folder())
    if folder not in sys.path:
        sys.path.append(folder)


def worker_python() -> str:
    """Return the worker's Python interpreter: PythonSlicer, or the running one outside Slicer."""
    return shutil.which("PythonSlicer") or sys.executable

"""Location of the files that ship with the code: models and sample ROIs."""

from __future__ import annotations

from pathlib import Path

from MaskSAMCore.errors import MaskSAMError


def resources() -> Path:
    """Return the Resources folder, inside an installed package or beside a source checkout.

    Raises:
        MaskSAMError: the folder is in neither place.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "_resources", here.parent / "Resources"):
        if folder.is_dir():
            return folder
    raise MaskSAMError("the files that ship with MaskSAM are missing: install it again")

"""Where the files that ship with the code are: models, sample ROIs, the icon."""

from __future__ import annotations

from pathlib import Path

from MaskSAMCore.errors import MaskSAMError


def resources() -> Path:
    """The Resources folder: inside an installed package, or beside it in a source checkout.

    Raises:
        MaskSAMError: it is in neither place.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "_resources", here.parent / "Resources"):
        if folder.is_dir():
            return folder
    raise MaskSAMError("the files that ship with MaskSAM are missing: install it again")

"""The list of structures, sides and parts in Slicer's terminology selector."""

from __future__ import annotations

import slicer

from MaskSAMCore.terminology import terminology_file


def load_terminology() -> None:
    """Add the codes of the bundled models to Slicer's terminology selector.

    The list must be loaded in every session, because Slicer itself loads only its own lists and
    those that the user has copied into the settings folder.
    """
    logic = slicer.app.applicationLogic().GetModuleLogic("Terminologies")
    if logic is not None:  # the user may have disabled the module
        logic.LoadTerminologyFromFile(str(terminology_file()))

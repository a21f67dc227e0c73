"""The choice between the shown frame of a sequence and all its frames."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from MaskSAMSlicerLib.mrml.sequences import FrameSequence
from MaskSAMSlicerLib.panel.dialogs import select_data

SHOWN, ALL = "shown", "all"


class FramesView:
    """The selector of frames, visible for volumes that a sequence browser shows.

    Args:
        ui: the panel's widgets.

    Attributes:
        parameters: wrapper of the parameter node; None while a scene closes.
    """

    def __init__(self, ui: Any) -> None:
        self.parameters: Any = None
        self._ui = ui
        ui.framesSelector.addItem(_("the shown frame"), SHOWN)
        ui.framesSelector.addItem(_("all frames"), ALL)
        ui.framesSelector.connect("currentIndexChanged(int)", self._choose)

    @property
    def all(self) -> bool:
        """Return whether all frames of the chosen volume are to be segmented."""
        return self._sequence() is not None and self.parameters.frames == ALL

    def refresh(self) -> None:
        """Show the selector if the chosen volume has several frames."""
        sequence = self._sequence()
        self._ui.framesLabel.visible = self._ui.framesSelector.visible = sequence is not None
        if sequence is not None:
            text = _("all {count} frames").format(count=len(sequence.values))
            self._ui.framesSelector.setItemText(self._ui.framesSelector.findData(ALL), text)
            select_data(self._ui.framesSelector, self.parameters.frames)

    def _sequence(self) -> FrameSequence | None:
        return None if self.parameters is None else FrameSequence.of(self.parameters.inputVolume)

    def _choose(self, index: int) -> None:
        if self.parameters is not None and index >= 0:
            self.parameters.frames = self._ui.framesSelector.itemData(index)

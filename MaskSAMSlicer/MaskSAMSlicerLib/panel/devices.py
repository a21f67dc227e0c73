"""The choice of a device, and the device that "Automatic" means on this computer."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from MaskSAMCore.worker.protocol import DevicesResult
from MaskSAMSlicerLib.logic import SegmentationLogic
from MaskSAMSlicerLib.panel.progress import WorkerTask


class DevicesView:
    """The selector of devices and the line below it.

    Args:
        ui: the panel's widgets.
        logic: runs models.
        task: polls the worker.
    """

    def __init__(self, ui: Any, logic: SegmentationLogic, task: WorkerTask) -> None:
        self._ui = ui
        self._logic = logic
        self._task = task
        self._asked = False
        for device, text in (
            ("auto", _("Automatic")),
            ("cpu", _("CPU")),
            ("cuda", _("NVIDIA GPU (CUDA)")),
            ("mps", _("Apple GPU (Metal)")),
        ):
            ui.deviceSelector.addItem(text, device)
        ui.deviceInfo.text = _("The device in use is shown here.")

    def ask(self) -> None:
        """Ask the worker, once, which devices this computer has."""
        if not self._asked:
            self._asked = True
            self._logic.client.devices(self._show_available, lambda _error: None)
            self._task.poll()

    def show_used(self, device: str) -> None:
        """Show the device that a run used."""
        self._ui.deviceInfo.text = _("Ran on {device}.").format(device=device)

    def _show_available(self, result: DevicesResult) -> None:
        self._ui.deviceInfo.text = _("Automatic means {name} ({reason}).").format(
            name=result.auto.name, reason=result.auto.reason
        )
        present = {choice.name.split(":")[0] for choice in result.choices}
        selector = self._ui.deviceSelector
        for index in range(selector.count):
            device = selector.itemData(index)
            if device not in {"auto", *present}:
                absent = _("{device} - not usable here").format(device=selector.itemText(index))
                selector.setItemText(index, absent)

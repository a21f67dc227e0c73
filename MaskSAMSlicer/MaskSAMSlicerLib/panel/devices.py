"""The choice of a device, and the device that "Automatic" means on this computer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from MaskSAMCore.worker.protocol import DevicesResult
from MaskSAMSlicerLib import installer
from MaskSAMSlicerLib.logic import SegmentationLogic
from MaskSAMSlicerLib.panel.progress import WorkerTask


class _UseFilter(qt.QObject):
    """Event filter that notices when the user clicks a widget or gives it the keyboard focus.

    Args:
        on_use: called each time.
    """

    def __init__(self, on_use: Callable[[], None]) -> None:
        qt.QObject.__init__(self)
        self._on_use = on_use

    def eventFilter(self, _watched: Any, event: Any) -> bool:
        """Call the function, and let the widget handle the event."""
        if event.type() in (qt.QEvent.MouseButtonPress, qt.QEvent.FocusIn):
            self._on_use()
        return False


class DevicesView:
    """The selector of devices and the line below it.

    The worker is asked for the devices only when the user first uses the selector, because the
    worker imports PyTorch.

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
        self._filter = _UseFilter(self._ask)
        ui.deviceSelector.installEventFilter(self._filter)

    def close(self) -> None:
        """Stop watching the selector."""
        self._ui.deviceSelector.removeEventFilter(self._filter)

    def _ask(self) -> None:
        """Ask the worker, once, which devices this computer has, if it can answer now."""
        if not self._asked and not self._task.busy and not installer.missing():
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

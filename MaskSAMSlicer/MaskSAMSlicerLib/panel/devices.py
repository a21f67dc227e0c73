"""The choice of a device, and what "Automatic" means on this computer."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from MaskSAMCore.worker.protocol import DevicesResult


class DevicesView:
    """The selector of devices and the line below it.

    Args:
        ui: the panel's widgets.
    """

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        for device, text in (
            ("auto", _("Automatic")),
            ("cpu", _("CPU")),
            ("cuda", _("NVIDIA GPU (CUDA)")),
            ("mps", _("Apple GPU (Metal)")),
        ):
            ui.deviceSelector.addItem(text, device)
        ui.deviceInfo.text = _("Which device is used is shown here.")

    def known(self, result: DevicesResult) -> None:
        """What the worker found."""
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

    def used(self, device: str) -> None:
        """Where a run was."""
        self._ui.deviceInfo.text = _("Ran on {device}.").format(device=device)

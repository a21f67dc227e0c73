"""What a person sees while the worker is busy: the bar, the stage, the time left, the log."""

from __future__ import annotations

import time
from typing import Any

from slicer.i18n import tr as _


class ProgressView:
    """The bar, the line below it and the log.

    Args:
        ui: the panel's widgets.
    """

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        ui.progressBar.visible = False

    def begin(self, task: str) -> None:
        """Something starts, and cannot say yet how long it will take."""
        self._ui.progressBar.setRange(0, 0)
        self._ui.progressBar.visible = True
        self.say(task)

    def advance(self, stage: str, fraction: float, seconds_left: float | None) -> None:
        """How far it is."""
        self._ui.progressBar.setRange(0, 1000)
        self._ui.progressBar.value = round(1000 * fraction)
        self.say(stage + _time_left(seconds_left))

    def end(self, message: str) -> None:
        """It is over, one way or another."""
        self._ui.progressBar.visible = False
        self.say(message)
        self.log(message)

    def say(self, text: str) -> None:
        """The line below the bar."""
        self._ui.statusLabel.text = text

    def log(self, text: str) -> None:
        """A line of the log."""
        self._ui.logText.appendPlainText(f"{time.strftime('%H:%M:%S')}  {text}")

    def open_log(self) -> None:
        """Something went wrong that the log tells more of."""
        self._ui.logButton.collapsed = False


def _time_left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 90:
        return _(" - about {seconds:.0f} s left").format(seconds=max(1.0, seconds))
    return _(" - about {minutes:.0f} min left").format(minutes=seconds / 60)

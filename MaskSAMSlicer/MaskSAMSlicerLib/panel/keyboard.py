"""Keyboard operation of the panel: shortcuts, and sections that open without the mouse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt

SEGMENT, SEGMENT_AGAIN = "Ctrl+Return", "Ctrl+Shift+Return"


class Keyboard:
    """Shortcuts that are active only while the module is shown.

    Args:
        ui: the panel's widgets.
        segment: called when the user presses the shortcut for Segment while that is enabled.
    """

    def __init__(self, ui: Any, segment: Callable[[], None]) -> None:
        # A shortcut works only while the button that it belongs to is visible and enabled.
        self._shortcuts = [
            _shortcut(ui.segmentButton, SEGMENT, segment),
            _shortcut(ui.updateButton, SEGMENT_AGAIN, lambda: ui.updateButton.click()),
        ]
        self.enable(False)
        for section in (
            ui.inputsButton,
            ui.modelButton,
            ui.outputButton,
            ui.advancedButton,
            ui.resultsButton,
            ui.boxesButton,
            ui.learnButton,
            ui.logButton,
        ):
            _open_with_space(section)

    def enable(self, enabled: bool) -> None:
        """Enable the shortcuts when the user opens the module; disable them when it is left."""
        for shortcut in self._shortcuts:
            shortcut.enabled = enabled


def _shortcut(widget: Any, keys: str, action: Callable[[], None]) -> Any:
    shortcut = qt.QShortcut(widget)
    shortcut.setKey(qt.QKeySequence(keys))
    shortcut.autoRepeat = False
    shortcut.connect("activated()", action)
    return shortcut


def _open_with_space(section: Any) -> None:
    """Let Tab reach the header of a section, and the space bar open and close it."""

    def toggle() -> None:
        section.collapsed = not section.collapsed

    section.focusPolicy = qt.Qt.TabFocus
    # Only while the header itself has the focus, because Space also presses the buttons inside.
    _shortcut(section, "Space", toggle).setContext(qt.Qt.WidgetShortcut)

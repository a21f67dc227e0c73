"""Dialogs and small helpers for widgets that several parts of the panel use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

# Characters that some operating system does not allow in a file name.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]+')


def ask_save_path(title: str, name: str, suffix: str, file_filter: str) -> Path | None:
    """Ask the user for a file to save.

    Args:
        title: title of the dialog.
        name: proposed name without suffix; characters that a file name cannot have are replaced.
        suffix: suffix of the file; added if the user leaves it out. A file that exists under the
            full name is replaced only if the user confirms it, because the file dialog has asked
            for the name without suffix.
        file_filter: filter of the file dialog.

    Returns:
        The path; None if the user cancelled.
    """
    proposed = _FORBIDDEN.sub("_", name).strip(" .") + suffix
    chosen = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, proposed, file_filter)
    if not chosen:
        return None
    if chosen.lower().endswith(suffix):
        return Path(chosen)
    path = Path(chosen + suffix)
    return path if may_write(path, title) else None


def may_write(path: Path, title: str) -> bool:
    """Return whether a file does not exist, or the user confirms that it may be replaced.

    Args:
        path: file to write.
        title: title of the dialog.
    """
    question = _("{path} exists. Replace it?").format(path=path)
    return not path.exists() or slicer.util.confirmYesNoDisplay(question, windowTitle=title)


def swatch(color: tuple[float, float, float]) -> qt.QIcon:
    """Return the icon of a color (RGB, 0 to 1)."""
    pixmap = qt.QPixmap(14, 14)
    pixmap.fill(qt.QColor.fromRgbF(*color))
    return qt.QIcon(pixmap)


def show_swatch(item: qt.QTableWidgetItem, color: tuple[float, float, float]) -> None:
    """Show a color (RGB, 0 to 1) as the icon of a table's cell."""
    item.setIcon(swatch(color))


def narrow(selector: Any) -> None:
    """Let a selector of nodes be narrower than the longest name, which would widen the panel."""
    selector.sizeAdjustPolicy = qt.QComboBox.AdjustToMinimumContentsLengthWithIcon


def select_data(combo: Any, value: str) -> None:
    """Select the entry of a combo box whose data is a value, if there is one."""
    index = combo.findData(value)
    if index >= 0 and combo.currentIndex != index:
        combo.currentIndex = index

"""Where a person wants to save something."""

from __future__ import annotations

import re
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

# What some system does not take in a file's name.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]+')


def ask_save_path(title: str, name: str, suffix: str, kinds: str) -> Path | None:
    """Asks for a file; None where the person thinks better of it.

    Args:
        title: of the dialog.
        name: proposed, without suffix; may come from a node.
        suffix: added where it is missing. A file that exists under the full name is replaced only
            if the person says so: the dialog asked for the name without it.
        kinds: the dialog's filter.
    """
    proposed = _FORBIDDEN.sub("_", name).strip(" .") + suffix
    chosen = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, proposed, kinds)
    if not chosen:
        return None
    if chosen.lower().endswith(suffix):
        return Path(chosen)
    path = Path(chosen + suffix)
    question = _("{path} exists. Replace it?").format(path=path)
    if path.exists() and not slicer.util.confirmYesNoDisplay(question, windowTitle=title):
        return None
    return path

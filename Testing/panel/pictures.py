"""Pictures of the window in Slicer's light and dark style, and with a narrow panel."""

from __future__ import annotations

from pathlib import Path


def save_light_and_dark(window, folder: Path) -> tuple[Path, Path]:
    """Save pictures of the window in both styles, as panel.png and panel-dark.png."""
    import qt

    application = qt.QApplication.instance()
    application.setStyle("Fusion")
    light = application.palette()
    files = folder / "panel.png", folder / "panel-dark.png"
    window.save(files[0])
    application.setPalette(dark_palette())
    window.save(files[1])
    application.setPalette(light)
    return files


def save_narrow(window, folder: Path) -> Path:
    """Save a picture of the window with a panel 340 pixels wide, scroll bar included."""
    file, width = folder / "panel-narrow.png", window.panel_width
    window.panel_width = 340
    window.save(file)
    window.panel_width = width
    return file


def dark_palette():
    """Return the colors of Slicer's dark style."""
    import qt

    palette = qt.QPalette()
    for role, color in (
        (qt.QPalette.Window, "#353535"),
        (qt.QPalette.WindowText, "#ffffff"),
        (qt.QPalette.Base, "#2a2a2a"),
        (qt.QPalette.AlternateBase, "#323232"),
        (qt.QPalette.Text, "#ffffff"),
        (qt.QPalette.PlaceholderText, "#a0a0a0"),
        (qt.QPalette.Button, "#404040"),
        (qt.QPalette.ButtonText, "#ffffff"),
        (qt.QPalette.Highlight, "#2a82da"),
        (qt.QPalette.HighlightedText, "#ffffff"),
        (qt.QPalette.ToolTipBase, "#353535"),
        (qt.QPalette.ToolTipText, "#ffffff"),
    ):
        palette.setColor(role, qt.QColor(color))
    for role in (qt.QPalette.WindowText, qt.QPalette.Text, qt.QPalette.ButtonText):
        palette.setColor(qt.QPalette.Disabled, role, qt.QColor("#808080"))
    return palette

"""Main window with a module's panel on the left and four views on the right.

The views are rendered offscreen and shown as pictures, so no display is needed; mouse events on a
picture reach the view's real interactor. While the window is open, ``slicer.util.mainWindow()``
returns it, and ``slicer.util.selectModule`` works.

::

    window = host.open_window("MaskSAMSlicer")
    ...
    window.save("picture.png")
"""

from __future__ import annotations

import slicer
from PySide6 import QtCore, QtGui, QtWidgets

from Testing.host import module, views

_PLACES = {"Red": (0, 0), "1": (0, 1), "Green": (1, 0), "Yellow": (1, 1)}
_COLORS = {"Red": "#f34a33", "Green": "#6eb04b", "Yellow": "#edd54c", "1": "#7480c9"}
_BUTTONS = {
    QtCore.Qt.MouseButton.LeftButton: "LeftButton",
    QtCore.Qt.MouseButton.MiddleButton: "MiddleButton",
    QtCore.Qt.MouseButton.RightButton: "RightButton",
}


class Picture(QtWidgets.QLabel):
    """Picture of a view that forwards mouse events to it."""

    def __init__(self, view, changed):
        super().__init__()
        self._view, self._changed = view, changed
        self.setMouseTracking(True)
        self.setMinimumSize(64, 64)

    def draw(self):
        """Render the view at the label's size."""
        self._view.resize(self.width, self.height)
        pixels = self._view.image()
        height, width, _ = pixels.shape
        kind = QtGui.QImage.Format.Format_RGB888
        image = QtGui.QImage(pixels.data, width, height, 3 * width, kind)
        self.setPixmap(QtGui.QPixmap.fromImage(image.copy()))

    def _forward(self, name, event):
        place = event.position()
        modifiers = event.modifiers()
        self._view.event(
            name,
            round(place.x()),
            self.height - 1 - round(place.y()),
            control=bool(modifiers & QtCore.Qt.KeyboardModifier.ControlModifier),
            shift=bool(modifiers & QtCore.Qt.KeyboardModifier.ShiftModifier),
        )
        self._changed()

    def mousePressEvent(self, event):
        self._forward(_BUTTONS[event.button()] + "PressEvent", event)

    def mouseReleaseEvent(self, event):
        self._forward(_BUTTONS[event.button()] + "ReleaseEvent", event)

    def mouseMoveEvent(self, event):
        self._forward("MouseMoveEvent", event)

    def wheelEvent(self, event):
        direction = "Forward" if event.angleDelta().y() > 0 else "Backward"
        self._forward(f"MouseWheel{direction}Event", event)


class MainWindow(QtWidgets.QMainWindow):
    """Main window with a panel, the views and a status bar."""

    def __init__(self, size):
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self.setWindowTitle("3D Slicer (test host)")
        self.resize(*size)
        self._panel = QtWidgets.QScrollArea()
        self._panel.setWidgetResizable(True)
        self.panel_width = max(360, size[0] // 3)
        central = QtWidgets.QWidget()
        layout = QtWidgets.QHBoxLayout(central)
        layout.addWidget(self._panel)
        grid = QtWidgets.QGridLayout()
        grid.setSpacing(2)
        layout.addLayout(grid, 1)
        self._pictures, self._titles = {}, {}
        for name, view in views.open_views().items():
            self._add_view(grid, name, view)
        self.setCentralWidget(central)
        self.statusBar()

    def _add_view(self, grid, name, view):
        row, column = _PLACES[name]
        title = self._titles[name] = QtWidgets.QLabel(name)
        title.setStyleSheet(f"background: {_COLORS[name]}; padding-left: 6px")
        title.setFixedHeight(18)
        picture = self._pictures[name] = Picture(view, self.refresh)
        box = QtWidgets.QVBoxLayout()
        box.setSpacing(0)
        box.addWidget(title)
        box.addWidget(picture, 1)
        grid.addLayout(box, row, column)
        grid.setRowStretch(row, 1)
        grid.setColumnStretch(column, 1)

    @property
    def panel_width(self) -> int:
        """Width of the panel in pixels, which a user changes at its border."""
        return self._panel.width

    @panel_width.setter
    def panel_width(self, pixels: int) -> None:
        self._panel.setFixedWidth(pixels)

    def moduleSelector(self):
        """Return the window, which ``slicer.util.selectModule`` uses as the module selector."""
        return self

    def selectModule(self, name):
        """Show a module's panel."""
        module.select(name)
        frame = slicer.util.getModule(name).widgetRepresentation()
        self._panel.takeWidget()
        self._panel.setWidget(frame)
        frame.show()

    @property
    def selectedModule(self):
        selected = slicer.app.moduleManager()._selected
        return selected.name if selected is not None else ""

    def picture(self, name) -> Picture:
        """Return the picture of a view, for simulated mouse events."""
        return self._pictures[name]

    def refresh(self):
        """Render all views again."""
        for name, picture in self._pictures.items():
            picture.draw()
            if name in views.SLICES:
                offset = picture._view.logic.GetSliceOffset()
                self._titles[name].setText(f"{name[0]}   {views.SLICES[name]}   {offset:.1f} mm")

    def save(self, path) -> QtGui.QImage:
        """Write a picture of the whole window and return it."""
        slicer.app.processEvents()
        self.refresh()
        slicer.app.processEvents()
        image = self.grab().toImage()
        if not image.save(str(path)):
            raise OSError(f"cannot write {path}")
        return image

    def closeEvent(self, event):
        """Release the panel, which belongs to its module, and close the views."""
        module.select(None)
        frame = self._panel.takeWidget()
        if frame is not None:
            frame.setParent(None)
        self.setObjectName("")
        views.close_views()
        slicer.app._window = None
        super().closeEvent(event)


def open_window(name: str | None = None, size: tuple[int, int] = (1280, 800)) -> MainWindow:
    """Open the window with a module's panel; ``window.close()`` also closes the views."""
    window = slicer.app._window = MainWindow(size)  # keeps the window alive if the caller drops it
    if name is not None:
        window.selectModule(name)
    window.show()
    slicer.app.processEvents()
    for view in views.open_views().values():
        view.fit()
    return window

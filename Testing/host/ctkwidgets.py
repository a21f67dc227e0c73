"""The widgets of the module ``ctk`` that panels use.

Each declares the properties, signals and slots of the real class under the same names, as Qt
properties, so that a .ui file can set them. An undeclared name raises, as in the application.
"""

from __future__ import annotations

import math
import os

from PySide6 import QtCore, QtGui, QtWidgets

from Testing.host.pythonqt import alike, native, stored

Property, Signal = QtCore.Property, QtCore.Signal


@native
class ctkCollapsibleButton(QtWidgets.QWidget):
    """Header that shows or hides the widgets below it."""

    contentsCollapsed = Signal(bool)
    toggled = Signal(bool)
    clicked = Signal(bool)
    HEADER = 24

    def __init__(self, text="", parent=None):
        if isinstance(text, QtWidgets.QWidget):
            text, parent = "", text
        super().__init__(parent)
        self._hidden = []
        self.setContentsMargins(6, self.HEADER + 2, 6, 4)
        self.text = text

    text = stored("text", str, "", "update")
    collapsedHeight = stored("collapsedHeight", int, 10)
    checkable = stored("checkable", bool, True)
    flat = stored("flat", bool, False)

    def _collapsed(self):
        return self.__dict__.get("_is_collapsed", False)

    def setCollapsed(self, collapsed):
        collapsed = bool(collapsed)
        if collapsed == self._collapsed():
            return
        self._is_collapsed = collapsed
        if collapsed:
            self._hide_contents()
        else:
            for child in self._hidden:
                child.show()
        self.setMaximumHeight(self.HEADER if collapsed else 16777215)
        self.contentsCollapsed.emit(collapsed)
        self.toggled.emit(not collapsed)

    def _hide_contents(self):
        children = self.findChildren(
            QtWidgets.QWidget, options=QtCore.Qt.FindChildOption.FindDirectChildrenOnly
        )
        self._hidden = [child for child in children if not child.isHidden()]
        for child in self._hidden:
            child.hide()

    def _set_checked(self, checked):
        self.setCollapsed(not checked)

    collapsed = Property(bool, _collapsed, setCollapsed)
    checked = Property(bool, lambda self: not self._collapsed(), _set_checked)

    def setChecked(self, checked):
        self.setCollapsed(not checked)

    def toggle(self):
        self.setCollapsed(not self._collapsed())

    def click(self):
        self.toggle()
        self.clicked.emit(self.checked)

    def mousePressEvent(self, event):
        if event.position().y() < self.HEADER:
            self.click()

    def paintEvent(self, event):
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.width, self.HEADER - 2)
        painter.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option)
        arrow = "▸" if self._collapsed() else "▾"
        left = option.rect.adjusted(8, 0, 0, 0)
        painter.drawText(left, QtCore.Qt.AlignmentFlag.AlignVCenter, f"{arrow}  {self.text}")
        painter.end()


@native
class ctkSliderWidget(QtWidgets.QWidget):
    """Slider and spin box of one number."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    editingFinished = Signal()
    STEPS = 1000

    def __init__(self, parent=None):
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal, self)
        self._slider.setRange(0, self.STEPS)
        self._box = QtWidgets.QDoubleSpinBox(self)
        self._box.setKeyboardTracking(False)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._box)
        self._box.valueChanged.connect(self._on_box)
        self._slider.valueChanged.connect(self._on_slider)
        self._box.editingFinished.connect(self.editingFinished)

    def _on_box(self, value):
        low, high = self._box.minimum, self._box.maximum
        bounded = math.isfinite(high - low) and high > low
        position = round(self.STEPS * (value - low) / (high - low)) if bounded else 0
        self._slider.blockSignals(True)
        self._slider.setValue(position)
        self._slider.blockSignals(False)
        self.valueChanged.emit(value)

    def _on_slider(self, position):
        low, high = self._box.minimum, self._box.maximum
        self._box.setValue(low + (high - low) * position / self.STEPS)

    def _of_box(name, kind):
        def write(self, value):
            setattr(self._box, name, value)

        return Property(kind, lambda self: getattr(self._box, name), write)

    value = _of_box("value", float)
    minimum = _of_box("minimum", float)
    maximum = _of_box("maximum", float)
    singleStep = _of_box("singleStep", float)
    decimals = _of_box("decimals", int)
    prefix = _of_box("prefix", str)
    suffix = _of_box("suffix", str)
    del _of_box
    pageStep = stored("pageStep", float, 10.0)
    tickInterval = stored("tickInterval", float, 0.0)
    tracking = stored("tracking", bool, True)
    spinBoxVisible = stored("spinBoxVisible", bool, True)
    popupSlider = stored("popupSlider", bool, False)

    def setValue(self, value):
        self._box.setValue(value)

    def setRange(self, minimum, maximum):
        self._box.setRange(minimum, maximum)


@native
class ctkPathLineEdit(QtWidgets.QWidget):
    """Editable path with a browse button."""

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    Files, Dirs, Drives, Readable, Writable, Executable = 0x002, 0x001, 0x004, 0x010, 0x020, 0x040

    def __init__(self, parent=None):
        super().__init__(parent)
        self._edit = QtWidgets.QLineEdit(self)
        self._button = QtWidgets.QToolButton(self)
        self._button.setText("…")
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._edit)
        layout.addWidget(self._button)
        self._edit.textChanged.connect(self._on_text)
        self._button.clicked.connect(self.browse)

    def _on_text(self, text):
        self.currentPathChanged.emit(text)
        self.validInputChanged.emit(os.path.exists(text))

    def _show_button(self):
        self._button.setVisible(self.showBrowseButton)

    def setCurrentPath(self, path):
        self._edit.setText(path)

    currentPath = Property(str, lambda self: self._edit.text, setCurrentPath)
    filters = stored("filters", int, 0x031)  # files and folders, readable
    nameFilters = stored("nameFilters", "QStringList", ())
    settingKey = stored("settingKey", str, "")
    label = stored("label", str, "")
    showBrowseButton = stored("showBrowseButton", bool, True, "_show_button")
    showHistoryButton = stored("showHistoryButton", bool, True)

    def browse(self):
        title = self.label or "Select a path"
        if self.filters & self.Files:
            path = QtWidgets.QFileDialog.getOpenFileName(self, title)
        else:
            path = QtWidgets.QFileDialog.getExistingDirectory(self, title)
        if path:
            self.setCurrentPath(path)

    def addCurrentPathToHistory(self):
        pass

    def retrieveHistory(self):
        pass


@native
class ctkCheckablePushButton(QtWidgets.QPushButton):
    """Push button with a check box."""

    checkBoxToggled = Signal(bool)
    checkBoxControlsButton = stored("checkBoxControlsButton", bool, True)
    checkBoxControlsButtonToggleState = stored("checkBoxControlsButtonToggleState", bool, True)
    checkBoxUserCheckable = stored("checkBoxUserCheckable", bool, True)
    checkState = stored("checkState", int, 0, "_on_check_state")

    def _on_check_state(self):
        self.checkBoxToggled.emit(bool(self.checkState))

    def setCheckState(self, state):
        self.checkState = int(getattr(state, "value", state))


@native
class ctkComboBox(QtWidgets.QComboBox):
    """Combo box with a text for an empty selection."""

    defaultText = stored("defaultText", str, "", "_show_default")
    forceDefault = stored("forceDefault", bool, False)

    def _show_default(self):
        self.setPlaceholderText(self.defaultText)


@native
class ctkDirectoryButton(QtWidgets.QPushButton):
    """Button that shows and selects a folder."""

    directoryChanged = Signal(str)
    directorySelected = Signal(str)
    caption = stored("caption", str, "")

    def __init__(self, parent=None):
        super().__init__(".", parent)

    def _set_directory(self, path):
        path = os.path.abspath(path)
        if path != os.path.abspath(self.text):
            self.setText(path)
            self.directoryChanged.emit(path)

    directory = Property(str, lambda self: self.text, _set_directory)


@native
class ctkColorPickerButton(QtWidgets.QPushButton):
    """Button that shows and selects a colour."""

    colorChanged = Signal(QtGui.QColor)
    displayColorName = stored("displayColorName", bool, True)
    color = stored("color", QtGui.QColor, QtGui.QColor(), None, "colorChanged")

    def setColor(self, color):
        self.color = color


@native
class ctkRangeWidget(QtWidgets.QWidget):
    """Minimum and maximum of a range."""

    valuesChanged = Signal(float, float)
    minimum = stored("minimum", float, 0.0)
    maximum = stored("maximum", float, 99.0)
    singleStep = stored("singleStep", float, 1.0)
    decimals = stored("decimals", int, 2)
    minimumValue = stored("minimumValue", float, 0.0, "_emit_values")
    maximumValue = stored("maximumValue", float, 99.0, "_emit_values")

    def _emit_values(self):
        self.valuesChanged.emit(self.minimumValue, self.maximumValue)

    def setRange(self, minimum, maximum):
        self.minimum, self.maximum = minimum, maximum

    def setValues(self, minimum, maximum):
        self.minimumValue, self.maximumValue = minimum, maximum


@native
class ctkDoubleSlider(QtWidgets.QWidget):
    """Slider of a floating-point number, without a drawn control."""

    valueChanged = Signal(float)
    minimum = stored("minimum", float, 0.0)
    maximum = stored("maximum", float, 99.0)
    singleStep = stored("singleStep", float, 1.0)
    value = stored("value", float, 0.0, None, "valueChanged")

    def setValue(self, value):
        self.value = value

    def setRange(self, minimum, maximum):
        self.minimum, self.maximum = minimum, maximum


ctkCheckBox = alike(QtWidgets.QCheckBox, "ctkCheckBox")
ctkPushButton = alike(QtWidgets.QPushButton, "ctkPushButton")
ctkMenuButton = alike(QtWidgets.QPushButton, "ctkMenuButton")
ctkDoubleSpinBox = alike(QtWidgets.QDoubleSpinBox, "ctkDoubleSpinBox")
ctkDoubleRangeSlider = alike(ctkRangeWidget, "ctkDoubleRangeSlider")
ctkFittedTextBrowser = alike(QtWidgets.QTextBrowser, "ctkFittedTextBrowser")


@native
class ctkSearchBox(QtWidgets.QLineEdit):
    """Line edit with a button that clears it; the real one paints its own icons."""

    showSearchIcon = stored("showSearchIcon", bool, False)

    def __init__(self, parent=None):
        super().__init__(parent)
        self.setClearButtonEnabled(True)


WIDGETS = {name: cls for name, cls in list(globals().items()) if name.startswith("ctk")}

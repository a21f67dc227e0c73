"""Which widget can show which type of parameter, and how it is read and written.

Like Slicer's, a connector looks at the exact class of a widget: a class derived from QCheckBox
connects to nothing, here as there.
"""

from __future__ import annotations

import enum
import pathlib
import types
import typing
from dataclasses import dataclass

import ctk
import qt
import slicer

from Testing.host.validators import Choice, Maximum, Minimum, WithinRange


@dataclass
class Decimals:
    """How many decimals a widget shows."""

    value: int


@dataclass
class SingleStep:
    """The step of a widget's arrows."""

    value: float


class GuiConnector:
    """A widget's value, through one of its properties and the signal of its change."""

    def __init__(self, widget, attribute, signal):
        self._widget, self._attribute = widget, attribute
        self._signal = getattr(widget, signal) if signal else None
        self._callback = None

    def widget(self):
        return self._widget

    def onChanged(self, callback):
        if self._callback is not None and self._signal is not None:
            self._signal.disconnect(self._changed)
        self._callback = callback
        if callback is not None and self._signal is not None:
            self._signal.connect(self._changed)

    def _changed(self, *_):
        if self._callback is not None:
            self._callback()

    def read(self):
        return getattr(self._widget, self._attribute)

    def write(self, value):
        if value != self.read():
            setattr(self._widget, self._attribute, value)


class _Number(GuiConnector):
    def __init__(self, widget, kind, annotations):
        super().__init__(widget, "value", "valueChanged")
        self._kind = kind
        floating = not isinstance(widget, (qt.QSpinBox, qt.QSlider))
        decimals, step = _find(annotations, Decimals), _find(annotations, SingleStep)
        if floating and type(widget) is ctk.ctkDoubleSlider:
            pass  # shows no digits
        elif floating and kind is int:
            widget.decimals = 0
        elif floating and decimals is not None:
            widget.decimals = decimals.value
        if step is not None:
            widget.singleStep = step.value
        within = _find(annotations, WithinRange)
        low, high = _find(annotations, Minimum), _find(annotations, Maximum)
        low = within.minimum if within else low.minimum if low else None
        high = within.maximum if within else high.maximum if high else None
        slides = type(widget) in (qt.QSlider, ctk.ctkSliderWidget, slicer.qMRMLSliderWidget)
        if slides and (low is None or high is None):
            raise RuntimeError(f"Cannot have a connection to {widget.className()} without a range")
        unbounded = float("inf") if floating else 2**31 - 1
        widget.setRange(
            (-unbounded - (not floating)) if low is None else low,
            unbounded if high is None else high,
        )

    def read(self):
        return self._kind(self._widget.value)

    def write(self, value):
        self._widget.value = value if isinstance(value, int) else float(value)


class _Items(GuiConnector):
    def __init__(self, widget, items):
        super().__init__(widget, "currentIndex", "currentIndexChanged")
        self._values = [value for _, value in items]
        widget.clear()
        widget.addItems([label for label, _ in items])

    def read(self):
        return self._values[self._widget.currentIndex]

    def write(self, value):
        if value not in self._values:
            raise ValueError(f"Unable to find value {value} in choices {self._values}")
        self._widget.currentIndex = self._values.index(value)


class _Path(GuiConnector):
    def __init__(self, widget, attribute, signal, kind):
        super().__init__(widget, attribute, signal)
        self._kind = kind

    def read(self):
        return self._kind(super().read())

    def write(self, value):
        setattr(self._widget, self._attribute, str(value))


class _Node(GuiConnector):
    def __init__(self, widget, kinds):
        super().__init__(widget, "currentNode", "currentNodeChanged")
        widget.nodeTypes = [kind.__name__ for kind in kinds]

    def read(self):
        return self._widget.currentNode()

    def write(self, value):
        self._widget.setCurrentNode(value)


class _CheckablePushButton(GuiConnector):
    def __init__(self, widget):
        super().__init__(widget, "checked", "toggled")

    def write(self, value):
        if self._widget.checkBoxControlsButtonToggleState:
            self._widget.checkable = value
        if value or not self._widget.checkBoxControlsButtonToggleState:
            self._widget.checked = value


def _find(annotations, kind):
    return next((a for a in annotations if isinstance(a, kind)), None)


def _node_kinds(kind):
    """The node classes of a node type or a union of them (None allowed), or nothing."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    kinds = [k for k in (typing.get_args(kind) if union else (kind,)) if k is not types.NoneType]
    nodes = all(isinstance(k, type) and issubclass(k, slicer.vtkMRMLNode) for k in kinds)
    return kinds if nodes else []


_FLOATING = ("qt.QDoubleSpinBox", "ctk.ctkSliderWidget", "slicer.qMRMLSliderWidget",
             "ctk.ctkDoubleSlider", "ctk.ctkDoubleSpinBox", "slicer.qMRMLSpinBox")  # fmt: skip


def createGuiConnector(widget, kind, annotations=()):
    """The connector for a widget and a type; RuntimeError when they do not go together."""
    connector = _create(widget, type(widget), kind, annotations)
    if connector is None:
        raise RuntimeError(f"Unable to create GUI connector from {type(widget).__name__} to {kind}")
    return connector


def _create(widget, cls, kind, annotations):
    floating = tuple(
        getattr({"qt": qt, "ctk": ctk, "slicer": slicer}[module], name)
        for module, name in (entry.split(".") for entry in _FLOATING)
    )
    if cls is slicer.qMRMLNodeComboBox and _node_kinds(kind):
        return _Node(widget, _node_kinds(kind))
    if not isinstance(kind, type):
        return None
    if kind is bool and cls in (qt.QCheckBox, ctk.ctkCheckBox):
        return GuiConnector(widget, "checked", "toggled")
    if kind is bool and cls is qt.QPushButton:
        widget.checkable = True
        return GuiConnector(widget, "checked", "toggled")
    if kind is bool and cls is ctk.ctkCheckablePushButton:
        return _CheckablePushButton(widget)
    if kind is int and cls in (qt.QSlider, qt.QSpinBox):
        return _Number(widget, kind, annotations)
    if kind in (int, float) and cls in floating:
        return _Number(widget, kind, annotations)
    if cls in (qt.QComboBox, ctk.ctkComboBox):
        if issubclass(kind, enum.Enum):
            label = getattr(kind, "label", lambda member: member.name)
            return _Items(widget, [(label(member), member) for member in kind])
        choice = _find(annotations, Choice)
        if choice is None:
            raise RuntimeError("a combo box for text or numbers needs the Choice annotation")
        return _Items(widget, [(str(value), value) for value in choice.choices])
    if kind is str and cls is qt.QLineEdit:
        return GuiConnector(widget, "text", "textChanged")
    if kind is str and cls is qt.QLabel:
        return GuiConnector(widget, "text", None)
    if kind is str and cls is qt.QTextEdit:
        return GuiConnector(widget, "plainText", "textChanged")
    if issubclass(kind, pathlib.PurePath) and cls is ctk.ctkPathLineEdit:
        return _Path(widget, "currentPath", "currentPathChanged", kind)
    if issubclass(kind, pathlib.PurePath) and cls is ctk.ctkDirectoryButton:
        return _Path(widget, "directory", "directoryChanged", kind)
    return None

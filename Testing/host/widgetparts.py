"""What the host's widgets are made of: properties that keep a value, observers that end in time."""

from __future__ import annotations

import weakref

import shiboken6
from PySide6 import QtCore

from Testing.host.pythonqt import native

Property = QtCore.Property


def stored(name: str, kind, default, changed: str | None = None, signal: str | None = None):
    """A Qt property that keeps its value; a change calls the method and emits the signal named.

    A list of texts is read as a tuple, as PythonQt gives it.
    """

    def read(self):
        return self.__dict__.setdefault("_values", {}).get(name, default)

    def write(self, value):
        if kind == "QStringList":
            value = tuple(item for item in value if item)
        elif kind in (bool, int, float, str):
            value = kind(value)
        if value == read(self):
            return
        self.__dict__["_values"][name] = value
        if changed:
            getattr(self, changed)()
        if signal:
            getattr(self, signal).emit(value)

    return Property(kind, read, write)


class Observations:
    """Observers of VTK objects that go with the widget they are for."""

    def __init__(self, widget, method: str):
        self._widget = weakref.ref(widget)
        self._method = method
        self._tags = []

    def add(self, subject, event) -> None:
        """Call the widget's method on an event of the subject."""
        self._tags.append((subject, subject.AddObserver(event, self._call)))

    def clear(self) -> None:
        """Stop observing."""
        for subject, tag in self._tags:
            subject.RemoveObserver(tag)
        self._tags = []

    def _call(self, *_):
        widget = self._widget()
        if widget is None or not shiboken6.isValid(widget):
            self.clear()
        else:
            getattr(widget, self._method)()


def alike(base: type, name: str) -> type:
    """A class of the given name that differs from `base` in nothing that tests touch."""
    return native(type(name, (base,), {"__doc__": f"{name}: a {base.__name__} here."}))

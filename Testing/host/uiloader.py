"""``qt.QUiLoader`` for .ui files that use widgets of ctk and qMRML.

It is stricter than Qt's loader, so that a mistake in a .ui file fails a test: an unknown class, an
unknown property (except dynamic ones, marked ``stdset="0"``) and a connection to an unknown signal,
slot or widget raise.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import ClassVar

from PySide6 import QtCore, QtUiTools, QtWidgets

from Testing.host.ctkwidgets import ctkCollapsibleButton
from Testing.host.pythonqt import loading_ui, parse_signature, property_names, trimmed


class UiLoader(QtUiTools.QUiLoader):
    """Loader of .ui files that creates the host's widgets instead of the C++ ones."""

    registry: ClassVar[dict[str, type]] = {}

    def createWidget(self, class_name, parent=None, name=""):
        if class_name not in self.registry:
            return super().createWidget(class_name, parent, name)
        widget = self.registry[class_name](parent)
        widget.setObjectName(name)
        return widget

    def load(self, device, parent=None):
        tree = ElementTree.fromstring(bytes(device.readAll()))
        for element in tree.iter("widget"):
            self._check_widget(element)
        connections = [
            [connection.findtext(key) for key in ("sender", "signal", "receiver", "slot")]
            for connection in tree.iter("connection")
        ]
        for block in tree.findall("connections"):
            tree.remove(block)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(tree))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        with loading_ui():
            widget = super().load(buffer, parent)
        if widget is not None:
            for connection in connections:
                self._connect(widget, *connection)
            # A section that the file collapses had no children yet when the property was set.
            for section in widget.findChildren(ctkCollapsibleButton):
                if section.collapsed:
                    section._hide_contents()
        return widget

    def _check_widget(self, element):
        class_name, name = element.get("class"), element.get("name")
        cls = self.registry.get(class_name) or getattr(QtWidgets, class_name, None)
        if class_name == "Line":  # Designer's name for a QFrame
            return
        if cls is None:
            raise RuntimeError(f".ui: the widget '{name}' has the unknown class '{class_name}'")
        known = property_names(cls)
        if class_name == "QLabel":  # the loader resolves this name to a widget of the file
            known = {*known, "buddy"}
        for item in element.findall("property"):
            if item.get("name") not in known and item.get("stdset") != "0":
                raise RuntimeError(f".ui: {class_name} '{name}' has no '{item.get('name')}'")

    @staticmethod
    def _connect(root, sender_name, signal, receiver_name, slot):
        def find(name):
            found = root if root.objectName == name else root.findChild(QtCore.QObject, name)
            if found is None:
                raise RuntimeError(f".ui: a connection names '{name}', which does not exist")
            return found

        sender, receiver = find(sender_name), find(receiver_name)
        slot_name, types = parse_signature(slot)
        function = getattr(receiver, slot_name, None)
        if not callable(function):
            raise RuntimeError(f".ui: {receiver.className()} has no slot '{slot}'")
        limited = trimmed(lambda *arguments: function(*arguments), len(types))
        sender.connect(signal, limited)


def install(qt, registry: dict[str, type]) -> None:
    """Replace ``qt.QUiLoader`` with this loader, which creates the widgets of a registry."""
    UiLoader.registry = registry
    qt.QUiLoader = UiLoader

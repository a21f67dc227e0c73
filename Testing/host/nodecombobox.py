"""``qMRMLNodeComboBox``: a combo box of the scene's nodes, always in step with the scene."""

from __future__ import annotations

from typing import ClassVar

import slicer
import vtk
from PySide6 import QtCore, QtWidgets

from Testing.host.pythonqt import native
from Testing.host.widgetparts import Observations, stored

Property, Signal = QtCore.Property, QtCore.Signal
_EVENTS = ("NodeAddedEvent", "NodeRemovedEvent", "EndCloseEvent", "EndImportEvent",
           "EndBatchProcessEvent")  # fmt: skip


@native
class qMRMLNodeComboBox(QtWidgets.QWidget):
    """The nodes of the scene that have one of the types and all of the attributes asked for.

    Without a scene it is disabled. Nothing is ever chosen by itself, ``noneEnabled`` or not
    (Slicer's own tests hold this); when the current node is removed, the one above it is current.
    The entries that create, rename and delete nodes follow the nodes.
    """

    currentNodeChanged = Signal(object)
    currentNodeValid = Signal(bool)
    currentNodeIDChanged = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAddedByUserAction = Signal(object)
    nodeAboutToBeRemoved = Signal(object)
    nodeAboutToBeEdited = Signal(object)
    currentNodeRenamed = Signal(str)
    signatures: ClassVar = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "currentNodeChanged(bool)": "currentNodeValid",
        "nodeActivated(vtkMRMLNode*)": "nodeActivated",
        "nodeAdded(vtkMRMLNode*)": "nodeAdded",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser",
        "nodeAddedByUserAction(vtkMRMLNode*)": "nodeAddedByUserAction",
        "nodeAboutToBeRemoved(vtkMRMLNode*)": "nodeAboutToBeRemoved",
        "nodeAboutToBeEdited(vtkMRMLNode*)": "nodeAboutToBeEdited",
    }

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None
        self._observations = Observations(self, "_refresh")
        self._attributes = []
        self._labels = {}
        self._current = ""
        self._shown_ids = []
        self._node_observations = Observations(self, "_refresh")
        self._box = QtWidgets.QComboBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._box.activated.connect(self._on_activated)
        self.setEnabled(False)

    nodeTypes = stored("nodeTypes", "QStringList", (), "_refresh")
    hideChildNodeTypes = stored("hideChildNodeTypes", "QStringList", (), "_refresh")
    showHidden = stored("showHidden", bool, False, "_refresh")
    showChildNodeTypes = stored("showChildNodeTypes", bool, True, "_refresh")
    noneEnabled = stored("noneEnabled", bool, False, "_refresh")
    noneDisplay = stored("noneDisplay", str, "None", "_refresh")
    addEnabled = stored("addEnabled", bool, True, "_refresh")
    removeEnabled = stored("removeEnabled", bool, True, "_refresh")
    editEnabled = stored("editEnabled", bool, False, "_refresh")
    renameEnabled = stored("renameEnabled", bool, False, "_refresh")
    selectNodeUponCreation = stored("selectNodeUponCreation", bool, True)
    baseName = stored("baseName", str, "")
    interactionNodeSingletonTag = stored("interactionNodeSingletonTag", str, "Singleton")

    # The scene

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene):
        if scene is self._scene:
            return
        self._observations.clear()
        self._scene = scene
        if scene is not None:
            for event in _EVENTS:
                self._observations.add(scene, getattr(slicer.vtkMRMLScene, event))
        self.setEnabled(scene is not None)
        self._refresh()

    # What is shown

    def addAttribute(self, node_type, name, value=None):
        self._attributes.append((node_type, name, None if value is None else str(value)))
        self._refresh()

    def removeAttribute(self, node_type, name):
        self._attributes = [a for a in self._attributes if a[:2] != (node_type, name)]
        self._refresh()

    def setNodeTypeLabel(self, label, node_type):
        self._labels[node_type] = label
        self._refresh()

    def nodeTypeLabel(self, node_type):
        if node_type in self._labels:
            return self._labels[node_type]
        scene = self._scene
        return (scene and scene.GetTypeDisplayNameByClassName(node_type)) or "node"

    def _shown(self, node):
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        name = node.GetClassName()
        if name not in self.nodeTypes and not self.showChildNodeTypes:
            return False
        if name not in self.nodeTypes and any(node.IsA(t) for t in self.hideChildNodeTypes):
            return False
        for node_type, attribute, value in self._attributes:
            if node.IsA(node_type):
                actual = node.GetAttribute(attribute)
                if actual is None or (value is not None and actual != value):
                    return False
        return True

    def _nodes(self):
        return [node for node in self._candidates() if self._shown(node)]

    def _candidates(self):
        """The nodes of the types asked for, in the scene's order."""
        if self._scene is None or self._scene.IsClosing():
            return []
        nodes = self._scene.GetNodes()
        nodes = [nodes.GetItemAsObject(index) for index in range(nodes.GetNumberOfItems())]
        return [node for node in nodes if any(node.IsA(kind) for kind in self.nodeTypes)]

    def nodeCount(self):
        return len(self._nodes())

    def nodeFromIndex(self, index):
        nodes = self._nodes()
        return nodes[index] if 0 <= index < len(nodes) else None

    def _entries(self, nodes):
        entries = [(self.noneDisplay, "")] if self.noneEnabled else []
        entries += [(node.GetName(), node.GetID()) for node in nodes]
        if self.addEnabled:
            entries += [
                (f"Create new {self.nodeTypeLabel(kind)}", f"add:{kind}") for kind in self.nodeTypes
            ]
        actions = (("Edit", self.editEnabled, self.editCurrentNode),
                   ("Rename", self.renameEnabled, self.renameCurrentNode),
                   ("Delete", self.removeEnabled, self.removeCurrentNode))  # fmt: skip
        return entries + [(f"{name} current node", act) for name, on, act in actions if on]

    def _refresh(self):
        if self._scene is not None and (self._scene.IsImporting() or self._scene.IsClosing()):
            return
        nodes = self._nodes()
        ids = [node.GetID() for node in nodes]
        before, self._shown_ids = self._shown_ids, ids
        previous = self._current
        if previous not in ids:
            above = before[: before.index(previous)] if previous in before else []
            self._current = above[-1] if above and above[-1] in ids else ""
        self._observe_nodes()
        self._box.blockSignals(True)
        self._box.clear()
        for text, data in self._entries(nodes):
            self._box.addItem(text, data)
        self._show_current()
        self._box.blockSignals(False)
        if self._current != previous:
            self._tell()

        for node in nodes:
            if node.GetID() not in before:
                self.nodeAdded.emit(node)

    def _observe_nodes(self):
        """Names and attributes may change."""
        self._node_observations.clear()
        for node in self._candidates():
            self._node_observations.add(node, vtk.vtkCommand.ModifiedEvent)

    def _show_current(self):
        wanted = self._current
        if wanted or self.noneEnabled:
            self._box.setCurrentIndex(self._box.findData(wanted))
        else:
            self._box.setCurrentIndex(-1)

    def _tell(self):
        node = self.currentNode()
        self.currentNodeChanged.emit(node)
        self.currentNodeValid.emit(node is not None)
        self.currentNodeIDChanged.emit(self._current)

    # The current node

    def currentNode(self):
        return self._scene.GetNodeByID(self._current) if self._scene and self._current else None

    def setCurrentNode(self, node):
        self.setCurrentNodeID(node if isinstance(node, str) else node.GetID() if node else "")

    def setCurrentNodeID(self, node_id):
        node_id = node_id or ""
        if node_id and node_id not in [node.GetID() for node in self._nodes()]:
            node_id = ""
        if node_id != self._current:
            self._current = node_id
            self._show_current()
            self._tell()

    def setCurrentNodeIndex(self, index):
        self.setCurrentNode(self.nodeFromIndex(index))

    currentNodeID = Property(str, lambda self: self._current, setCurrentNodeID)

    # What the user may do

    def _on_activated(self, index):
        data = self._box.itemData(index)
        if callable(data):
            self._show_current()
            data()
        elif data.startswith("add:"):
            self.nodeAddedByUserAction.emit(self.addNode(data[len("add:") :]))
        else:
            self.setCurrentNodeID(data)
            self.nodeActivated.emit(self.currentNode())

    def addNode(self, node_type=None):
        node_type = node_type or self.nodeTypes[0]
        if node_type not in self.nodeTypes:
            return None
        node = self._scene.CreateNodeByClass(node_type)
        node.UnRegister(None)
        base = self.baseName or self.nodeTypeLabel(node.GetClassName())
        node.SetName(self._scene.GenerateUniqueName(base))
        for kind, name, value in self._attributes:
            if node.IsA(kind):
                node.SetAttribute(name, value or "")
        self._scene.AddNode(node)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self):
        if self.currentNode() is not None:
            self._scene.RemoveNode(self.currentNode())

    def editCurrentNode(self):
        self.nodeAboutToBeEdited.emit(self.currentNode())

    def renameCurrentNode(self):
        node = self.currentNode()
        name = QtWidgets.QInputDialog.getText(self, "Rename") if node is not None else ""
        if name:
            node.SetName(name)
            self._refresh()
            self.currentNodeRenamed.emit(name)

"""The qMRML widgets: the base class, the node selector, the table of segments, number inputs."""

from __future__ import annotations

import weakref
from typing import ClassVar

import shiboken6
import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets

from Testing.host.ctkwidgets import ctkRangeWidget, ctkSliderWidget
from Testing.host.pythonqt import native, stored

Signal = QtCore.Signal
_EVENTS = ("NodeAddedEvent", "NodeRemovedEvent", "EndCloseEvent", "EndImportEvent",
           "EndBatchProcessEvent")  # fmt: skip


class Observations:
    """Observers of VTK objects that are removed with their widget."""

    def __init__(self, widget, method: str):
        self._widget = weakref.ref(widget)
        self._method = method
        self._tags = []

    def add(self, subject, event) -> None:
        """Call the widget's method when the subject invokes an event."""
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


@native
class qMRMLWidget(QtWidgets.QWidget):
    """Widget with a scene; the root of every module panel."""

    mrmlSceneChanged = Signal(object)
    signatures: ClassVar = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None

    def setMRMLScene(self, scene):
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self):
        return self._scene


@native
class qMRMLSliderWidget(ctkSliderWidget):
    """Slider without the units that the application takes from the scene."""

    quantity = stored("quantity", str, "")

    def setMRMLScene(self, scene):
        pass


@native
class qMRMLSpinBox(QtWidgets.QDoubleSpinBox):
    """Spin box without the units that the application takes from the scene."""

    quantity = stored("quantity", str, "")

    def setMRMLScene(self, scene):
        pass


@native
class qMRMLRangeWidget(ctkRangeWidget):
    """Range widget without the units that the application takes from the scene."""

    quantity = stored("quantity", str, "")

    def setMRMLScene(self, scene):
        pass


@native
class qMRMLSortFilterProxyModel(QtCore.QObject):
    """Filter of a node selector, reduced to hiding single nodes, whatever their type."""

    hiddenNodeIDs = stored("hiddenNodeIDs", "QStringList", (), "_filter")

    def _filter(self):
        self.parent()._refresh()


@native
class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Combo box of the scene's nodes with one of the given types and all given attributes.

    It is disabled without a scene. It never selects a node by itself, whatever ``noneEnabled``
    (as Slicer's own tests require); when the current node is removed, the one above it becomes
    current. Entries that create, rename and delete nodes follow the nodes.
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
        self._filter_model = qMRMLSortFilterProxyModel(self)
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
    sizeAdjustPolicy = stored("sizeAdjustPolicy", "QVariant", None, "_adjust_size")
    baseName = stored("baseName", str, "")
    interactionNodeSingletonTag = stored("interactionNodeSingletonTag", str, "Singleton")

    def _adjust_size(self):
        self._box.setSizeAdjustPolicy(self.sizeAdjustPolicy)

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

    # The nodes shown

    def sortFilterProxyModel(self):
        return self._filter_model

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
        if node.GetID() in self._filter_model.hiddenNodeIDs:
            return False
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
        """Return the nodes of ``nodeTypes`` in the scene's order."""
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
            self._emit_current()

        for node in nodes:
            if node.GetID() not in before:
                self.nodeAdded.emit(node)

    def _observe_nodes(self):
        """Observe the nodes, whose names and attributes may change."""
        self._node_observations.clear()
        for node in self._candidates():
            self._node_observations.add(node, vtk.vtkCommand.ModifiedEvent)

    def _show_current(self):
        wanted = self._current
        if wanted or self.noneEnabled:
            self._box.setCurrentIndex(self._box.findData(wanted))
        else:
            self._box.setCurrentIndex(-1)

    def _emit_current(self):
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
            self._emit_current()

    def setCurrentNodeIndex(self, index):
        self.setCurrentNode(self.nodeFromIndex(index))

    currentNodeID = QtCore.Property(str, lambda self: self._current, setCurrentNodeID)

    # Actions of the user

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


@native
class qMRMLSegmentsTableView(qMRMLWidget):
    """Table of segments with visibility, colour and editable name."""

    selectionChanged = Signal(object, object)
    signatures: ClassVar = {"selectionChanged(QItemSelection,QItemSelection)": "selectionChanged"}
    VISIBLE, COLOR, NAME = range(3)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._node = None
        self._observations = Observations(self, "_fill")
        self._filling = False
        self._table = QtWidgets.QTableWidget(0, 3, self)
        self._table.setHorizontalHeaderLabels(["", "", "Name"])
        self._table.horizontalHeader().setStretchLastSection(True)
        self._table.verticalHeader().hide()
        for column in (self.VISIBLE, self.COLOR):
            self._table.setColumnWidth(column, 28)
        behavior = QtWidgets.QAbstractItemView.SelectionBehavior.SelectRows
        self._table.setSelectionBehavior(behavior)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._table)
        self._table.itemChanged.connect(self._on_item)
        self._table.itemSelectionChanged.connect(lambda: self.selectionChanged.emit(None, None))

    headerVisible = stored("headerVisible", bool, True, "_apply")
    visibilityColumnVisible = stored("visibilityColumnVisible", bool, True, "_apply")
    colorColumnVisible = stored("colorColumnVisible", bool, True, "_apply")
    opacityColumnVisible = stored("opacityColumnVisible", bool, True)
    statusColumnVisible = stored("statusColumnVisible", bool, False)
    layerColumnVisible = stored("layerColumnVisible", bool, False)
    readOnly = stored("readOnly", bool, False, "_fill")
    filterBarVisible = stored("filterBarVisible", bool, False)
    textFilter = stored("textFilter", str, "", "_fill")
    selectionMode = stored("selectionMode", int, 3)

    def _apply(self):
        self._table.horizontalHeader().setVisible(self.headerVisible)
        self._table.setColumnHidden(self.VISIBLE, not self.visibilityColumnVisible)
        self._table.setColumnHidden(self.COLOR, not self.colorColumnVisible)

    def tableWidget(self):
        return self._table

    def segmentationNode(self):
        return self._node

    def setSegmentationNode(self, node):
        self._observations.clear()
        self._node = node
        if node is not None:
            segmentation = node.GetSegmentation()
            events = ("SegmentAdded", "SegmentRemoved", "SegmentModified", "SegmentsOrderModified")
            for event in events:
                self._observations.add(segmentation, getattr(slicer.vtkSegmentation, event))
            self._observations.add(node, slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent)
        self._fill()

    def _fill(self):
        if self._filling:
            return
        self._filling = True
        selected = self.selectedSegmentIDs()
        self._table.setRowCount(0)
        segmentation = self._node.GetSegmentation() if self._node is not None else None
        display = self._node.GetDisplayNode() if self._node is not None else None
        for segment_id in segmentation.GetSegmentIDs() if segmentation is not None else ():
            segment = segmentation.GetSegment(segment_id)
            if self.textFilter.lower() not in segment.GetName().lower():
                continue
            row = self._table.rowCount
            self._table.insertRow(row)
            self._table.setItem(row, self.VISIBLE, self._check(display, segment_id))
            color = QtWidgets.QTableWidgetItem()
            color.setBackground(QtGui.QColor.fromRgbF(*segment.GetColor()))
            self._table.setItem(row, self.COLOR, color)
            name = QtWidgets.QTableWidgetItem(segment.GetName())
            name.setData(QtCore.Qt.ItemDataRole.UserRole, segment_id)
            if self.readOnly:
                name.setFlags(name.flags() & ~QtCore.Qt.ItemFlag.ItemIsEditable)
            self._table.setItem(row, self.NAME, name)
        self.setSelectedSegmentIDs(selected)
        self._filling = False

    @staticmethod
    def _check(display, segment_id):
        item = QtWidgets.QTableWidgetItem()
        shown = display is None or display.GetSegmentVisibility(segment_id)
        states = QtCore.Qt.CheckState
        item.setCheckState(states.Checked if shown else states.Unchecked)
        return item

    def _on_item(self, item):
        if self._filling or self._node is None:
            return
        segment_id = self.segmentIDForRow(item.row())
        if item.column() == self.NAME:
            self._node.GetSegmentation().GetSegment(segment_id).SetName(item.text())
        elif item.column() == self.VISIBLE and self._node.GetDisplayNode() is not None:
            shown = item.checkState() == QtCore.Qt.CheckState.Checked
            self._node.GetDisplayNode().SetSegmentVisibility(segment_id, shown)

    @property
    def segmentCount(self):
        return self._table.rowCount

    def segmentIDForRow(self, row):
        return self._table.item(row, self.NAME).data(QtCore.Qt.ItemDataRole.UserRole)

    def rowForSegmentID(self, segment_id):
        ids = self.displayedSegmentIDs()
        return ids.index(segment_id) if segment_id in ids else -1

    def displayedSegmentIDs(self):
        return [self.segmentIDForRow(row) for row in range(self._table.rowCount)]

    def selectedSegmentIDs(self):
        rows = sorted({index.row() for index in self._table.selectedIndexes()})
        return [self.segmentIDForRow(row) for row in rows]

    def setSelectedSegmentIDs(self, ids):
        self._table.clearSelection()
        model, selection = self._table.model(), self._table.selectionModel()
        flags = QtCore.QItemSelectionModel.SelectionFlag
        for segment_id in ids:
            row = self.rowForSegmentID(segment_id)
            if row >= 0:
                selection.select(model.index(row, self.NAME), flags.Select | flags.Rows)

    def clearSelection(self):
        self._table.clearSelection()


@native
class qMRMLSegmentationShow3DButton(QtWidgets.QPushButton):
    """Button that creates and removes the surfaces of a segmentation, without its menu.

    It is enabled for a segmentation with segments, and checked while the segmentation has surfaces,
    whatever has created or removed them.
    """

    def __init__(self, parent=None):
        super().__init__(parent)
        self._node = None
        self._observations = Observations(self, "_refresh")
        self.setCheckable(True)
        self.setText("Show 3D")
        self.setEnabled(False)
        self.toggled.connect(self._on_toggled)

    locked = stored("locked", bool, False, "_refresh")

    def segmentationNode(self):
        return self._node

    def setSegmentationNode(self, node):
        if node is self._node:
            return
        self._observations.clear()
        self._node = node
        if node is not None:
            segmentation = slicer.vtkSegmentation
            for event in (
                vtk.vtkCommand.ModifiedEvent,
                segmentation.SegmentAdded,
                segmentation.SegmentRemoved,
                segmentation.ContainedRepresentationNamesModified,
            ):
                self._observations.add(node, event)
        self._refresh()

    def _refresh(self):
        segmentation = None if self._node is None else self._node.GetSegmentation()
        if segmentation is None:
            self.setEnabled(False)
            return
        name = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
        of_labelmaps = segmentation.GetSourceRepresentationName() != name
        some = segmentation.GetNumberOfSegments() > 0
        self.setEnabled(not self.locked and some and of_labelmaps)
        blocked = self.blockSignals(True)
        self.setChecked(segmentation.ContainsRepresentation(name))
        self.blockSignals(blocked)

    def _on_toggled(self, shown):
        if self._node is None:
            return
        name = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
        was_modifying = self._node.StartModify()
        if shown:
            self._node.GetSegmentation().CreateRepresentation(name)
        elif self._node.GetSegmentation().GetSourceRepresentationName() != name:
            self._node.GetSegmentation().RemoveRepresentation(name)
        self._node.EndModify(was_modifying)


@native
class qSlicerWidget(qMRMLWidget):
    """Root widget of the application's own .ui files."""


@native
class qSlicerScriptedLoadableModuleWidget(qSlicerWidget):
    """Frame of a scripted module's panel; see ``module.py``."""

    def __init__(self, parent=None):
        super().__init__(parent)
        QtWidgets.QVBoxLayout(self)
        self._python_self = None
        self._create = None
        self._is_entered = False

    @property
    def isEntered(self):
        return self._is_entered

    def self(self):
        return self._python_self

    def reload(self):
        self._create(self)
        self.setup()

    def setup(self):
        self._python_self.setup()

    def enter(self):
        self._is_entered = True
        if hasattr(self._python_self, "enter"):
            self._python_self.enter()

    def exit(self):
        self._is_entered = False
        if hasattr(self._python_self, "exit"):
            self._python_self.exit()


WIDGETS = {
    cls.__name__: cls
    for cls in (
        qMRMLWidget,
        qMRMLNodeComboBox,
        qMRMLSliderWidget,
        qMRMLSpinBox,
        qMRMLRangeWidget,
        qMRMLSegmentsTableView,
        qMRMLSegmentationShow3DButton,
        qSlicerWidget,
        qSlicerScriptedLoadableModuleWidget,
    )
}

"""The base of the qMRML widgets, the plain ones, and the table of segments."""

from __future__ import annotations

from typing import ClassVar

import slicer
from PySide6 import QtCore, QtGui, QtWidgets

from Testing.host.ctkwidgets import ctkRangeWidget, ctkSliderWidget
from Testing.host.nodecombobox import qMRMLNodeComboBox
from Testing.host.pythonqt import native
from Testing.host.widgetparts import Observations, stored

Signal = QtCore.Signal


@native
class qMRMLWidget(QtWidgets.QWidget):
    """A widget that knows the scene; the root of every module panel."""

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
    """A slider that the application gives the scene's units; plain here."""

    quantity = stored("quantity", str, "")

    def setMRMLScene(self, scene):
        pass


@native
class qMRMLSpinBox(QtWidgets.QDoubleSpinBox):
    """A spin box that the application gives the scene's units; plain here."""

    quantity = stored("quantity", str, "")

    def setMRMLScene(self, scene):
        pass


@native
class qMRMLRangeWidget(ctkRangeWidget):
    """A range that the application gives the scene's units; plain here."""

    quantity = stored("quantity", str, "")

    def setMRMLScene(self, scene):
        pass


@native
class qMRMLSegmentsTableView(qMRMLWidget):
    """The segments of a segmentation: visible or not, colour, name; names can be edited."""

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
class qSlicerWidget(qMRMLWidget):
    """The application's own root widget; the same here."""


@native
class qSlicerScriptedLoadableModuleWidget(qSlicerWidget):
    """The frame of a scripted module's panel; see ``module.py``."""

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
        qSlicerWidget,
        qSlicerScriptedLoadableModuleWidget,
    )
}

"""The section of the panel with the boxes: shown, drawn, reset, saved, and used again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from MaskSAMSlicerLib.mrml import box_nodes as boxnodes
from MaskSAMSlicerLib.mrml.box_set import AUTOMATIC, DRAWN, EDITED, BoxSet
from MaskSAMSlicerLib.panel.dialogs import ask_save_path

_FILTER = "ROI (*.mrk.json)"


class BoxesView(VTKObservationMixin):
    """Shows what boxes there are, and asks for updates.

    Args:
        ui: the panel's widgets.
        on_update: starts an update; called with whether the person waits for it, or it is a live
            one.
        on_message: a line for the person.
        on_error: something cannot be done.
        on_change: there are other boxes than before.
    """

    def __init__(
        self,
        ui: Any,
        on_update: Callable[[bool], None],
        on_message: Callable[[str], None],
        on_error: Callable[[Exception], None],
        on_change: Callable[[], None],
    ) -> None:
        VTKObservationMixin.__init__(self)
        self._ui = ui
        self._on_update = on_update
        self._on_message = on_message
        self._on_error = on_error
        self._on_change = on_change
        self._busy = False
        self.boxes: BoxSet | None = None
        header = ui.boxesTable.horizontalHeader()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        ui.boxesTable.connect("cellClicked(int,int)", self._jump)
        ui.boxesTable.connect("itemSelectionChanged()", self._update_buttons)
        ui.boxName.connect("textChanged(QString)", lambda _text: self._update_buttons())
        ui.showBoxesButton.connect("toggled(bool)", self._toggled)
        ui.drawBoxButton.connect("clicked(bool)", self._draw)
        ui.resetBoxButton.connect("clicked(bool)", self._reset)
        ui.updateButton.connect("clicked(bool)", lambda _checked=False: self._on_update(False))
        ui.saveBoxesButton.connect("clicked(bool)", self._save)
        ui.loadBoxesButton.connect("clicked(bool)", self._load)

    @property
    def live(self) -> bool:
        """Whether boxes are used as soon as a drag ends."""
        return self._ui.liveCheckBox.checked

    def close(self) -> None:
        """Watch nothing any more."""
        self.removeObservers()
        self.boxes = None

    def refresh(self, boxes: BoxSet | None, busy: bool) -> None:
        """Bring the section up to date with the scene."""
        self.boxes, self._busy = boxes, busy
        self._watch()
        self._ui.boxesButton.visible = boxes is not None
        if boxes is None:
            return
        shown = any(node.GetDisplayVisibility() for node in boxes.nodes)
        blocked = self._ui.showBoxesButton.blockSignals(True)
        self._ui.showBoxesButton.checked = shown
        self._ui.showBoxesButton.blockSignals(blocked)
        self._ui.boxName.visible = boxes.row.needs_boxes
        self._ui.overwriteCheckBox.visible = not boxes.row.needs_boxes
        self._ui.boxesInfo.text = self._advice()
        self._fill()
        self._update_buttons()

    def renewed(self, boxes: BoxSet | None) -> None:
        """A run has ended: automatic boxes move to where the network now sees the classes."""
        if boxes is not None and boxes.nodes and not boxes.row.needs_boxes:
            boxes.renew()
            if self._ui.showBoxesButton.checked:
                boxes.show()

    def _advice(self) -> str:
        if self.boxes.row.needs_boxes:
            return _(
                "This model segments what boxes are drawn around: name a box, draw it, press"
                " Segment. Boxes of one name make one segment."
            )
        return _("Drag a box, or draw one; Update then segments that class again, within its box.")

    def _watch(self) -> None:
        self.removeObservers()
        kind = slicer.vtkMRMLMarkupsNode
        for node in [] if self.boxes is None else self.boxes.nodes:
            self.addObserver(node, kind.PointModifiedEvent, self._moved)
            self.addObserver(node, kind.PointEndInteractionEvent, self._dragged)
            self.addObserver(node, kind.PointPositionDefinedEvent, self._dragged)

    def _fill(self) -> None:
        table, boxes = self._ui.boxesTable, self.boxes
        # Something is always chosen: the buttons below then say what they would do.
        chosen = self._chosen() or next(iter(boxes.names), "")
        blocked = table.blockSignals(True)
        table.setRowCount(len(boxes.names))
        words = {
            AUTOMATIC: _("automatic"),
            EDITED: _("changed"),
            DRAWN: _("drawn"),
        }
        for row, name in enumerate(boxes.names):
            item = qt.QTableWidgetItem(name)
            pixmap = qt.QPixmap(14, 14)
            pixmap.fill(qt.QColor.fromRgbF(*boxes.color(name)))
            item.setIcon(qt.QIcon(pixmap))
            table.setItem(row, 0, item)
            table.setItem(row, 1, qt.QTableWidgetItem(words.get(boxes.state(name), _("none"))))
            if name == chosen:
                table.selectRow(row)
        table.blockSignals(blocked)

    def _chosen(self) -> str:
        table = self._ui.boxesTable
        row = table.currentRow()
        item = table.item(row, 0) if 0 <= row < table.rowCount else None
        return "" if item is None else item.text()

    def _update_buttons(self) -> None:
        boxes, ui = self.boxes, self._ui
        if boxes is None:
            return
        free, chosen = not self._busy, self._chosen()
        named = bool(self._name_to_draw())
        ui.drawBoxButton.enabled = free and named
        ui.resetBoxButton.enabled = free and bool(chosen and boxes.nodes_of(chosen))
        ui.resetBoxButton.text = _("Remove") if boxes.row.needs_boxes else _("Reset")
        ui.updateButton.enabled = free and boxes.segmentation is not None and boxes.changed
        ui.saveBoxesButton.enabled = bool(boxes.counting)
        ui.loadBoxesButton.enabled = free

    def _name_to_draw(self) -> str:
        if self.boxes.row.needs_boxes:
            return self._ui.boxName.text.strip()
        return self._chosen()

    def _toggled(self, shown: bool) -> None:
        if self.boxes is None:
            return
        try:
            self.boxes.show() if shown else self.boxes.hide()
        except ValueError as error:
            self._on_error(error)
        self._changed()

    def _draw(self, _checked: bool = False) -> None:
        name = self._name_to_draw()
        boxnodes.draw(self.boxes.to_draw(name))
        self._changed()
        self._on_message(
            _("Draw the box '{name}': click two opposite corners in a slice view.").format(
                name=name
            )
        )

    def _reset(self, _checked: bool = False) -> None:
        name = self._chosen()
        self.boxes.reset(name)
        needed = name in self.boxes.record.edited and self.boxes.segmentation is not None
        self._changed()
        if needed and not self.boxes.row.needs_boxes:
            self._on_update(False)

    def _jump(self, row: int, _column: int) -> None:
        for node in self.boxes.nodes_of(self._ui.boxesTable.item(row, 0).text()):
            if boxnodes.has_size(node):
                center = boxnodes.in_world(node).center
                mode = slicer.vtkMRMLSliceNode.CenteredJumpSlice
                slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *center, mode)
                return

    def _choose(self, name: str) -> None:
        table = self._ui.boxesTable
        for row in range(table.rowCount):
            if table.item(row, 0).text() == name and table.currentRow() != row:
                table.selectRow(row)

    def _moved(self, node: Any, _event: Any) -> None:
        name = boxnodes.class_of(node)
        before = self.boxes.state(name)
        self._choose(name)
        self.boxes.note_change(node)
        if self.boxes.state(name) != before:
            self._changed()

    def _changed(self) -> None:
        self.refresh(self.boxes, self._busy)
        self._on_change()

    def _dragged(self, node: Any, event: Any) -> None:
        self._moved(node, event)
        drawn = boxnodes.has_size(node) and boxnodes.is_edited(node)
        if self.live and drawn and self.boxes.segmentation is not None:
            self._on_update(True)

    def _save(self, _checked: bool = False) -> None:
        path = ask_save_path(_("Save boxes"), _("boxes"), ".mrk.json", _FILTER)
        if path is None:
            return
        try:
            count = self.boxes.save(str(path))
        except ValueError as error:
            self._on_error(error)
            return
        self._on_message(_("{count} boxes saved in {path}.").format(count=count, path=path))

    def _load(self, _checked: bool = False) -> None:
        path = qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(), _("Load boxes"), "", _FILTER
        )
        if not path:
            return
        try:
            names = self.boxes.load(path)
        except ValueError as error:
            self._on_error(error)
            return
        self._changed()
        self._on_message(_("Boxes of {names} loaded.").format(names=", ".join(names)))

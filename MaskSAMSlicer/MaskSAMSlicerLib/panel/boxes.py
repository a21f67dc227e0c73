"""The panel's section of boxes: showing, drawing, resetting and saving them, segmenting again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import qt
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from MaskSAMCore.errors import MaskSAMError
from MaskSAMSlicerLib.logic import SegmentationLogic
from MaskSAMSlicerLib.mrml import box_nodes
from MaskSAMSlicerLib.mrml.box_set import AUTOMATIC, DRAWN, EDITED, BoxSet
from MaskSAMSlicerLib.panel.dialogs import ask_save_path, show_swatch
from MaskSAMSlicerLib.panel.model_picker import ModelPicker
from MaskSAMSlicerLib.panel.progress import ProgressView, WorkerTask
from MaskSAMSlicerLib.panel.results import ResultsView
from MaskSAMSlicerLib.run import Outcome, RunCallbacks, RunRequest
from MaskSAMSlicerLib.worker.client import WorkerError

if TYPE_CHECKING:
    from slicer import vtkMRMLMarkupsROINode, vtkMRMLSegmentationNode

    from MaskSAMSlicerLib.model_catalog import ModelInfo

_FILE_FILTER = "ROI (*.mrk.json)"


class BoxUpdates:
    """Runs that segment again from the boxes, one at a time.

    Args:
        logic: runs models.
        task: shows the progress of runs.
        progress: shows errors.
        picker: holds the chosen model.
        results: shows outcomes and holds the undo history that runs continue.

    Attributes:
        parameters: wrapper of the parameter node; None while a scene closes.
    """

    def __init__(
        self,
        logic: SegmentationLogic,
        task: WorkerTask,
        progress: ProgressView,
        picker: ModelPicker,
        results: ResultsView,
    ) -> None:
        self.parameters: Any = None
        self._logic = logic
        self._task = task
        self._progress = progress
        self._picker = picker
        self._results = results
        self._after_drag = False  # True if a drag, not a click, started the current run

    def propose_overwriting(self, model: ModelInfo) -> None:
        """Set the default for overwriting when another model is chosen: on if its classes fill the
        skull, because they could not grow otherwise."""
        parameters = self.parameters
        if parameters is not None and parameters.boxModel != model.name:
            parameters.boxModel, parameters.boxOverwrite = model.name, model.fills_skull

    def boxes(self) -> BoxSet | None:
        """Return the boxes for the chosen model and volume; None if there cannot be any.

        The boxes belong to the output segmentation if it is a result of this model and volume, else
        to the latest result.
        """
        parameters = self.parameters
        if parameters is None:
            return None
        results = parameters.outputSegmentation, parameters.boxSegmentation
        return BoxSet.of(self._picker.model, parameters.inputVolume, *results)

    def boxes_of_first_run(self) -> list[vtkMRMLMarkupsROINode]:
        """Return the active boxes for a first run; none unless the model needs boxes."""
        boxes = self.boxes()
        return boxes.active_boxes if boxes is not None and boxes.model.needs_boxes else []

    def start(self, after_drag: bool = False) -> None:
        """Segment again from the boxes.

        Args:
            after_drag: whether the user has dragged a box and not clicked a button. Errors are
                then shown in the status line only, and if the worker is busy, one run follows the
                current task, however many drags end meanwhile.
        """
        boxes = self.boxes()
        if boxes is None or boxes.segmentation is None:
            return
        if self._task.busy:
            if after_drag:
                self._task.follow_with(lambda: self._follow_drag(boxes.segmentation))
            return
        self._after_drag = after_drag
        request = RunRequest(
            volumes=(),
            model=boxes.model,
            boxes=boxes.active_boxes,
            output=boxes.segmentation,
            device=self.parameters.device,
            overwrite=self.parameters.boxOverwrite,
        )
        try:
            self._logic.start_update(
                request,
                RunCallbacks(self._task.advance, self._on_done, self._on_error),
                self._results.history_of(boxes.segmentation),
            )
        except ValueError as error:
            if after_drag:
                self._progress.show_status(str(error))
            else:
                self._progress.refuse(error)
            return
        self._task.begin(_("Segmenting again"))

    def _on_done(self, outcome: Outcome) -> None:
        changed = ", ".join(outcome.changed) or _("nothing")
        self._task.end(
            _("Segmented again in {seconds:.2f} s; changed: {changed}.").format(
                changed=changed, seconds=outcome.seconds
            )
        )
        self._results.show(outcome)

    def _on_error(self, error: WorkerError) -> None:
        self._task.fail(error, show=not self._after_drag)

    def _follow_drag(self, segmentation: vtkMRMLSegmentationNode) -> None:
        """Segment again after a task during which a box was dragged.

        Args:
            segmentation: segmentation of the dragged box; the task may have made another one.
        """
        boxes = self.boxes()
        if boxes is not None and boxes.segmentation is segmentation and boxes.changed:
            self.start(after_drag=True)


class BoxesView(VTKObservationMixin):
    """The table of boxes and the buttons below.

    Args:
        ui: the panel's widgets.
        updates: segments again from the boxes.
        task: holds whether the worker is busy.
        progress: shows messages and errors.
        on_change: called when the user has added, changed or removed a box.
    """

    def __init__(
        self,
        ui: Any,
        updates: BoxUpdates,
        task: WorkerTask,
        progress: ProgressView,
        on_change: Callable[[], None],
    ) -> None:
        VTKObservationMixin.__init__(self)
        self._ui = ui
        self._updates = updates
        self._task = task
        self._progress = progress
        self._on_change = on_change
        self._boxes: BoxSet | None = None
        self._paused = False
        header = ui.boxesTable.horizontalHeader()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        ui.boxesTable.connect("cellClicked(int,int)", self._jump)
        ui.boxesTable.connect("cellActivated(int,int)", self._jump)  # by the keyboard
        ui.boxesTable.connect("itemSelectionChanged()", self._update_buttons)
        ui.boxName.connect("textChanged(QString)", lambda _text: self._update_buttons())
        ui.showBoxesButton.connect("toggled(bool)", self._toggle)
        ui.drawBoxButton.connect("clicked(bool)", self._draw)
        ui.resetBoxButton.connect("clicked(bool)", self._reset)
        ui.updateButton.connect("clicked(bool)", lambda _checked=False: self._updates.start())
        ui.saveBoxesButton.connect("clicked(bool)", self._save)
        ui.loadBoxesButton.connect("clicked(bool)", self._load)

    def close(self) -> None:
        """Stop observing the boxes."""
        self.removeObservers()
        self._boxes = None

    def pause(self) -> None:
        """Stop segmenting after drags, because the user leaves the panel and could not cancel."""
        self._paused = True

    def resume(self) -> None:
        """Undo `pause`, and note how the boxes were changed meanwhile."""
        self._paused = False
        if self._boxes is not None:
            self._boxes.note_changes()
            self._changed()

    def refresh(self) -> None:
        """Show the boxes for the chosen model and volume."""
        before, boxes = self._boxes, self._updates.boxes()
        self._boxes = boxes
        if boxes is not None and (before is None or before.owner is not boxes.owner):
            boxes.note_changes()  # changes were not observed so far
        self._observe()
        # Boxes are ROIs too, but none of them is a region to segment.
        hidden = [node.GetID() for node in box_nodes.all_boxes()]
        self._ui.roiSelector.sortFilterProxyModel().hiddenNodeIDs = hidden
        self._ui.boxesButton.visible = boxes is not None
        if boxes is None:
            return
        shown = any(node.GetDisplayVisibility() for node in boxes.nodes)
        blocked = self._ui.showBoxesButton.blockSignals(True)
        self._ui.showBoxesButton.checked = shown
        self._ui.showBoxesButton.blockSignals(blocked)
        self._ui.boxName.visible = boxes.model.needs_boxes
        self._ui.overwriteCheckBox.visible = not boxes.model.needs_boxes
        self._updates.propose_overwriting(boxes.model)
        self._ui.boxesInfo.text = self._advice()
        self._fill_table()
        self._update_buttons()

    def show_new(self) -> None:
        """Show the boxes of the run that has just ended, if boxes are shown."""
        boxes = self._updates.boxes()
        if boxes is not None and boxes.nodes and self._ui.showBoxesButton.checked:
            boxes.show()

    def show_box(self, segmentation: vtkMRMLSegmentationNode, name: str) -> None:
        """Show the box of a class and select it, if the boxes are those of this segmentation."""
        boxes = self._updates.boxes()
        if boxes is None or boxes.segmentation is not segmentation or boxes.model.needs_boxes:
            return
        try:
            boxes.show_one(name)
        except ValueError as error:
            self._progress.refuse(error)
        self._changed()
        self._select(name)

    def _advice(self) -> str:
        if self._boxes.model.needs_boxes:
            return _(
                "This model segments the structure inside each box: name a box, draw it, press"
                " Segment. Boxes of the same name make one segment."
            )
        return _(
            "Drag a box, or draw one, then press Segment again: the class is segmented again"
            " inside its box."
        )

    def _observe(self) -> None:
        self.removeObservers()
        events = slicer.vtkMRMLMarkupsNode
        for node in [] if self._boxes is None else self._boxes.nodes:
            self.addObserver(node, events.PointModifiedEvent, self._on_move)
            self.addObserver(node, events.PointEndInteractionEvent, self._on_drag_end)
            self.addObserver(node, events.PointPositionDefinedEvent, self._on_drag_end)

    def _fill_table(self) -> None:
        table, boxes = self._ui.boxesTable, self._boxes
        # A row is always selected, so that the buttons below act on something visible.
        selected = self._selected_name() or next(iter(boxes.names), "")
        blocked = table.blockSignals(True)
        table.setRowCount(len(boxes.names))
        texts = {AUTOMATIC: _("automatic"), EDITED: _("changed"), DRAWN: _("drawn")}
        for row, name in enumerate(boxes.names):
            item = qt.QTableWidgetItem(name)
            show_swatch(item, boxes.color(name))
            table.setItem(row, 0, item)
            table.setItem(row, 1, qt.QTableWidgetItem(texts.get(boxes.state(name), _("none"))))
            if name == selected:
                table.selectRow(row)
        table.blockSignals(blocked)

    def _selected_name(self) -> str:
        table = self._ui.boxesTable
        row = table.currentRow()
        item = table.item(row, 0) if 0 <= row < table.rowCount else None
        return "" if item is None else item.text()

    def _select(self, name: str) -> None:
        table = self._ui.boxesTable
        for row in range(table.rowCount):
            if table.item(row, 0).text() == name and table.currentRow() != row:
                table.selectRow(row)

    def _name_to_draw(self) -> str:
        if self._boxes.model.needs_boxes:
            return self._ui.boxName.text.strip()
        return self._selected_name()

    def _update_buttons(self) -> None:
        boxes, ui = self._boxes, self._ui
        if boxes is None:
            return
        idle, selected = not self._task.busy, self._selected_name()
        ui.drawBoxButton.enabled = idle and bool(self._name_to_draw())
        ui.resetBoxButton.enabled = idle and bool(selected and boxes.nodes_of(selected))
        ui.resetBoxButton.text = _("Rem&ove") if boxes.model.needs_boxes else _("Rese&t")
        ui.updateButton.enabled = idle and boxes.segmentation is not None and boxes.changed
        ui.saveBoxesButton.enabled = bool(boxes.active_boxes)
        ui.loadBoxesButton.enabled = idle

    def _changed(self) -> None:
        self.refresh()
        self._on_change()

    def _toggle(self, shown: bool) -> None:
        if self._boxes is None:
            return
        try:
            self._boxes.show() if shown else self._boxes.hide()
        except ValueError as error:
            self._progress.refuse(error)
        self._changed()

    def _draw(self, _checked: bool = False) -> None:
        name = self._name_to_draw()
        box_nodes.draw(self._boxes.node_to_draw(name))
        self._changed()
        self._progress.show_status(
            _("Draw the box '{name}': click two opposite corners in a slice view.").format(
                name=name
            )
        )

    def _reset(self, _checked: bool = False) -> None:
        name, boxes = self._selected_name(), self._boxes
        boxes.reset(name)
        segment_changes = name in boxes.record.edited and boxes.segmentation is not None
        self._changed()
        if segment_changes and not boxes.model.needs_boxes:
            self._updates.start()

    def _jump(self, row: int, _column: int) -> None:
        for node in self._boxes.nodes_of(self._ui.boxesTable.item(row, 0).text()):
            if box_nodes.has_size(node):
                center = [0.0, 0.0, 0.0]
                node.GetCenterWorld(center)
                mode = slicer.vtkMRMLSliceNode.CenteredJumpSlice
                slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *center, mode)
                return

    def _on_move(self, node: Any, _event: Any) -> None:
        name = box_nodes.class_of(node)
        before = self._boxes.state(name)
        self._select(name)
        self._boxes.note_change(node)
        if self._boxes.state(name) != before:
            self._changed()

    def _on_drag_end(self, node: Any, event: Any) -> None:
        self._on_move(node, event)
        edited = box_nodes.has_size(node) and box_nodes.is_edited(node)
        live = self._ui.liveCheckBox.checked and not self._paused
        if live and edited and self._boxes.segmentation is not None:
            self._updates.start(after_drag=True)

    def _save(self, _checked: bool = False) -> None:
        path = ask_save_path(_("Save boxes"), _("boxes"), ".mrk.json", _FILE_FILTER)
        if path is None:
            return
        try:
            count = self._boxes.save(str(path))
        except ValueError as error:
            self._progress.show_error(error)
            return
        self._progress.show_status(
            _("{count} boxes saved in {path}.").format(count=count, path=path)
        )

    def _load(self, _checked: bool = False) -> None:
        path = qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(), _("Load boxes"), "", _FILE_FILTER
        )
        if not path:
            return
        try:
            names = self._boxes.load(path)
        except MaskSAMError as error:  # the file cannot be read
            self._progress.show_error(error)
            return
        except ValueError as error:
            self._progress.refuse(error)
            return
        self._changed()
        self._progress.show_status(_("Boxes of {names} loaded.").format(names=", ".join(names)))

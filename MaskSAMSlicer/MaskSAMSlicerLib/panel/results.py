"""The panel's section of results: classes with confidence, volume, share of the intracranial
volume, asymmetry, expected Dice and opacity; undo; export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.volumetry import (
    LOW_DICE,
    StructureVolume,
    estimated,
    has_shares,
    structure_volumes,
    volume_table,
    write_volume_table,
)
from MaskSAMSlicerLib.mrml.run_record import volumes_of
from MaskSAMSlicerLib.mrml.segment_editor import edit
from MaskSAMSlicerLib.mrml.sequences import FrameSequence, shown_value
from MaskSAMSlicerLib.mrml.undo import UndoHistory
from MaskSAMSlicerLib.mrml.volumes import place_in_world
from MaskSAMSlicerLib.panel.dialogs import ask_save_path, show_swatch
from MaskSAMSlicerLib.panel.progress import ProgressView, WorkerTask
from MaskSAMSlicerLib.run import FrameResult, Outcome

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode

_NAME_COLUMN, _CONFIDENCE_COLUMN = 0, 1
_SHARE_COLUMN, _ASYMMETRY_COLUMN, _DICE_COLUMN, _OPACITY_COLUMN = 3, 4, 5, 6
# Pixels for a name in two lines beside its tick and its colour.
_NAME_WIDTH = 126
# Readable on light and on dark backgrounds.
_RED = "#e0442e"


class ResultsView(VTKObservationMixin):
    """The table of classes that a run has found, and the buttons below.

    Slicer's own table of segments is not used, because its model refills all columns from the
    segmentation, so that none can be added for confidence, volume and asymmetry.

    Args:
        ui: the panel's widgets.
        task: holds whether the worker is busy.
        progress: shows messages and errors.
        show_box: receives the segmentation and a class, and shows the box of the class, so that the
            user can drag it.
        on_change: called when the user has undone or redone a run, which also changes the record.
    """

    def __init__(
        self,
        ui: Any,
        task: WorkerTask,
        progress: ProgressView,
        show_box: Callable[[vtkMRMLSegmentationNode, str], None],
        on_change: Callable[[], None],
    ) -> None:
        VTKObservationMixin.__init__(self)
        self._ui = ui
        self._task = task
        self._progress = progress
        self._show_box = show_box
        self._on_change = on_change
        self._outcome: Outcome | None = None
        self._steps_back = 0  # steps undone and not redone since the outcome
        self._frame = 0
        self._warnings: Sequence[str] = ()
        self._fill_pending = False
        header = ui.resultsTable.horizontalHeader()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        two_lines = 2 * ui.resultsTable.fontMetrics().height() + 2
        ui.resultsTable.verticalHeader().setDefaultSectionSize(two_lines)
        # A narrow panel shows the first columns only.
        header.moveSection(_DICE_COLUMN, 1)
        ui.resultsTable.connect("itemChanged(QTableWidgetItem*)", self._change)
        ui.resultsTable.connect("cellClicked(int,int)", self._jump)
        ui.resultsTable.connect("cellActivated(int,int)", self._jump)  # by the keyboard
        ui.undoButton.connect("clicked(bool)", self._undo)
        ui.redoButton.connect("clicked(bool)", self._redo)
        ui.copyButton.connect("clicked(bool)", self._copy)
        ui.exportButton.connect("clicked(bool)", self._export)
        ui.editButton.connect("clicked(bool)", self._edit)
        self.clear()

    def clear(self) -> None:
        """Hide the section and drop the outcome with its undo history."""
        if self._outcome is not None:
            self._outcome.undo.close()
        self._outcome = None
        self._steps_back = 0
        self.removeObservers()
        self._ui.show3DButton.setSegmentationNode(None)
        self._ui.resultsTable.setRowCount(0)
        self._ui.resultsInfo.text = ""
        self._ui.resultsButton.visible = False
        self._update_buttons()

    def history_of(self, node: vtkMRMLSegmentationNode) -> UndoHistory | None:
        """Return the undo history of a segmentation; None if another one is shown."""
        shown = self._outcome is not None and self._node() is node
        undo = self._outcome.undo if shown else None
        return undo if isinstance(undo, UndoHistory) else None

    def show(self, outcome: Outcome) -> None:
        """Show the outcome of a run."""
        if self._outcome is not None and self._outcome.undo is outcome.undo:
            self._outcome = None  # its undo history is still in use and must not be closed
        self.clear()
        self._outcome = outcome
        self._ui.resultsButton.visible = True
        self._ui.show3DButton.setSegmentationNode(outcome.node)
        sequence = FrameSequence.of(outcome.node) if outcome.frames else None
        if sequence is not None:
            browser, modified = sequence.browser, vtk.vtkCommand.ModifiedEvent
            for changed in (browser, browser.GetMasterSequenceNode()):
                self.addObserver(changed, modified, lambda *_event: self._follow(browser))
        else:
            segmentation = outcome.node.GetSegmentation()
            if outcome.intracranial:
                for event in (segmentation.SegmentAdded, segmentation.SegmentRemoved):
                    self.addObserver(segmentation, event, self._on_segments_changed)
            self.addObserver(
                segmentation, segmentation.SegmentModified, self._on_appearance_changed
            )
            modified = vtk.vtkCommand.ModifiedEvent
            # A segmentation of a sequence may switch to another frame.
            self.addObserver(outcome.node, modified, lambda *_event: self._update_buttons())
            display = outcome.node.GetDisplayNode()
            if display is not None:
                self.addObserver(display, modified, self._on_appearance_changed)
        self._frame = 0 if sequence is None else self._frame_shown_in(sequence.browser)
        self._fill()

    def refresh(self, warnings: Sequence[str]) -> None:
        """Clear the table if its segmentation is no longer in the scene, and update the buttons.

        Args:
            warnings: messages that the panel shows elsewhere, which are not repeated here.
        """
        self._warnings = warnings
        if self._outcome is not None and self._node() is None:
            self.clear()
        self._show_info()
        self._update_buttons()

    def _frame_shown_in(self, browser: Any) -> int:
        """Return the index of the result of the shown frame; -1 for a frame without a result."""
        values = [frame.value for frame in self._outcome.frames]
        shown = shown_value(browser)
        return values.index(shown) if shown in values else -1

    def _follow(self, browser: Any) -> None:
        """Show the result of the frame that a browser shows now."""
        if self._frame != self._frame_shown_in(browser):
            self._frame = self._frame_shown_in(browser)
            self._fill()

    def _on_segments_changed(self, *_event: object) -> None:
        if self._node() is not None:
            self._fill()

    def _on_appearance_changed(self, *_event: object) -> None:
        # The table is filled later and once, because other code may change many segments in turn.
        if not self._fill_pending:
            self._fill_pending = True
            qt.QTimer.singleShot(0, self._fill_later)

    def _fill_later(self) -> None:
        self._fill_pending = False
        if self._node() is not None:
            self._fill()

    def _results(self) -> Sequence[Outcome | FrameResult]:
        """Return the result of each frame, or the only result."""
        return self._outcome.frames or (self._outcome,)

    def _shown(self) -> Outcome | FrameResult | None:
        """Return the result of the shown frame, or the only result; None if the frame has none."""
        results = self._results()
        return results[self._frame] if 0 <= self._frame < len(results) else None

    def _fill(self) -> None:
        shown = self._shown()
        table = self._ui.resultsTable
        blocked = table.blockSignals(True)
        rows = [] if shown is None else self._volumes(self._frame)
        classes = [] if shown is None else zip(shown.found, shown.segment_ids, strict=True)
        table.setRowCount(len(rows))
        # The last row may be the intracranial volume, which is no class.
        for index, (row, of_class) in enumerate(zip_longest(rows, classes)):
            name = qt.QTableWidgetItem(row.name)
            name.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | qt.Qt.ItemIsUserCheckable)
            if of_class is None:
                name.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
                name.setData(qt.Qt.UserRole, "")
            else:
                item, segment_id = of_class
                segment = self._segment(segment_id)
                if segment is not None:
                    name.setText(segment.GetName())
                name.setCheckState(qt.Qt.Checked if self._visible(segment_id) else qt.Qt.Unchecked)
                show_swatch(name, item.label.color if segment is None else segment.GetColor())
                name.setData(qt.Qt.UserRole, segment_id)
            table.setItem(index, _NAME_COLUMN, name)
            confidence = "" if row.confidence is None else f"{row.confidence:.2f}"
            share = "" if row.share is None else f"{row.share:.2f}"
            asymmetry = "" if row.asymmetry is None else f"{row.asymmetry:+.1f}"
            texts = (confidence, f"{row.ml:.2f}", share, asymmetry)
            for column, text in enumerate(texts, start=_CONFIDENCE_COLUMN):
                table.setItem(index, column, _cell(text))
            table.setItem(index, _DICE_COLUMN, _dice_cell(row))
            opacity = None if of_class is None else self._opacity(of_class[1])
            table.setItem(index, _OPACITY_COLUMN, _opacity_cell(opacity))
        table.setColumnHidden(_SHARE_COLUMN, not has_shares([rows]))
        table.setColumnHidden(_ASYMMETRY_COLUMN, all(row.asymmetry is None for row in rows))
        rated = estimated([rows])
        # The expected Dice replaces the confidence: it says more, and names need the width.
        table.setColumnHidden(_CONFIDENCE_COLUMN, rated)
        table.setColumnHidden(_DICE_COLUMN, not rated)
        self._fit_names(crowded=has_shares([rows]))
        table.blockSignals(blocked)
        self._show_info()
        self._update_buttons()

    def _fit_names(self, crowded: bool) -> None:
        """Give names the width that other columns leave, or a fixed width if columns are many."""
        header = self._ui.resultsTable.horizontalHeader()
        mode = header.sectionResizeMode(_NAME_COLUMN)
        wanted = qt.QHeaderView.Interactive if crowded else qt.QHeaderView.Stretch
        if mode != wanted:
            header.setSectionResizeMode(_NAME_COLUMN, wanted)
            header.resizeSection(_NAME_COLUMN, _NAME_WIDTH)

    def _show_info(self) -> None:
        outcome = self._outcome
        if outcome is None:
            return
        lines = [
            _("{count} classes in {seconds:.1f} s on {device}.").format(
                count=len(outcome.found), seconds=outcome.seconds, device=outcome.device
            )
        ]
        if outcome.frames:
            lines = [
                _("{count} frames in {seconds:.1f} s on {device}.").format(
                    count=len(outcome.frames), seconds=outcome.seconds, device=outcome.device
                )
            ]
        elif not outcome.found:
            lines = [_("No class was found: check the volume, the ROI and the model.")]
        shown = self._shown()
        notes = [] if shown is None else shown.notes
        lines += [note for note in notes if note not in self._warnings]
        if not self._steps_back and shown is not None and self._lacks_segments(self._frame):
            lines.append(_("No intracranial volume is shown, because segments were removed."))
        self._ui.resultsInfo.text = "\n".join(lines)

    def _volumes(self, frame: int) -> list[StructureVolume]:
        """Return the volumes of a frame, or of the only result, which has number 0."""
        result = self._results()[frame]
        structures = [(item.label.name, item.confidence, item.voxels) for item in result.found]
        expected = {
            one.label.name: (one.expected_dice, one.expected_dice_low) for one in result.found
        }
        intracranial = () if self._lacks_segments(frame) else result.intracranial
        return structure_volumes(structures, result.voxel_ml, expected, intracranial)

    def _lacks_segments(self, frame: int) -> bool:
        """Return whether segments were removed that are part of the intracranial volume."""
        result = self._results()[frame]
        ids = [
            segment_id
            for item, segment_id in zip(result.found, result.segment_ids, strict=True)
            if item.label.name in result.intracranial
        ]
        node = self._node()
        sequence = FrameSequence.of(node) if self._outcome.frames else None
        if sequence is not None:
            node = sequence.stored(node, result.value)
        present = [] if node is None else node.GetSegmentation().GetSegmentIDs()
        return not set(ids) <= set(present)

    def _all_volumes(self, name: str) -> dict[str, list[StructureVolume]]:
        """Return the volumes of each frame by its title, or those of the only result by a name."""
        frames = self._outcome.frames
        if not frames:
            return {name: self._volumes(0)}
        return {
            f"{name} {frame.title}".strip(): self._volumes(number)
            for number, frame in enumerate(frames)
        }

    def _copy(self, _checked: bool = False) -> None:
        text = volume_table(self._all_volumes(""), "\t")
        qt.QApplication.clipboard().setText(text)
        self._progress.show_status(_("The table was copied to the clipboard."))

    def _export(self, _checked: bool = False) -> None:
        name = self._outcome.volume_name
        title = _("Export volumes")
        path = ask_save_path(title, name + "-" + _("volumes"), ".csv", "CSV (*.csv)")
        if path is None:
            return
        try:
            write_volume_table(path, self._all_volumes(name))
        except MaskSAMError as error:
            self._progress.show_error(error)
            return
        self._progress.show_status(_("Volumes saved in {path}.").format(path=path))

    def _node(self) -> Any:
        """Return the shown segmentation; None if it is no longer in the scene."""
        if self._outcome is None:
            return None
        return slicer.mrmlScene.GetNodeByID(self._outcome.undo.node_id)

    def _segment(self, segment_id: str) -> Any:
        """Return a segment of the shown segmentation; None if there is none of this ID."""
        node = self._node()
        return None if node is None else node.GetSegmentation().GetSegment(segment_id)

    def _display_of(self, segment_id: str) -> Any:
        """Return the display node of a segment; None if there is no such segment or node."""
        return None if self._segment(segment_id) is None else self._node().GetDisplayNode()

    def _visible(self, segment_id: str) -> bool:
        display = self._display_of(segment_id)
        return display is not None and bool(display.GetSegmentVisibility(segment_id))

    def _opacity(self, segment_id: str) -> float | None:
        display = self._display_of(segment_id)
        return None if display is None else display.GetSegmentOpacity3D(segment_id)

    def _change(self, item: Any) -> None:
        """Show or hide the segment of a row or change its opacity, as the user did in the table."""
        segment_id = self._ui.resultsTable.item(item.row(), _NAME_COLUMN).data(qt.Qt.UserRole)
        display = self._display_of(segment_id) if segment_id else None
        if display is None:
            return
        if item.column() == _NAME_COLUMN:
            display.SetSegmentVisibility(segment_id, item.checkState() == qt.Qt.Checked)
        elif item.column() == _OPACITY_COLUMN:
            opacity = min(max(float(item.data(qt.Qt.EditRole)), 0.0), 1.0)
            display.SetSegmentOpacity3D(segment_id, opacity)
            self._on_appearance_changed()  # corrects the cell if a value was out of range

    def _jump(self, row: int, _column: int) -> None:
        node = self._node()
        segment_id = self._ui.resultsTable.item(row, _NAME_COLUMN).data(qt.Qt.UserRole)
        if not segment_id or node is None or node.GetSegmentation().GetSegment(segment_id) is None:
            return
        item = self._shown().found[row]
        doubtful = item.expected_dice_low is not None and item.expected_dice_low < LOW_DICE
        place = node.GetSegmentCenterRAS(segment_id)
        if doubtful and item.weakest_place is not None:
            place = self._world_place(item.weakest_place) or place
        if place is not None:
            mode = slicer.vtkMRMLSliceNode.CenteredJumpSlice
            slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *place, mode)
        if doubtful:
            self._show_box(node, item.label.name)

    def _world_place(self, edges: Sequence[float]) -> Sequence[float] | None:
        """Return the position in the world of a point in voxel edges of the segmented volume.

        None if the volume is no longer in the scene, or is under a deformation.
        """
        try:
            return place_in_world(volumes_of(self._node())[0], edges)
        except ValueError:
            return None

    def _edit(self, _checked: bool = False) -> None:
        """Open the Segment Editor on the segmentation, its volume and the chosen class."""
        node = self._node()
        if node is None:
            return
        row = self._ui.resultsTable.currentRow()
        item = self._ui.resultsTable.item(row, _NAME_COLUMN) if row >= 0 else None
        edit(node, "" if item is None else item.data(qt.Qt.UserRole))
        slicer.util.selectModule("SegmentEditor")

    def _undo(self, _checked: bool = False) -> None:
        if self._outcome.undo.can_undo:
            self._outcome.undo.undo()
            self._steps_back += 1
        self._on_change()

    def _redo(self, _checked: bool = False) -> None:
        if self._outcome.undo.can_redo:
            self._outcome.undo.redo()
            self._steps_back -= 1
        self._on_change()

    def _update_buttons(self) -> None:
        undo = self._outcome.undo if self._outcome is not None else None
        # An undo during a run could not be redone after the run has ended.
        idle = undo is not None and not self._task.busy
        self._ui.undoButton.enabled = idle and undo.can_undo
        self._ui.redoButton.enabled = idle and undo.can_redo
        # After an undo the table still shows the undone classes, even if an edit makes a redo
        # impossible.
        found = self._outcome is not None and (self._outcome.found or self._outcome.frames)
        valid = bool(found) and not self._steps_back
        for button in (self._ui.copyButton, self._ui.exportButton):
            button.enabled = valid


def _cell(text: str) -> Any:
    """Return a cell of numbers, which the user cannot edit."""
    cell = qt.QTableWidgetItem(text)
    cell.setTextAlignment(int(qt.Qt.AlignRight | qt.Qt.AlignVCenter))
    cell.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
    return cell


def _dice_cell(row: StructureVolume) -> Any:
    """Return the cell of the expected Dice and its bound, red where the class may be wrong."""
    if row.expected_dice is None or row.expected_dice_low is None:
        return _cell("")
    cell = _cell(f"{row.expected_dice:.2f}\n\u2265 {row.expected_dice_low:.2f}")
    lines = []
    if row.expected_dice_low < LOW_DICE:
        cell.setForeground(qt.QBrush(qt.QColor(_RED)))
        lines.append(
            _("This class may be wrong: click it to see its least certain slice and its box.")
        )
    if row.confidence is not None:
        lines.append(_("Confidence: {value:.2f}").format(value=row.confidence))
    cell.setToolTip("\n".join(lines))
    return cell


def _opacity_cell(opacity: float | None) -> Any:
    """Return the cell of an opacity, which the user can edit; empty where there is none."""
    cell = _cell("")
    if opacity is not None:
        cell.setFlags(cell.flags() | qt.Qt.ItemIsEditable)
        cell.setData(qt.Qt.EditRole, round(opacity, 2))
    return cell

"""The table of corrected volumes with their segments, from which a model learns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import qt
import slicer
from slicer.i18n import tr as _

from MaskSAMCore.labels import is_reserved
from MaskSAMSlicerLib.model_catalog import find_model
from MaskSAMSlicerLib.mrml.corrections import (
    ABSENT,
    ADDED,
    CHANGED,
    CORRECTED,
    REMOVED,
    UNCHANGED,
    ClassState,
    CorrectedNodes,
    class_states,
    content_time,
    images_of,
    is_corrected,
)
from MaskSAMSlicerLib.mrml.run_record import SegmentationRecord
from MaskSAMSlicerLib.panel.dialogs import swatch

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode


class _Row:
    """A segmentation in the table.

    Attributes:
        node_id: ID of the segmentation.
        volume_ids: IDs of its volumes.
        states: its classes.
        ticks: whether a class is ticked, by class name.
        read_at: key of the segments' content when the classes were read.
    """

    def __init__(self, node_id: str, volume_ids: Sequence[str]) -> None:
        self.node_id = node_id
        self.volume_ids = list(volume_ids)
        self.states: list[ClassState] = []
        self.ticks: dict[str, bool] = {}
        self.read_at: tuple[int, int] | None = None

    @property
    def node(self) -> vtkMRMLSegmentationNode | None:
        """The segmentation; None if it is no longer in the scene."""
        return slicer.mrmlScene.GetNodeByID(self.node_id)

    @property
    def volumes(self) -> list[vtkMRMLScalarVolumeNode]:
        """Volumes that are still in the scene."""
        found = [slicer.mrmlScene.GetNodeByID(one) for one in self.volume_ids]
        return [node for node in found if node is not None]

    def read(self) -> bool:
        """Read the classes again if the segments have changed, and return whether they had changed.

        A class whose state has changed is ticked if the user has corrected it, else unticked.

        Raises:
            ValueError: the segments cannot be put on the volume's grid.
        """
        node, now = self.node, content_time(self.node)
        if now == self.read_at:
            return False
        before = {one.name: one.state for one in self.states}
        # A later run may have segmented another volume into the same segmentation.
        volumes = images_of(node) if SegmentationRecord.load(node) is not None else []
        if volumes:
            self.volume_ids = [volume.GetID() for volume in volumes]
        states = class_states(node, self.volumes[0], _labels_of(node))
        self.states = sorted(states, key=lambda one: one.state not in CORRECTED)
        for one in self.states:
            if before.get(one.name) != one.state:
                self.ticks[one.name] = one.state in CORRECTED and not is_reserved(one.name)
        self.read_at = now
        return True


class CorrectionsTable:
    """The tree of volumes and their segments with ticks.

    Args:
        tree: the widget.
        on_change: called when the user has ticked or selected something.
    """

    def __init__(self, tree: Any, on_change: Callable[[], None]) -> None:
        self._tree = tree
        self._on_change = on_change
        self._rows: list[_Row] = []
        self._refused: set[str] = set()  # segmentations that the user has removed from the table
        self._known: dict[str, tuple[tuple[int, int], bool]] = {}
        header = tree.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        tree.connect("itemChanged(QTreeWidgetItem*,int)", self._on_item_changed)
        tree.connect("itemSelectionChanged()", on_change)

    @property
    def empty(self) -> bool:
        """Return whether the table has no row."""
        return not self._rows

    @property
    def selected(self) -> bool:
        """Return whether a row is selected."""
        return self._selected() is not None

    def corrections(self) -> list[CorrectedNodes]:
        """Return the segmentations with ticked classes."""
        found = []
        for row in self._rows:
            checked = [one.name for one in row.states if row.ticks.get(one.name)]
            if checked:
                found.append(CorrectedNodes(row.volumes, row.node, checked))
        return found

    def add(
        self, node: vtkMRMLSegmentationNode, volumes: Sequence[vtkMRMLScalarVolumeNode]
    ) -> None:
        """Add a segmentation; its segments are ticked if the user has made or changed them.

        Raises:
            ValueError: the segmentation has no volume, or its segments cannot be put on the grid.
        """
        if not volumes:
            raise ValueError(
                _("Choose the volume of '{name}' under Input, then add it.").format(
                    name=node.GetName()
                )
            )
        if any(row.node_id == node.GetID() for row in self._rows):
            return
        row = _Row(node.GetID(), [volume.GetID() for volume in volumes])
        row.read()
        self._refused.discard(node.GetID())
        self._rows.append(row)
        self._fill()

    def offer(self) -> None:
        """Add the results of runs that the user has corrected, and read changed segments anew."""
        changed = False
        for row in self._rows:
            if row.node is not None and row.volumes:
                try:
                    changed = row.read() or changed
                except ValueError:  # learning reports unsuitable transforms when it starts
                    continue
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            if node.GetID() not in self._refused and self._is_corrected(node):
                # A segmentation whose volume is not in the scene or cannot be used is skipped.
                with contextlib.suppress(ValueError):
                    self.add(node, images_of(node))
        if changed:
            self._fill()

    def remove_selected(self) -> None:
        """Remove the selected row."""
        row = self._selected()
        if row is not None:
            self._refused.add(row.node_id)
            self._rows.remove(row)
            self._fill()

    def forget_removed(self) -> None:
        """Remove the rows of nodes that are no longer in the scene."""
        kept = [r for r in self._rows if r.node is not None and len(r.volumes) == len(r.volume_ids)]
        if len(kept) < len(self._rows):
            self._rows = kept
            self._fill()

    def clear(self) -> None:
        """Remove all rows, because the scene closes."""
        self._rows, self._known = [], {}
        self._refused.clear()
        self._fill()

    def _is_corrected(self, node: vtkMRMLSegmentationNode) -> bool:
        key, now = node.GetID(), content_time(node)
        if self._known.get(key, (None, False))[0] != now:
            self._known[key] = now, is_corrected(node)
        return self._known[key][1]

    def _fill(self) -> None:
        tree = self._tree
        blocked = tree.blockSignals(True)
        selected = self._selected()
        tree.clear()
        texts = {
            CHANGED: _("corrected"),
            ADDED: _("added"),
            REMOVED: _("removed"),
            UNCHANGED: _("unchanged"),
            ABSENT: _("not found"),
        }
        names = [row.volumes[0].GetName() for row in self._rows]
        for row, name in zip(self._rows, names, strict=True):
            top = qt.QTreeWidgetItem()
            several = names.count(name) > 1
            top.setText(0, f"{name} ({row.node.GetName()})" if several else name)
            top.setToolTip(0, row.node.GetName())
            top.setData(0, qt.Qt.UserRole, row.node_id)
            # Ticking the volume ticks all of its segments.
            top.setFlags(
                qt.Qt.ItemIsEnabled
                | qt.Qt.ItemIsSelectable
                | qt.Qt.ItemIsUserCheckable
                | qt.Qt.ItemIsAutoTristate
            )
            for one in row.states:
                item = qt.QTreeWidgetItem()
                item.setText(0, one.name)
                item.setText(1, texts[one.state])
                item.setIcon(0, swatch(one.color))
                if is_reserved(one.name):  # no checkbox
                    item.setText(1, _("rename it"))
                    item.setToolTip(0, _("No class can be named '{name}'.").format(name=one.name))
                else:
                    ticked = row.ticks.get(one.name, False)
                    item.setCheckState(0, qt.Qt.Checked if ticked else qt.Qt.Unchecked)
                top.addChild(item)
            tree.addTopLevelItem(top)
            top.setExpanded(len(row.states) <= 4 or len(self._rows) == 1)
            top.setSelected(row is selected)
            self._show_count(top, row)
        tree.blockSignals(blocked)
        self._on_change()

    def _show_count(self, top: Any, row: _Row) -> None:
        count = sum(row.ticks.get(one.name, False) for one in row.states)
        top.setText(1, _("{count} of {all}").format(count=count, all=len(row.states)))

    def _selected(self) -> _Row | None:
        items = self._tree.selectedItems()
        if not items:
            return None
        top = items[0].parent() or items[0]
        node_id = top.data(0, qt.Qt.UserRole)
        return next((row for row in self._rows if row.node_id == node_id), None)

    def _on_item_changed(self, item: Any, _column: int) -> None:
        top = item.parent()
        if top is None:
            return
        node_id = top.data(0, qt.Qt.UserRole)
        row = next((one for one in self._rows if one.node_id == node_id), None)
        if row is not None:
            row.ticks[item.text(0)] = item.checkState(0) == qt.Qt.Checked
            blocked = self._tree.blockSignals(True)
            self._show_count(top, row)
            self._tree.blockSignals(blocked)
            self._on_change()


def _labels_of(node: vtkMRMLSegmentationNode) -> Sequence[Any]:
    """Return the classes of the model that made a segmentation; none if it is unknown."""
    record = SegmentationRecord.load(node)
    if record is None:
        return ()
    try:
        return find_model(record.model).labels
    except ValueError:  # the model was removed
        return ()

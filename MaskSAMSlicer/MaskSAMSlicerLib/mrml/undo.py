"""Undo and redo of changes to a segmentation's segments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import slicer
import vtk

from MaskSAMSlicerLib.mrml.run_record import RecordState

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode, vtkSegment

# Name, color, codes and status of a segment, which the user can change.
Appearance = dict[str, Any]
_MAX_STATES = 20


class UndoHistory:
    """Earlier states of a segmentation's segments, and of the record of the run that made them.

    Undo and redo keep the names, colors, codes and status that the user has set since a run.

    Nothing can be undone or redone once anything else has changed the segments, because that change
    would be lost, nor while the node shows another frame of a sequence, which has its own segments
    and record.

    Attributes:
        node_id: ID of the segmentation node.
    """

    # Class attributes too, because events may still arrive while the garbage collector destroys a
    # history that was never closed.
    _ignore_changes = True
    _outdated = True

    def __init__(self, node: vtkMRMLSegmentationNode) -> None:
        self._segmentation = node.GetSegmentation()
        self._history = slicer.vtkSegmentationHistory()
        self._history.SetMaximumNumberOfStates(_MAX_STATES)
        self._history.SetSegmentation(self._segmentation)
        # States of the record by number, and the number of the current state.
        self._records: dict[int, RecordState] = {}
        self._number = 0
        self.node_id = node.GetID()
        # Appearance by segment ID: of all segments after the last own change, and the parts of it
        # that the user has changed since this history began.
        self._last_appearance: dict[str, Appearance] = {}
        self._user_appearance: dict[str, Appearance] = {}
        self._save()
        self._observer_tags: list[int] = []
        self._ignore_changes = False
        self._outdated = False

    def save(self) -> None:
        """Save the present state before another change.

        If anything else has changed the segments, earlier states are dropped.
        """
        if self._outdated:
            self._remove_states()
            self._outdated = False
        self._note_user_appearance()
        self._save()

    @contextmanager
    def own_change(self) -> Iterator[None]:
        """Treat changes inside the ``with`` block as part of this history."""
        before, self._ignore_changes = self._ignore_changes, True
        try:
            yield
        finally:
            self._ignore_changes = before

    def watch(self) -> None:
        """Start noticing changes made by anything else."""
        self._last_appearance = self._appearances()
        if self._observer_tags:
            return
        segmentation = slicer.vtkSegmentation
        for event in (
            segmentation.SourceRepresentationModified,
            segmentation.SegmentAdded,
            segmentation.SegmentRemoved,
        ):
            self._observer_tags.append(self._segmentation.AddObserver(event, self._on_change))

    def close(self) -> None:
        """Stop watching and drop all states."""
        for tag in self._observer_tags:
            self._segmentation.RemoveObserver(tag)
        self._observer_tags.clear()
        self._remove_states()
        self._outdated = True

    @property
    def can_undo(self) -> bool:
        """Return whether an earlier state can be restored."""
        return self._valid and bool(self._history.IsRestorePreviousStateAvailable())

    @property
    def can_redo(self) -> bool:
        """Return whether an undone state can be restored."""
        return self._valid and bool(self._history.IsRestoreNextStateAvailable())

    def undo(self) -> None:
        """Restore the previous state."""
        if self.can_undo:
            self._restore(self._history.RestorePreviousState, -1)

    def redo(self) -> None:
        """Restore the next state."""
        if self.can_redo:
            self._restore(self._history.RestoreNextState, 1)

    @property
    def _valid(self) -> bool:
        node = self._node()
        shown = node is not None and node.GetSegmentation() is self._segmentation
        return shown and not self._outdated

    def _save(self) -> None:
        """Save the current state; nothing can be redone afterwards."""
        records = {number: one for number, one in self._records.items() if number < self._number}
        self._records = {**records, self._number: RecordState.of(self._node())}
        self._number += 1
        self._history.SaveState()

    def _remove_states(self) -> None:
        self._records = {}
        self._history.RemoveAllStates()

    def _restore(self, restore: Callable[[], object], step: int) -> None:
        self._records.setdefault(self._number, RecordState.of(self._node()))
        self._number += step
        self._note_user_appearance()
        with self.own_change():
            # The record is restored first, so that code reacting to the segments finds it restored.
            if self._number in self._records:
                self._records[self._number].restore(self._node())
            # The appearance is set during the restore, because any later change makes Slicer drop
            # the redo states.
            modified = slicer.vtkSegmentation.SegmentModified
            tag = self._segmentation.AddObserver(modified, self._restore_user_appearance)
            try:
                restore()
            finally:
                self._segmentation.RemoveObserver(tag)
        self._last_appearance = self._appearances()

    def _restore_user_appearance(self, *_event: object) -> None:
        """Restore the names, colors, codes and status that the user has set."""
        for segment_id, appearance in self._user_appearance.items():
            segment = self._segmentation.GetSegment(segment_id)
            if segment is not None:
                _set_appearance(segment, appearance)

    def _appearances(self) -> dict[str, Appearance]:
        segmentation = self._segmentation
        return {
            one: _appearance(segmentation.GetSegment(one)) for one in segmentation.GetSegmentIDs()
        }

    def _note_user_appearance(self) -> None:
        """Note the appearance of segments that differs from that after the last own change."""
        for segment_id, appearance in self._appearances().items():
            before = self._last_appearance.get(segment_id, appearance)
            changed = {name: value for name, value in appearance.items() if before[name] != value}
            if changed:
                self._user_appearance.setdefault(segment_id, {}).update(changed)

    def _node(self) -> vtkMRMLSegmentationNode | None:
        return slicer.mrmlScene.GetNodeByID(self.node_id)

    def _on_change(self, *_event: object) -> None:
        if not self._ignore_changes:
            self._outdated = True


def _tags(segment: vtkSegment) -> tuple[str, str]:
    """Return the names of the tags that the user can change: codes and status."""
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    return segment.GetTerminologyEntryTagName(), logic.GetStatusTagName()


def _appearance(segment: vtkSegment) -> Appearance:
    """Return the name, color, codes and status of a segment."""
    appearance: Appearance = {
        "name": (segment.GetName(), segment.GetNameAutoGenerated()),
        "color": (segment.GetColor(), segment.GetColorAutoGenerated()),
    }
    for tag in _tags(segment):
        value = vtk.reference("")
        appearance[tag] = str(value) if segment.GetTag(tag, value) else None
    return appearance


def _set_appearance(segment: vtkSegment, appearance: Appearance) -> None:
    """Set some of the name, color, codes and status of a segment; the others stay."""
    present = _appearance(segment)
    wanted = {name: value for name, value in appearance.items() if present[name] != value}
    if "name" in wanted:
        name, generated = wanted["name"]
        segment.SetNameAutoGenerated(generated)
        segment.SetName(name)
    if "color" in wanted:
        color, generated = wanted["color"]
        segment.SetColorAutoGenerated(generated)
        segment.SetColor(*color)
    for tag in _tags(segment):
        if wanted.get(tag) is not None:
            segment.SetTag(tag, wanted[tag])
        elif tag in wanted:
            segment.RemoveTag(tag)

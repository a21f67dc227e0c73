"""Undo and redo of changes to a segmentation's segments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import slicer

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode

_MAX_STATES = 20


class UndoHistory:
    """Earlier states of a segmentation's segments.

    Once anything else has changed the segments, nothing can be undone or redone: that would lose
    the other change.

    Attributes:
        node_id: ID of the segmentation node.
    """

    # Class attributes too: events may still arrive while the garbage collector takes apart a
    # history that was never closed.
    _ignore_changes = True
    _outdated = True

    def __init__(self, node: vtkMRMLSegmentationNode) -> None:
        self._segmentation = node.GetSegmentation()
        self._history = slicer.vtkSegmentationHistory()
        self._history.SetMaximumNumberOfStates(_MAX_STATES)
        self._history.SetSegmentation(self._segmentation)
        self._history.SaveState()
        self._observer_tags: list[int] = []
        self._ignore_changes = False
        self._outdated = False
        self.node_id = node.GetID()

    def save(self) -> None:
        """Save the present state before another change.

        If anything else has changed the segments, earlier states are dropped.
        """
        if self._outdated:
            self._history.RemoveAllStates()
            self._outdated = False
        self._history.SaveState()

    @contextmanager
    def own_change(self) -> Iterator[None]:
        """Treat changes inside the ``with`` block as part of this history."""
        before, self._ignore_changes = self._ignore_changes, True
        try:
            yield
        finally:
            self._ignore_changes = before

    def watch(self) -> None:
        """Notice all further changes by anything else."""
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
        self._history.RemoveAllStates()
        self._outdated = True

    @property
    def can_undo(self) -> bool:
        """Return whether an earlier state can be restored."""
        return not self._outdated and bool(self._history.IsRestorePreviousStateAvailable())

    @property
    def can_redo(self) -> bool:
        """Return whether an undone state can be restored."""
        return not self._outdated and bool(self._history.IsRestoreNextStateAvailable())

    def undo(self) -> None:
        """Restore the previous state."""
        self._restore(self._history.RestorePreviousState)

    def redo(self) -> None:
        """Restore the next state."""
        self._restore(self._history.RestoreNextState)

    def _restore(self, restore: Callable[[], object]) -> None:
        with self.own_change():
            restore()

    def _on_change(self, *_event: object) -> None:
        if not self._ignore_changes:
            self._outdated = True

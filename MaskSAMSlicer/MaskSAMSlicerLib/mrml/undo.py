"""Taking back, and doing again, what was done to a segmentation's segments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import slicer

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode

# States kept: so many changes can be taken back.
_STATES = 20


class UndoStep:
    """Takes back, and does again, changes of a segmentation's segments, one by one.

    Once the segments were changed by something else, it can do neither: that would lose the change.
    """

    # Of the class too: the segmentation may still tell of changes while the garbage collector has
    # taken a step apart that nobody closed.
    _busy = True
    _outdated = True

    def __init__(self, node: vtkMRMLSegmentationNode) -> None:
        self._segmentation = node.GetSegmentation()
        self._history = slicer.vtkSegmentationHistory()
        self._history.SetMaximumNumberOfStates(_STATES)
        self._history.SetSegmentation(self._segmentation)
        self._history.SaveState()
        self._observed: list[int] = []
        self._busy = False
        self._outdated = False
        self.node_id = node.GetID()

    def save(self) -> None:
        """Keep the present state too, before another change. Where something else has changed the
        segments, the present state is the earliest that can be brought back."""
        if self._outdated:
            self._history.RemoveAllStates()
            self._outdated = False
        self._history.SaveState()

    @contextmanager
    def own_change(self) -> Iterator[None]:
        """What is changed in here is no change by something else."""
        busy, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = busy

    def watch(self) -> None:
        """From now on, changes are somebody else's."""
        if self._observed:
            return
        kind = slicer.vtkSegmentation
        for event in (kind.SourceRepresentationModified, kind.SegmentAdded, kind.SegmentRemoved):
            tag = self._segmentation.AddObserver(event, self._changed)
            self._observed.append(tag)

    def close(self) -> None:
        """Stop watching, and let go of the states."""
        for tag in self._observed:
            self._segmentation.RemoveObserver(tag)
        self._observed.clear()
        self._history.RemoveAllStates()
        self._outdated = True

    @property
    def can_undo(self) -> bool:
        """Whether there is a state before this one, and nothing was changed since."""
        return not self._outdated and bool(self._history.IsRestorePreviousStateAvailable())

    @property
    def can_redo(self) -> bool:
        """Whether a state after this one was taken back, and nothing was changed since."""
        return not self._outdated and bool(self._history.IsRestoreNextStateAvailable())

    def undo(self) -> None:
        """Back to the state before."""
        self._restore(self._history.RestorePreviousState)

    def redo(self) -> None:
        """Forward again."""
        self._restore(self._history.RestoreNextState)

    def _restore(self, how: Callable[[], object]) -> None:
        with self.own_change():
            how()

    def _changed(self, *_event: object) -> None:
        if not self._busy:
            self._outdated = True

"""Frames of a sequence browser (4D volumes), and the segmentations of its frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import slicer
from slicer.i18n import tr as _

from MaskSAMCore.geometry import Volume
from MaskSAMSlicerLib.mrml.run_record import SegmentationRecord, refers_to
from MaskSAMSlicerLib.mrml.volumes import volume_from_node

if TYPE_CHECKING:
    from slicer import (
        vtkMRMLNode,
        vtkMRMLScalarVolumeNode,
        vtkMRMLSegmentationNode,
        vtkMRMLSequenceBrowserNode,
        vtkMRMLSequenceNode,
    )


@dataclass(frozen=True)
class FrameSequence:
    """The frames that a sequence browser shows one after another.

    Attributes:
        browser: the sequence browser.
        values: index value of each frame, such as its time.
    """

    browser: vtkMRMLSequenceBrowserNode
    values: tuple[str, ...]

    @classmethod
    def of(cls, node: vtkMRMLNode | None) -> FrameSequence | None:
        """Return the frames of the browser that shows a node; None if there are fewer than two."""
        if node is None:
            return None
        browser = slicer.modules.sequences.logic().GetFirstBrowserNodeForProxyNode(node)
        master = None if browser is None else browser.GetMasterSequenceNode()
        if master is None or master.GetNumberOfDataNodes() < 2:
            return None
        count = master.GetNumberOfDataNodes()
        return cls(browser, tuple(master.GetNthIndexValue(n) for n in range(count)))

    def volume(self, node: vtkMRMLScalarVolumeNode, frame: int) -> Volume:
        """Return a volume as it is in a frame; a volume outside the browser is returned as it is.

        Raises:
            ValueError: the volume cannot be used, or has no such frame.
        """
        sequence = self.browser.GetSequenceNode(node)
        if sequence is None:
            return volume_from_node(node)
        stored = sequence.GetDataNodeAtValue(self.values[frame], False)
        if stored is None:
            raise ValueError(
                _("'{name}' has no frame {number}.").format(name=node.GetName(), number=frame + 1)
            )
        return volume_from_node(node, stored)

    def stored(self, node: vtkMRMLNode, value: str) -> vtkMRMLNode | None:
        """Return what the sequence of a node holds at an index value; None if it holds nothing."""
        sequence = self.browser.GetSequenceNode(node)
        return None if sequence is None else sequence.GetDataNodeAtValue(value, True)

    def check_output(self, node: vtkMRMLSegmentationNode) -> None:
        """Check that a segmentation can show the segmentations of the frames.

        Raises:
            ValueError: the segmentation has segments but belongs to no frame.
        """
        if (
            self.browser.GetSequenceNode(node) is None
            and node.GetSegmentation().GetNumberOfSegments()
        ):
            raise ValueError(
                _(
                    "'{name}' is one segmentation, not one for each frame: choose (new"
                    " segmentation) as the output."
                ).format(name=node.GetName())
            )

    def segmentations_of(self, node: vtkMRMLSegmentationNode) -> vtkMRMLSequenceNode:
        """Return the sequence that a segmentation shows frames of; a new one if it has none.

        Raises:
            ValueError: the segmentation has segments but belongs to no frame.
        """
        self.check_output(node)
        sequence = self.browser.GetSequenceNode(node)
        if sequence is not None:
            return sequence
        master = self.browser.GetMasterSequenceNode()
        name = _("{segmentation} frames").format(segmentation=node.GetName())
        sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
        _copy_index_format(master, sequence)
        self.browser.AddSynchronizedSequenceNode(sequence)
        self.browser.AddProxyNode(node, sequence, False)
        # What the user paints into a frame stays, and a frame without a result shows nothing.
        self.browser.SetSaveChanges(sequence, True)
        self.browser.SetOverwriteProxyName(sequence, False)
        self.browser.SetMissingItemMode(sequence, self.browser.MissingItemSetToDefault)
        return sequence


def shown_value(browser: vtkMRMLSequenceBrowserNode) -> str:
    """Return the index value of the frame that a browser shows; empty if it shows none."""
    master, number = browser.GetMasterSequenceNode(), browser.GetSelectedItemNumber()
    if master is None or not 0 <= number < master.GetNumberOfDataNodes():
        return ""
    return str(master.GetNthIndexValue(number))


def shown_frame(node: vtkMRMLNode | None) -> str:
    """Return the index value of the frame that a node shows; empty for a node without frames."""
    frames = FrameSequence.of(node)
    return "" if frames is None else shown_value(frames.browser)


def check_frame(node: vtkMRMLSegmentationNode, volume_node: vtkMRMLScalarVolumeNode) -> None:
    """Check that a volume shows the frame that a segmentation was made from.

    Raises:
        ValueError: the volume shows another frame of its sequence.
    """
    record, frames = SegmentationRecord.load(node), FrameSequence.of(volume_node)
    # A segmentation with frames always shows the frame that the volume shows.
    if record is None or frames is None or FrameSequence.of(node) is not None:
        return
    if not refers_to(node, volume_node) or record.frame in ("", shown_frame(volume_node)):
        return
    known = record.frame in frames.values
    raise ValueError(
        _("'{name}' was made from frame {frame} of '{volume}': show that frame.").format(
            name=node.GetName(),
            frame=frames.values.index(record.frame) + 1 if known else record.frame,
            volume=volume_node.GetName(),
        )
    )


def has_segments(node: vtkMRMLSegmentationNode) -> bool:
    """Return whether a segmentation has segments, in any frame if it belongs to a sequence."""
    frames = FrameSequence.of(node)
    if frames is not None:
        return bool(frames.browser.GetSequenceNode(node).GetNumberOfDataNodes())
    return bool(node.GetSegmentation().GetNumberOfSegments())


class SequenceHistory:
    """Undo and redo of a run that wrote frames into a sequence of segmentations.

    Nothing can be undone or redone once anything else has changed one of the frames, because that
    change would be lost.

    Args:
        node: the segmentation that shows the frames.
        sequence: the sequence.

    Attributes:
        node_id: ID of the segmentation node.
    """

    # Class attributes too, as in UndoHistory: events may arrive while a history is destroyed.
    _ignore_changes = True
    _outdated = True

    def __init__(self, node: vtkMRMLSegmentationNode, sequence: vtkMRMLSequenceNode) -> None:
        self.node_id = node.GetID()
        self._sequence = sequence
        self._values: list[str] = []
        self._exchanged = _like(sequence)
        self._observed: list[tuple[Any, int]] = []
        self._undone = False
        self._ignore_changes = False
        self._outdated = False

    def set(self, value: str, node: vtkMRMLSegmentationNode) -> None:
        """Put a segmentation into the frame of an index value."""
        before = self._sequence.GetDataNodeAtValue(value, True)
        if before is not None and value not in self._values:
            self._exchanged.SetDataNodeAtValue(before, value)
        self._values.append(value)
        with self._own_change():
            self._sequence.SetDataNodeAtValue(node, value)

    def close(self) -> None:
        """Stop watching and drop the other state."""
        self._unwatch()
        self._values = []
        self._exchanged = None

    @property
    def can_undo(self) -> bool:
        """Return whether the earlier state can be restored."""
        return bool(self._values) and not self._undone and self._valid

    @property
    def can_redo(self) -> bool:
        """Return whether the undone state can be restored."""
        return bool(self._values) and self._undone and self._valid

    def undo(self) -> None:
        """Restore the frames as they were before the run."""
        self._exchange()
        self._undone = True

    def redo(self) -> None:
        """Restore the frames as the run has written them."""
        self._exchange()
        self._undone = False

    @property
    def _valid(self) -> bool:
        return not self._outdated and bool(slicer.mrmlScene.IsNodePresent(self._sequence))

    def _exchange(self) -> None:
        taken = _like(self._sequence)
        with self._own_change():
            for value in self._values:
                present = self._sequence.GetDataNodeAtValue(value, True)
                if present is not None:
                    taken.SetDataNodeAtValue(present, value)
                restored = self._exchanged.GetDataNodeAtValue(value, True)
                if restored is None:
                    self._sequence.RemoveDataNodeAtValue(value)
                else:
                    self._sequence.SetDataNodeAtValue(restored, value)
        self._exchanged = taken

    @contextmanager
    def _own_change(self) -> Iterator[None]:
        self._ignore_changes = True
        self._unwatch()
        try:
            yield
        finally:
            events = slicer.vtkSegmentation
            for value in self._values:
                stored = self._sequence.GetDataNodeAtValue(value, True)
                for event in (
                    events.SourceRepresentationModified,
                    events.SegmentAdded,
                    events.SegmentRemoved,
                ):
                    if stored is not None:
                        segmentation = stored.GetSegmentation()
                        tag = segmentation.AddObserver(event, self._on_change)
                        self._observed.append((segmentation, tag))
            self._ignore_changes = False

    def _unwatch(self) -> None:
        for segmentation, tag in self._observed:
            segmentation.RemoveObserver(tag)
        self._observed = []

    def _on_change(self, *_event: object) -> None:
        if not self._ignore_changes:
            self._outdated = True


def _like(sequence: vtkMRMLSequenceNode) -> vtkMRMLSequenceNode:
    """Return an empty sequence outside the scene, with the same index format."""
    other = slicer.vtkMRMLSequenceNode()
    _copy_index_format(sequence, other)
    return other


def _copy_index_format(source: vtkMRMLSequenceNode, target: vtkMRMLSequenceNode) -> None:
    target.SetIndexName(source.GetIndexName())
    target.SetIndexUnit(source.GetIndexUnit())
    target.SetIndexType(source.GetIndexType())
    target.SetNumericIndexValueTolerance(source.GetNumericIndexValueTolerance())


def segmentation_of_frame(
    sequence: vtkMRMLSequenceNode, value: str, like: vtkMRMLSegmentationNode
) -> vtkMRMLSegmentationNode:
    """Return a copy, outside the scene, of a frame's segmentation; an empty one if there is none.

    Args:
        sequence: the sequence of segmentations.
        value: index value of the frame.
        like: segmentation whose name the copy gets.
    """
    node = slicer.vtkMRMLSegmentationNode()
    node.SetName(like.GetName())
    stored = sequence.GetDataNodeAtValue(value, True)
    if stored is not None:
        node.CopyContent(stored, True)
    return node


def titles(frames: FrameSequence) -> Sequence[str]:
    """Return a title of each frame, for tables."""
    unit = frames.browser.GetMasterSequenceNode().GetIndexUnit() or ""
    return [
        _("frame {number} ({value})").format(number=number, value=f"{value} {unit}".strip())
        for number, value in enumerate(frames.values, start=1)
    ]

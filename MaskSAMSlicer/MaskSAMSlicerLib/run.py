"""Runs of a model: from a request on MRML nodes to segments in the scene.

The scene changes once, when the result is complete.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import slicer
from slicer.i18n import tr as _

from MaskSAMCore.callbacks import ProgressCallback
from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.labels import Label
from MaskSAMCore.worker.protocol import InstanceMessage
from MaskSAMSlicerLib.model_catalog import ModelInfo
from MaskSAMSlicerLib.mrml.box_nodes import class_of
from MaskSAMSlicerLib.mrml.box_set import BoxSet
from MaskSAMSlicerLib.mrml.channels import check_channels
from MaskSAMSlicerLib.mrml.painted import with_painted_voxels
from MaskSAMSlicerLib.mrml.run_record import (
    Edges,
    SegmentationRecord,
    checksum,
    refers_to,
    volumes_of,
)
from MaskSAMSlicerLib.mrml.segments import (
    ClassVoxels,
    FoundClass,
    check_target,
    new_segmentation,
    replace_voxels,
    write_segments,
)
from MaskSAMSlicerLib.mrml.sequences import SequenceHistory, check_frame, shown_frame
from MaskSAMSlicerLib.mrml.undo import UndoHistory
from MaskSAMSlicerLib.mrml.volumes import box_from_roi, volume_from_node
from MaskSAMSlicerLib.worker.client import (
    Job,
    SegmentedVolume,
    SegmentRequest,
    WorkerClient,
    WorkerError,
)

if TYPE_CHECKING:
    from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode


@dataclass(frozen=True)
class RunRequest:
    """A volume to segment, a model, and the output.

    Attributes:
        volumes: a volume for each channel of the model; the first gives the geometry.
        model: the model.
        roi: part to segment; None for the whole volume.
        boxes: ROI nodes named like classes, which they bound; for a model that needs boxes, named
            like the structures that they surround.
        output: segmentation to write to; None for a new one.
        rule: "replace" or "add", see ``segments.write_segments``.
        device: "auto", "cpu", "cuda" or "mps".
        overwrite: let classes with boxes take voxels from classes without boxes.
        resample: resample channels to the grid of the first one.
    """

    volumes: Sequence[vtkMRMLScalarVolumeNode]
    model: ModelInfo
    roi: vtkMRMLMarkupsROINode | None = None
    boxes: Sequence[vtkMRMLMarkupsROINode] = ()
    output: vtkMRMLSegmentationNode | None = None
    rule: str = "replace"
    device: str = "auto"
    overwrite: bool = False
    resample: bool = False


@dataclass(frozen=True)
class FrameResult:
    """Result of one frame of a sequence.

    Attributes:
        value: index value of the frame; unlike its number, fixed when frames are added or removed.
        title: title of the frame, for tables.
        found: classes that were found.
        segment_ids: segment IDs of these classes, in the same order.
        voxel_ml: volume of a voxel in ml, which may differ between frames.
        notes: remarks for the user.
        intracranial: names of the classes whose volumes add up to the intracranial volume; empty if
            it is unknown.
    """

    value: str
    title: str
    found: list[FoundClass]
    segment_ids: list[str]
    voxel_ml: float
    notes: list[str]
    intracranial: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """Result of a run as it was written into the scene.

    Attributes:
        node: the segmentation.
        found: classes that were found.
        segment_ids: segment IDs of these classes, in the same order.
        changed: names of the classes whose segments were written.
        undo: undo history of the segmentation.
        device: device that was used, and why.
        notes: remarks for the user, about all frames of a sequence.
        seconds: duration of the run in the worker.
        voxel_ml: volume of a voxel in ml, in the last frame of a sequence.
        volume_name: name of the segmented volume.
        intracranial: names of the classes whose volumes add up to the intracranial volume; empty if
            it is unknown.
        frames: results of the frames of a sequence; empty for a single volume.
    """

    node: vtkMRMLSegmentationNode
    found: list[FoundClass]
    segment_ids: list[str]
    changed: list[str]
    undo: UndoHistory | SequenceHistory
    device: str
    notes: list[str]
    seconds: float
    voxel_ml: float
    volume_name: str
    intracranial: tuple[str, ...]
    frames: tuple[FrameResult, ...] = ()


def _ignore(*_arguments: object) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class RunCallbacks:
    """Callbacks of a run, called on the main thread from ``poll``.

    Attributes:
        on_progress: receives the stage, the fraction done and the seconds left or None.
        on_done: receives the outcome.
        on_error: receives the error; the scene is unchanged.
    """

    on_progress: ProgressCallback = _ignore
    on_done: Callable[[Outcome], None] = _ignore
    on_error: Callable[[WorkerError], None] = _ignore


class Run:
    """A run of a model on a volume.

    Attributes:
        request: the request; without nodes once the run has finished.
        job: the worker's job, once the run has started.
        outcome: the result, once the run has succeeded.
        error: the error, once the run has failed.
    """

    def __init__(self, request: RunRequest, callbacks: RunCallbacks | None = None) -> None:
        self.request = request
        self.job: Job | None = None
        self.outcome: Outcome | None = None
        self.error: WorkerError | None = None
        self._callbacks = callbacks or RunCallbacks()
        self._record = SegmentationRecord("")
        self._output_frame = ""

    @property
    def session(self) -> str:
        """Key under which the worker holds the volume open."""
        return self._record.session

    @property
    def finished(self) -> bool:
        """Return whether the run has succeeded or failed."""
        return self.outcome is not None or self.error is not None

    def start(self, client: WorkerClient) -> None:
        """Check the request and send it to the worker.

        Raises:
            ValueError: the request cannot work; the message says what to do. Nothing was started.
        """
        prepared = self._prepare()
        self._output_frame = shown_frame(self.request.output)
        self.job = client.segment(
            prepared,
            on_progress=self._report,
            on_done=self._on_result,
            on_error=self._fail,
        )

    def _prepare(self) -> SegmentRequest:
        """Check the request, create the record and return the request for the worker."""
        request = self.request
        if not request.volumes:
            raise ValueError(_("Choose a volume first: load one with the Add Data dialog."))
        if not request.model.installed:
            raise ValueError(
                _("The model '{title}' is not installed: press Download first.").format(
                    title=request.model.title
                )
            )
        volumes = self._volumes()
        check_channels(request.model, volumes, request.resample)
        check_target(request.output, request.volumes[0], volumes[0])
        if request.model.needs_boxes and not request.boxes:
            raise ValueError(
                _(
                    "'{title}' segments the structure inside a box: draw a box under Boxes, and"
                    " name it."
                ).format(title=request.model.title)
            )
        roi = None if request.roi is None else box_from_roi(request.roi, volumes[0])
        boxes = self._boxes(volumes[0])
        self._record = SegmentationRecord(
            request.model.name,
            request.device,
            session=uuid.uuid4().hex,
            roi=None if roi is None else (list(roi.lower), list(roi.upper)),
            edited=_class_names(boxes),
            overwrote=bool(boxes) and request.overwrite,
            resample=request.resample,
            frame=shown_frame(request.volumes[0]),
            shape=list(volumes[0].shape),
        )
        return self._worker_request(volumes, roi, boxes)

    def _volumes(self) -> list[Volume]:
        return [volume_from_node(node) for node in self.request.volumes]

    def _report(self, stage: str, fraction: float, seconds_left: float | None) -> None:
        self._callbacks.on_progress(stage, fraction, seconds_left)

    def _boxes(self, volume: Volume) -> list[Box]:
        return [box_from_roi(node, volume, class_of(node)) for node in self.request.boxes]

    def _worker_request(
        self, volumes: list[Volume], roi: Box | None, boxes: list[Box], resume: bool = False
    ) -> SegmentRequest:
        return SegmentRequest(
            volumes=volumes,
            model=self.request.model.name,
            roi=roi,
            boxes=boxes,
            device=self.request.device,
            session=self._record.session,
            resume=resume,
            overwrite=self.request.overwrite,
            resample=self._record.resample,
        )

    def _on_result(self, result: SegmentedVolume) -> None:
        try:
            outcome = self._write(result, self._checked_volume(result))
        except Exception as error:
            self._fail(WorkerError("refused", str(error)))
            return
        self._finish(outcome)

    def _finish(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._release()
        self._callbacks.on_done(outcome)

    def _fail(self, error: WorkerError) -> None:
        self.error = error
        self._release()
        self._callbacks.on_error(error)

    def _release(self) -> None:
        """Drop the nodes and the labelmap, so that a finished run does not keep them in memory."""
        self.request = replace(self.request, volumes=(), roi=None, boxes=(), output=None)
        if self.job is not None:
            self.job.result = None

    def _checked_volume(self, result: SegmentedVolume) -> Volume:
        """Return the segmented volume, after a check that it and the output can still be used.

        Raises:
            ValueError: a node was removed during the run, the volume has another size now, or the
                output cannot be written.
        """
        node, output = self.request.volumes[0], self.request.output
        if not slicer.mrmlScene.IsNodePresent(node):
            raise ValueError(_("The volume was removed during the run; nothing was changed."))
        if output is not None and not slicer.mrmlScene.IsNodePresent(output):
            raise ValueError(_("The output was removed during the run; nothing was changed."))
        volume = self._volumes()[0]
        if tuple(result.labelmap.shape) != tuple(volume.shape):
            raise ValueError(
                _("The size of the volume changed during the run; nothing was changed.")
            )
        check_target(output, node, volume)
        return volume

    def _check_output_frame(self) -> None:
        """Check that an output with frames still shows the one that the run is for.

        Raises:
            ValueError: the output shows another frame.
        """
        output = self.request.output
        if shown_frame(output) != self._output_frame:
            raise ValueError(
                _(
                    "'{name}' shows another frame than when the run began; nothing was changed:"
                    " stay at the frame until the run ends."
                ).format(name=output.GetName())
            )

    def _write(self, result: SegmentedVolume, volume: Volume) -> Outcome:
        """Write the result into the scene.

        Args:
            result: the worker's result.
            volume: the segmented volume.

        Raises:
            ValueError: the output shows another frame now.
        """
        self._check_output_frame()
        request, labelmap = self.request, result.labelmap
        volume_node, roi = request.volumes[0], request.roi
        found = found_classes(result)
        node = request.output
        if node is None:
            node = new_segmentation(volume_node, "" if roi is None else roi.GetName())
        try:
            undo, ids = write_segments(
                node, volume, labelmap, found, request.rule, request.model.name
            )
        except Exception:
            if request.output is None:
                slicer.mrmlScene.RemoveNode(node)
            raise
        boxes = BoxSet.of(request.model, volume_node, request.output)
        if boxes is not None:
            boxes.note_changes()  # with the proposals of the previous run
        names = [item.label.name for item in found]
        self._record.segment_ids = dict(zip(names, ids, strict=True))
        self._record.proposals = _proposals(result.instances)
        self._record.written = {item.label.name: _checksum(labelmap, item) for item in found}
        self._record.take_over(SegmentationRecord.load(node), refers_to(node, volume_node))
        self._record.save(node, request.volumes)
        BoxSet(request.model, volume_node, node).renew()
        return _outcome(node, found, ids, names, undo, result, volume)


class Update(Run):
    """A run that segments again from changed boxes, into the segmentation of an earlier run.

    Only classes whose voxels change are written, into their own segments and in one step: whatever
    the user has painted into other segments stays, and a segment that the user has removed comes
    back only for a class with a box. The request's boxes are all active boxes: a class without a
    box gets its automatic voxels back.

    Args:
        request: the request; its output is the segmentation, its volumes are ignored.
        callbacks: functions that the run calls.
        history: undo history of the segmentation to continue; None for a new one.
    """

    def __init__(
        self,
        request: RunRequest,
        callbacks: RunCallbacks | None = None,
        history: UndoHistory | None = None,
    ) -> None:
        super().__init__(request, callbacks)
        self._history = history
        self._boxed: list[str] = []

    def _prepare(self) -> SegmentRequest:
        node = self.request.output
        self._record = SegmentationRecord.require(node)
        self.request = replace(self.request, volumes=volumes_of(node))
        check_frame(node, self.request.volumes[0])
        volumes = self._volumes()
        if self._record.shape not in ([], list(volumes[0].shape)):
            # The ROI and the automatic boxes are in voxels of the earlier size.
            raise ValueError(
                _(
                    "'{volume}' has another size than when '{name}' was made from it: press Segment"
                    " to segment it as it is now."
                ).format(volume=volumes[0].name, name=node.GetName())
            )
        check_target(node, self.request.volumes[0], volumes[0])
        boxes = self._boxes(volumes[0])
        self._boxed = _class_names(boxes)
        edges = self._record.roi
        roi = None if edges is None else Box("", tuple(edges[0]), tuple(edges[1]))
        return self._worker_request(volumes, roi, boxes, resume=True)

    def _write(self, result: SegmentedVolume, volume: Volume) -> Outcome:
        self._check_output_frame()
        node, labelmap = self.request.output, result.labelmap
        record = SegmentationRecord.require(node)  # an undo may have changed it meanwhile
        found = {item.label.name: item for item in found_classes(result)}
        boxed = self._now_or_before(record)
        changes, sums = [], {}
        for label in self._labels_to_compare(record, result):
            item = found.get(label.name)
            segment_id = record.segment_ids.get(label.name, "")
            segment = node.GetSegmentation().GetSegment(segment_id) if segment_id else None
            if segment_id and segment is None and label.name.casefold() not in boxed:
                continue  # the user has removed the segment
            total = 0 if item is None else _checksum(labelmap, item)
            if record.written.get(label.name, 0) != total or (item and segment is None):
                box = None if item is None else (item.lower, item.upper)
                changes.append(ClassVoxels(label, labelmap, box))
                sums[label.name] = total
        undo = self._history
        if changes or undo is None:
            changes = with_painted_voxels(node, self.request.volumes[0], record, changes, boxed)
            undo, ids = replace_voxels(
                node, volume, changes, record.segment_ids, record.model, undo
            )
            record.segment_ids.update(ids)
        record.written.update(sums)
        record.edited = self._boxed
        record.overwrote = self.request.overwrite
        record.save(node)
        ids = [record.segment_ids.get(name, "") for name in found]
        changed = [change.label.name for change in changes]
        return _outcome(node, list(found.values()), ids, changed, undo, result, volume)

    def _labels_to_compare(
        self, record: SegmentationRecord, result: SegmentedVolume
    ) -> list[Label]:
        """Return the labels of all classes whose voxels the boxes may have changed."""
        labels = list(result.labels)
        # For a model without classes, segments whose boxes were removed are emptied.
        removed = {*record.edited} - {label.name for label in labels}
        labels += [Label(1, name, (0.5, 0.5, 0.5)) for name in sorted(removed)]
        # If the previous update overwrote, classes get back the voxels that its boxes took.
        overwrites = self.request.overwrite or record.overwrote
        if overwrites or self.request.model.needs_boxes:
            return labels
        boxed = self._now_or_before(record)
        return [label for label in labels if label.name.casefold() in boxed]

    def _now_or_before(self, record: SegmentationRecord) -> set[str]:
        """Return the casefolded names of the classes that have a box now or had one before."""
        return {name.casefold() for name in (*self._boxed, *record.edited)}


def _class_names(boxes: Sequence[Box]) -> list[str]:
    return sorted({box.class_name for box in boxes})


def _checksum(labelmap: np.ndarray, item: FoundClass) -> int:
    return checksum(labelmap, item.label.value, item.lower, item.upper)


def found_classes(result: SegmentedVolume) -> list[FoundClass]:
    """Return the classes of a result with their boxes."""
    labels = {label.value: label for label in result.labels}
    return [
        FoundClass(
            labels[instance.value],
            instance.confidence,
            tuple(int(edge) for edge in instance.box.lower),
            tuple(int(edge) for edge in instance.box.upper),
            instance.voxel_count,
            instance.expected_dice,
            instance.expected_dice_low,
            instance.weakest_place,
        )
        for instance in result.instances
    ]


def _proposals(instances: Sequence[InstanceMessage]) -> dict[str, Edges]:
    """Return the bounding box of each class.

    The network's own 3D boxes are not used: one doubtful slice can make them much larger.
    """
    boxes = {instance.name: instance.box for instance in instances}
    return {name: (list(box.lower), list(box.upper)) for name, box in boxes.items()}


def _outcome(
    node: vtkMRMLSegmentationNode,
    found: list[FoundClass],
    segment_ids: list[str],
    changed: list[str],
    undo: UndoHistory,
    result: SegmentedVolume,
    volume: Volume,
) -> Outcome:
    return Outcome(
        node=node,
        found=found,
        segment_ids=segment_ids,
        changed=changed,
        undo=undo,
        device=f"{result.device.name} ({result.device.reason})",
        notes=list(result.notes),
        seconds=result.seconds,
        voxel_ml=volume.voxel_ml,
        volume_name=volume.name,
        intracranial=result.intracranial,
    )

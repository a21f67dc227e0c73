"""One run: from the nodes that a person chose to segments, with nothing changed until the end."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import slicer
from slicer.i18n import tr as _

from MaskSAMCore.geometry import Volume
from MaskSAMCore.worker.protocol import InstanceMessage
from MaskSAMSlicerLib.model_catalog import ModelRow
from MaskSAMSlicerLib.mrml.box_nodes import class_of
from MaskSAMSlicerLib.mrml.run_record import RunRecord, checksum
from MaskSAMSlicerLib.mrml.segments import (
    FoundClass,
    check_target,
    new_segmentation,
    write_segments,
)
from MaskSAMSlicerLib.mrml.undo import UndoStep
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


@dataclass
class Choice:
    """What to segment, with what, and where the result goes.

    Attributes:
        volumes: one for each channel of the model; the first gives the geometry.
        row: the model.
        roi: the part to segment; None for the whole volume.
        boxes: ROI nodes, each named like a class that it bounds; of a model that needs boxes, each
            named like what it is drawn around.
        output: None for a new segmentation.
        rule: "replace" or "add".
        device: "auto", "cpu", "cuda" or "mps".
        overwrite: whether classes with boxes may take voxels of classes without.
    """

    volumes: Sequence[vtkMRMLScalarVolumeNode]
    row: ModelRow
    roi: vtkMRMLMarkupsROINode | None = None
    boxes: Sequence[vtkMRMLMarkupsROINode] = ()
    output: vtkMRMLSegmentationNode | None = None
    rule: str = "replace"
    device: str = "auto"
    overwrite: bool = False


@dataclass
class Outcome:
    """What a run gave.

    Attributes:
        node: the segmentation.
        found: the classes, with their segments' IDs at the same places in ``segment_ids``.
        device: where it ran, and why there.
        notes: remarks for the person.
        seconds, import_seconds: of the worker, and of the import into the scene.
        voxel_ml: volume of a voxel in ml.
        volume_name: of what was segmented.
    """

    node: vtkMRMLSegmentationNode
    found: list[FoundClass]
    segment_ids: list[str]
    undo: UndoStep
    device: str
    notes: list[str]
    seconds: float
    import_seconds: float
    voxel_ml: float
    volume_name: str


@dataclass
class Run:
    """A run under way. The scene is touched once, when the whole result is there.

    Nodes are remembered by their IDs: they may vanish while the worker is busy.
    """

    choice: Choice
    on_progress: Callable[[str, float, float | None], None] = lambda *_arguments: None
    on_done: Callable[[Outcome], None] = lambda _outcome: None
    on_error: Callable[[WorkerError], None] = lambda _error: None
    job: Job | None = None
    outcome: Outcome | None = None
    error: Exception | None = None
    _record: RunRecord = field(default_factory=lambda: RunRecord(""))
    _ids: dict[str, str] = field(default_factory=dict)
    _part: str = ""

    @property
    def session(self) -> str:
        """Under which the worker holds the volume open."""
        return self._record.session

    @property
    def finished(self) -> bool:
        """Whether it ended, well or not."""
        return self.outcome is not None or self.error is not None

    def start(self, client: WorkerClient) -> None:
        """Checks everything that can be checked at once, and sends the work off.

        Raises:
            ValueError: a choice cannot work; the message says what to do. Nothing was started.
        """
        choice = self.choice
        if not choice.volumes:
            raise ValueError(_("Choose a volume first: load one with the Add Data dialog."))
        if not choice.row.usable:
            raise ValueError(_not_usable(choice.row))
        volumes = [volume_from_node(node) for node in choice.volumes]
        first = volumes[0]
        check_target(choice.output, choice.volumes[0])
        if choice.row.needs_boxes and not choice.boxes:
            raise ValueError(_needs_boxes(choice.row))
        roi = None if choice.roi is None else box_from_roi(choice.roi, first)
        boxes = [box_from_roi(node, first, class_of(node)) for node in choice.boxes]
        self._record = RunRecord(
            choice.row.name,
            choice.device,
            session=uuid.uuid4().hex,
            roi=None if roi is None else (list(roi.lower), list(roi.upper)),
            edited=sorted({box.class_name for box in boxes}),
        )
        self._part = "" if choice.roi is None else choice.roi.GetName()
        self._ids = {"volume": choice.volumes[0].GetID()}
        if choice.output is not None:
            self._ids["output"] = choice.output.GetID()
        request = SegmentRequest(
            volumes=volumes,
            model=choice.row.name,
            roi=roi,
            boxes=boxes,
            device=choice.device,
            session=self._record.session,
            overwrite=choice.overwrite,
        )
        self.job = client.segment(
            request, on_progress=self.on_progress, on_done=self._done, on_error=self._failed
        )

    def _let_go(self) -> None:
        """Of the volumes and the labelmap: a finished run must not keep them in memory."""
        self.choice = replace(self.choice, volumes=(), roi=None, boxes=(), output=None)
        if self.job is not None:
            self.job.result = None

    def _failed(self, error: WorkerError) -> None:
        self.error = error
        self._let_go()
        self.on_error(error)

    def _done(self, result: SegmentedVolume) -> None:
        try:
            self.outcome = self._write(result)
            self._let_go()
        except Exception as error:
            self._failed(WorkerError("refused", str(error)))
            return
        self.on_done(self.outcome)

    def _write(self, result: SegmentedVolume) -> Outcome:
        started = time.monotonic()
        volume_node = slicer.mrmlScene.GetNodeByID(self._ids["volume"])
        if volume_node is None or volume_node is not self.choice.volumes[0]:
            raise ValueError(_("The volume was removed meanwhile; nothing was changed."))
        output = None
        if "output" in self._ids:
            output = slicer.mrmlScene.GetNodeByID(self._ids["output"])
            if output is None:
                raise ValueError(_("The output was removed meanwhile; nothing was changed."))
        labelmap = result.labelmap
        volume = volume_from_node(volume_node)
        if tuple(labelmap.shape) != tuple(volume.shape):
            raise ValueError(_("The volume changed its size meanwhile; nothing was changed."))
        found = self._found(result)
        node = output if output is not None else new_segmentation(volume_node, self._part)
        try:
            undo, ids = write_segments(
                node, volume_node, labelmap, found, self.choice.rule, self.choice.row.name
            )
        except Exception:
            if output is None:
                slicer.mrmlScene.RemoveNode(node)
            raise
        names = [item.label.name for item in found]
        self._record.segment_ids = dict(zip(names, ids, strict=True))
        self._record.proposals = _proposals(result.instances)
        self._record.written = {
            item.label.name: checksum(labelmap, item.label.value, item.lower, item.upper)
            for item in found
        }
        self._record.save(node, self.choice.volumes)
        return self._outcome(node, found, ids, undo, result, started, volume)

    def _outcome(
        self,
        node: vtkMRMLSegmentationNode,
        found: list[FoundClass],
        segment_ids: list[str],
        undo: UndoStep,
        result: SegmentedVolume,
        started: float,
        volume: Volume,
    ) -> Outcome:
        return Outcome(
            node=node,
            found=found,
            segment_ids=segment_ids,
            undo=undo,
            device=f"{result.device.name} ({result.device.reason})",
            notes=list(result.notes),
            seconds=result.seconds,
            import_seconds=time.monotonic() - started,
            voxel_ml=volume.voxel_ml,
            volume_name=volume.name,
        )

    def _found(self, result: SegmentedVolume) -> list[FoundClass]:
        labels = {label.value: label for label in result.labels}
        return [
            FoundClass(
                labels[instance.value],
                instance.confidence,
                tuple(int(edge) for edge in instance.box.lower),
                tuple(int(edge) for edge in instance.box.upper),
                instance.voxel_count,
            )
            for instance in result.instances
        ]


def _proposals(instances: Sequence[InstanceMessage]) -> dict[str, Any]:
    """Return the box that the network predicted for each class; without one, its bounding box."""
    boxes = {
        instance.name: instance.box if instance.proposal is None else instance.proposal.box
        for instance in instances
    }
    return {name: (list(box.lower), list(box.upper)) for name, box in boxes.items()}


def _needs_boxes(row: ModelRow) -> str:
    return _(
        "'{title}' segments what boxes are drawn around: draw a box under Boxes, and name it."
    ).format(title=row.title)


def _not_usable(row: ModelRow) -> str:
    return _("The model '{title}' is not installed: press Download first.").format(title=row.title)

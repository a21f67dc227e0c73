"""Another run on what the worker still holds open, after a person changed boxes.

Only classes whose voxels change are written, into their own segments and in one step; what a person
has painted into other segments, or into one whose voxels come out as before, stays.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import slicer
from slicer.i18n import tr as _

from MaskSAMCore.geometry import Box
from MaskSAMCore.labels import Label
from MaskSAMSlicerLib.mrml.box_nodes import class_of
from MaskSAMSlicerLib.mrml.run_record import RunRecord, checksum, volumes_of
from MaskSAMSlicerLib.mrml.segments import replace_voxels
from MaskSAMSlicerLib.mrml.undo import UndoStep
from MaskSAMSlicerLib.mrml.volumes import box_from_roi, volume_from_node
from MaskSAMSlicerLib.run import Outcome, Run
from MaskSAMSlicerLib.worker.client import SegmentedVolume, SegmentRequest, WorkerClient

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode


def record_of(node: vtkMRMLSegmentationNode | None) -> RunRecord:
    """What a segmentation remembers of its run.

    Raises:
        ValueError: it was not made by MaskSAM, or remembers nothing.
    """
    record = RunRecord.of(node)
    if record is None:
        raise ValueError(_("Segment a volume first: boxes change the result of a run."))
    return record


@dataclass
class Update(Run):
    """A run whose output is the segmentation of an earlier one.

    `choice.boxes` are all boxes that count: a class without one gets its automatic voxels back.

    Attributes:
        step: the segmentation's undo steps so far, to be continued.
        changed: the names of the classes that were written, once it has ended.
    """

    step: UndoStep | None = None
    changed: list[str] = field(default_factory=list)
    _boxed: list[str] = field(default_factory=list)

    def start(self, client: WorkerClient) -> None:
        """Checks the boxes and sends them off; see :meth:`Run.start`."""
        choice = self.choice
        node = choice.output
        self._record = record_of(node)
        choice.volumes = volumes_of(node)
        volumes = [volume_from_node(one) for one in choice.volumes]
        boxes = [box_from_roi(one, volumes[0], class_of(one)) for one in choice.boxes]
        self._ids = {"volume": choice.volumes[0].GetID(), "output": node.GetID()}
        self._boxed = sorted({box.class_name for box in boxes})
        roi = self._record.roi
        request = SegmentRequest(
            volumes=volumes,
            model=choice.row.name,
            roi=None if roi is None else Box("", tuple(roi[0]), tuple(roi[1])),
            boxes=boxes,
            device=choice.device,
            session=self._record.session,
            resume=True,
            overwrite=choice.overwrite,
        )
        self.job = client.segment(
            request, on_progress=self.on_progress, on_done=self._done, on_error=self._failed
        )

    def _write(self, result: SegmentedVolume) -> Outcome:
        started = time.monotonic()
        volume_node, node = (slicer.mrmlScene.GetNodeByID(i) for i in self._ids.values())
        if volume_node is None or volume_node is not self.choice.volumes[0]:
            raise ValueError(_("The volume was removed meanwhile; nothing was changed."))
        if node is None or node is not self.choice.output:
            raise ValueError(_("The segmentation was removed meanwhile; nothing was changed."))
        labelmap, volume = result.labelmap, volume_from_node(volume_node)
        if tuple(labelmap.shape) != tuple(volume.shape):
            raise ValueError(_("The volume changed its size meanwhile; nothing was changed."))
        record = record_of(node)
        found = {item.label.name: item for item in self._found(result)}
        everything = self.choice.overwrite or self.choice.row.needs_boxes
        concerned = {name.casefold() for name in (*self._boxed, *record.edited)}
        classes, sums = [], {}
        labels = list(result.labels)
        # Of models without classes: names that no box has any more.
        gone = {*record.edited} - {label.name for label in labels}
        labels += [Label(1, name, (0.5, 0.5, 0.5)) for name in sorted(gone)]
        for label in labels:
            if not (everything or label.name.casefold() in concerned):
                continue
            item = found.get(label.name)
            segment_id = record.segment_ids.get(label.name, "")
            present = node.GetSegmentation().GetSegment(segment_id) if segment_id else None
            total = 0 if item is None else checksum(labelmap, label.value, item.lower, item.upper)
            if record.written.get(label.name, 0) != total or (item and present is None):
                classes.append((label, item))
                sums[label.name] = total
        self.changed = [label.name for label, _item in classes]
        step = self.step
        if classes or step is None:
            step, ids = replace_voxels(
                node, volume_node, labelmap, classes, record.segment_ids, record.model, step
            )
            record.segment_ids.update(ids)
        record.written.update(sums)
        record.edited = self._boxed
        record.save(node)
        ids = [record.segment_ids.get(name, "") for name in found]
        return self._outcome(node, list(found.values()), ids, step, result, started, volume)

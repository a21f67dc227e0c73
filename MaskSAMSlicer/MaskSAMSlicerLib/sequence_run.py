"""Runs of a model on all frames of a sequence (4D volumes)."""

from __future__ import annotations

import time
from dataclasses import replace

import slicer
from slicer.i18n import tr as _

from MaskSAMCore.geometry import Box, Volume
from MaskSAMSlicerLib.mrml.run_record import SegmentationRecord, refer_to_volumes, refers_to
from MaskSAMSlicerLib.mrml.segments import (
    check_segmentation,
    fill_segments,
    image_to_segmentation,
    new_segmentation,
)
from MaskSAMSlicerLib.mrml.sequences import (
    FrameSequence,
    SequenceHistory,
    segmentation_of_frame,
    titles,
)
from MaskSAMSlicerLib.mrml.volumes import check_volume
from MaskSAMSlicerLib.run import FrameResult, Outcome, Run, RunCallbacks, RunRequest, found_classes
from MaskSAMSlicerLib.worker.client import (
    SegmentedVolume,
    SegmentRequest,
    WorkerClient,
    WorkerError,
)


class SequenceRun(Run):
    """A run that segments each frame of the browser that shows the volume.

    The segmentations become a sequence of the same browser. Each frame is written as soon as it is
    complete, and stays if a later one fails or the run is cancelled: the run then has an outcome as
    well as an error, unless the output was removed.

    Args:
        request: the request; its output shows the frames' segmentations.
        callbacks: functions that the run calls.
    """

    def __init__(self, request: RunRequest, callbacks: RunCallbacks | None = None) -> None:
        super().__init__(request, callbacks)
        self._client: WorkerClient | None = None
        self._frames: FrameSequence | None = None
        self._frame = 0
        self._began = 0.0
        self._results: list[FrameResult] = []
        self._history: SequenceHistory | None = None
        self._same_volume = False
        self._last: tuple[SegmentedVolume, Volume] | None = None

    def start(self, client: WorkerClient) -> None:
        """Check the request and send the first frame to the worker.

        Raises:
            ValueError: the request cannot work; the message says what to do. Nothing was started.
        """
        self._client = client
        volumes = self.request.volumes
        check_volume(volumes[0] if volumes else None)
        self._frames = FrameSequence.of(volumes[0])
        if self._frames is None:
            raise ValueError(_("The volume has one frame only: no sequence browser shows it."))
        output = self.request.output
        if output is not None:
            check_segmentation(output)
            self._frames.check_output(output)
        self._began = time.monotonic()
        super().start(client)

    def _volumes(self) -> list[Volume]:
        return [self._frames.volume(node, self._frame) for node in self.request.volumes]

    def _worker_request(
        self, volumes: list[Volume], roi: Box | None, boxes: list[Box], resume: bool = False
    ) -> SegmentRequest:
        # No frame is kept open in the worker: there may be many, and each is segmented once.
        self._record.session = ""
        self._record.frame = self._frames.values[self._frame]  # whatever frame is shown
        return replace(super()._worker_request(volumes, roi, boxes, resume), session=None)

    def _checked_volume(self, result: SegmentedVolume) -> Volume:
        frames = FrameSequence.of(self.request.volumes[0])
        if frames is None or frames.browser is not self._frames.browser:
            raise ValueError(_("The sequence or its browser was removed during the run."))
        return super()._checked_volume(result)

    def _report(self, stage: str, fraction: float, _seconds_left: float | None) -> None:
        count = len(self._frames.values)
        done = (self._frame + fraction) / count
        seconds = time.monotonic() - self._began
        # The first frame includes loading the model, so the time left is unknown until half of it.
        left = seconds * (1 - done) / done if done > 0.5 / count else None
        text = _("Frame {number} of {count}: {stage}").format(
            number=self._frame + 1, count=count, stage=stage
        )
        self._callbacks.on_progress(text, done, left)

    def _on_result(self, result: SegmentedVolume) -> None:
        more = self._frame + 1 < len(self._frames.values)
        try:
            self._write_frame(result, self._checked_volume(result))
            if more:
                self._frame += 1
                super().start(self._client)
                return
            outcome = self._outcome()
        except Exception as error:
            self._fail(WorkerError("refused", str(error)))
            return
        self._finish(outcome)

    def _fail(self, error: WorkerError) -> None:
        if self._results and slicer.mrmlScene.IsNodePresent(self.request.output):
            self.outcome = self._outcome()
            error = self._with_frames_done(error)
        super()._fail(error)

    def _with_frames_done(self, error: WorkerError) -> WorkerError:
        """Return an error whose message says how many frames are done."""
        if error.kind == "cancelled":
            return error
        reason, details = str(error), error.details
        if error.kind == "crashed":
            # The worker's own message says that nothing was changed.
            details = f"{error}\n{error.details}".strip()
            reason = _(
                "the segmentation process ended unexpectedly, often because the memory ran out: try"
                " again, with a smaller region of interest (ROI) or fewer other programs"
            )
        text = _("{reason} ({done} of {count} frames done)").format(
            reason=reason, done=len(self._results), count=len(self._frames.values)
        )
        return WorkerError(error.kind, text, details)

    def _write_frame(self, result: SegmentedVolume, volume: Volume) -> None:
        """Put the segmentation of the present frame into the sequence."""
        request, found = self.request, found_classes(result)
        node = request.output
        if node is None:
            roi_name = "" if request.roi is None else request.roi.GetName()
            node = new_segmentation(request.volumes[0], roi_name)
            self.request = request = replace(request, output=node)
        sequence = self._frames.segmentations_of(node)
        if self._history is None:
            self._history = SequenceHistory(node, sequence)
            self._same_volume = refers_to(node, request.volumes[0])
            refer_to_volumes(node, request.volumes)
        value = self._frames.values[self._frame]
        stored = segmentation_of_frame(sequence, value, node)
        matrix = image_to_segmentation(node, volume)
        ids = fill_segments(
            stored.GetSegmentation(),
            matrix,
            result.labelmap,
            found,
            request.rule,
            request.model.name,
        )
        names = [item.label.name for item in found]
        self._record.segment_ids = dict(zip(names, ids, strict=True))
        self._record.take_over(SegmentationRecord.load(stored), self._same_volume)
        # The shown segmentation gets the record from its frame, but not the volume references.
        self._record.save(stored)
        self._history.set(value, stored)
        title = titles(self._frames)[self._frame]
        self._results.append(
            FrameResult(
                value,
                title,
                found,
                ids,
                volume.voxel_ml,
                list(result.notes),
                result.intracranial,
            )
        )
        self._last = result, volume

    def _outcome(self) -> Outcome:
        result, volume = self._last
        first, seconds = self._results[0], time.monotonic() - self._began
        return Outcome(
            node=self.request.output,
            found=first.found,
            segment_ids=first.segment_ids,
            changed=[item.label.name for item in first.found],
            undo=self._history,
            device=f"{result.device.name} ({result.device.reason})",
            notes=list(dict.fromkeys(note for one in self._results for note in one.notes)),
            seconds=seconds,
            voxel_ml=volume.voxel_ml,
            volume_name=volume.name,
            intracranial=first.intracranial,
            frames=tuple(self._results),
        )

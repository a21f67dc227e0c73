"""Segmentation for scripts and for the panel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import slicer
from slicer.i18n import tr as _

from MaskSAMCore.callbacks import ProgressCallback
from MaskSAMCore.worker import PACKAGES_VARIABLE
from MaskSAMSlicerLib import installer
from MaskSAMSlicerLib.core_path import core_folder, worker_python
from MaskSAMSlicerLib.dicom_export import export_request
from MaskSAMSlicerLib.model_catalog import DEFAULT_MODEL, find_model
from MaskSAMSlicerLib.mrml.box_set import BoxSet
from MaskSAMSlicerLib.mrml.run_record import SegmentationRecord, volumes_of
from MaskSAMSlicerLib.mrml.segments import ADD, REPLACE, check_segmentation
from MaskSAMSlicerLib.mrml.undo import UndoHistory
from MaskSAMSlicerLib.run import Run, RunCallbacks, RunRequest, Update
from MaskSAMSlicerLib.sequence_run import SequenceRun
from MaskSAMSlicerLib.worker.client import WorkerClient, WorkerError

if TYPE_CHECKING:
    from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode


_Run = TypeVar("_Run", bound=Run)
LogCallback = Callable[[str], None]

DEVICES = ("auto", "cpu", "cuda", "mps")


def new_client(on_log: LogCallback, **options: Any) -> WorkerClient:
    """Return a client whose worker runs MaskSAMCore with Slicer's Python.

    Args:
        on_log: receives lines for the log.
        options: see :class:`WorkerClient`.
    """
    return WorkerClient(
        python=worker_python(),
        core_folder=core_folder(),
        environment={PACKAGES_VARIABLE: str(installer.worker_folder())},
        on_log=on_log,
        **options,
    )


class SegmentationLogic:
    """Runs of models in one worker process.

    Args:
        client_factory: makes the client of the worker; receives a function for log lines.

    Attributes:
        run: the latest run; None before the first one.
        on_log: called with each line for the log.
        on_change: called when a script's run begins and ends.

    Example:
        >>> logic = slicer.util.getModuleLogic("MaskSAMSlicer")
        >>> segmentation = logic.segment(volumeNode)  # a whole head
        >>> segmentation = logic.segment(volumeNode, model="hippocampus", roiNode=roi)
    """

    def __init__(self, client_factory: Callable[[LogCallback], WorkerClient] = new_client) -> None:
        self.run: Run | None = None
        self.on_log: LogCallback = lambda _text: None
        self.on_change: Callable[[], None] = lambda: None
        self._client_factory = client_factory
        self._client: WorkerClient | None = None
        self._sessions: set[str] = set()

    @property
    def client(self) -> WorkerClient:
        """Client of the worker; the process starts with the first request."""
        if self._client is None:
            self._client = self._client_factory(self._log)
        return self._client

    @property
    def busy(self) -> bool:
        """Return whether a run is in progress."""
        return self.run is not None and not self.run.finished

    def start(self, request: RunRequest, callbacks: RunCallbacks | None = None) -> Run:
        """Start a run and return at once; :meth:`poll` continues it.

        Raises:
            ValueError: the request cannot work; the message says what to do.
        """
        return self._start(Run(request, callbacks))

    def start_sequence(
        self, request: RunRequest, callbacks: RunCallbacks | None = None
    ) -> SequenceRun:
        """Start a run on all frames of a sequence and return at once; :meth:`poll` continues it.

        Raises:
            ValueError: the request cannot work; the message says what to do.
        """
        return self._start(SequenceRun(request, callbacks))

    def start_update(
        self,
        request: RunRequest,
        callbacks: RunCallbacks | None = None,
        history: UndoHistory | None = None,
    ) -> Update:
        """Start segmenting again from boxes and return at once; :meth:`poll` continues it.

        Args:
            request: the request; its output is the segmentation of an earlier run.
            callbacks: functions that the run calls.
            history: undo history of the segmentation to continue; None for a new one.

        Raises:
            ValueError: the request cannot work; the message says what to do.
        """
        return self._start(Update(request, callbacks, history))

    def _start(self, run: _Run) -> _Run:
        if self.busy:
            raise ValueError(_("A run is in progress: wait until it ends, or cancel it."))
        installer.check_packages()
        run.start(self.client)
        self.run = run
        if run.session:
            self._sessions.add(run.session)
        return run

    @property
    def needs_polling(self) -> bool:
        """Return whether :meth:`poll` has something left to do."""
        return self._client is not None and self._client.needs_polling

    def poll(self) -> None:
        """Handle the worker's messages without waiting for more."""
        if self._client is not None:
            self._client.poll()

    def cancel(self) -> None:
        """Cancel the run; the scene stays as it is."""
        if self.busy:
            self.client.cancel()

    def forget(self) -> None:
        """Drop the result of the last run, and the volumes that the worker holds open."""
        if not self.busy:
            self.run = None
        if self._client is not None:
            for session in self._sessions:
                self._client.close_session(session)
        self._sessions.clear()

    def segment(
        self,
        volumeNode: vtkMRMLScalarVolumeNode | Sequence[vtkMRMLScalarVolumeNode],
        model: str = DEFAULT_MODEL,
        roiNode: vtkMRMLMarkupsROINode | None = None,
        boxNodes: Sequence[vtkMRMLMarkupsROINode] | None = None,
        segmentationNode: vtkMRMLSegmentationNode | None = None,
        device: str = "auto",
        rule: str = REPLACE,
        progress: ProgressCallback | None = None,
        overwrite: bool = False,
        resample: bool = False,
        allFrames: bool = False,
    ) -> vtkMRMLSegmentationNode:
        """Segment a volume and wait for the result; the application stays responsive.

        Args:
            volumeNode: the volume, or one volume for each channel of the model.
            model: name of the model in the catalog.
            roiNode: part to segment; None for the whole volume.
            boxNodes: ROIs named like classes, which they bound. For models that need boxes (SAM,
                MedSAM): ROIs named like the structures that they surround.
            segmentationNode: segmentation to write to; None for a new one.
            device: "auto", "cpu", "cuda" or "mps".
            rule: "replace" writes a class into the segment of its name, "add" makes new segments.
            progress: called with the stage, the fraction done and the seconds left or None.
            overwrite: let classes with boxes take voxels from classes without boxes.
            resample: resample the channels to the grid of the first one if their grids differ.
            allFrames: segment all frames of the sequence browser that shows the volume; completed
                frames are kept even if a later one fails.

        Returns:
            The segmentation.

        Raises:
            ValueError: an argument cannot work; the message says what to do.
            RuntimeError: the run failed or was cancelled; the scene is as before.
        """
        if rule not in (ADD, REPLACE):
            raise ValueError(_("Unknown rule '{rule}': choose add or replace.").format(rule=rule))
        if str(device).split(":")[0] not in DEVICES:
            raise ValueError(
                _("Unknown device '{device}': choose one of {known}.").format(
                    device=device, known=", ".join(DEVICES)
                )
            )
        request = RunRequest(
            volumes=volumeNode if isinstance(volumeNode, (list, tuple)) else [volumeNode],
            model=find_model(model),
            roi=roiNode,
            boxes=boxNodes or (),
            output=segmentationNode,
            rule=rule,
            device=device,
            overwrite=overwrite,
            resample=resample,
        )
        start = self.start_sequence if allFrames else self.start
        return self._wait(start(request, _callbacks(progress)))

    def update(
        self,
        segmentationNode: vtkMRMLSegmentationNode,
        boxNodes: Sequence[vtkMRMLMarkupsROINode] | None = None,
        overwrite: bool = False,
        progress: ProgressCallback | None = None,
    ) -> vtkMRMLSegmentationNode:
        """Segment again from changed boxes and wait for the result.

        The volume is not encoded again as long as the worker holds it open.

        Args:
            segmentationNode: result of an earlier run.
            boxNodes: all boxes to use, named like classes; None for those that the user moved or
                drew in the panel. A class without a box gets its automatic voxels back.
            overwrite: let classes with boxes take voxels from classes without boxes.
            progress: called with the stage, the fraction done and the seconds left or None.

        Returns:
            The segmentation.

        Raises:
            ValueError: an argument cannot work; the message says what to do.
            RuntimeError: the run failed or was cancelled; the scene is as before.
        """
        check_segmentation(segmentationNode)
        record = SegmentationRecord.require(segmentationNode)
        model = find_model(record.model)
        if boxNodes is None:
            boxes = BoxSet(model, volumes_of(segmentationNode)[0], segmentationNode)
            boxes.note_changes()
            boxNodes = boxes.active_boxes
        request = RunRequest(
            volumes=(),
            model=model,
            boxes=boxNodes,
            output=segmentationNode,
            device=record.device,
            overwrite=overwrite,
        )
        return self._wait(self.start_update(request, _callbacks(progress)))

    def export_dicom(
        self,
        segmentationNode: vtkMRMLSegmentationNode,
        path: str | Path,
        report: bool = False,
        folder: str | Path | None = None,
    ) -> Path:
        """Write a result as a DICOM segmentation and wait; the application stays responsive.

        Args:
            segmentationNode: result of an earlier run on a volume that was loaded from DICOM.
            path: file to write; an existing one is replaced.
            report: write the volumes as a structured report, too, beside the segmentation.
            folder: folder of the volume's DICOM series; None to find it in Slicer's database.

        Returns:
            The path.

        Raises:
            ValueError: an argument cannot work; the message says what to do.
            RuntimeError: the export failed or was cancelled.
        """
        path, folder = Path(path), None if folder is None else Path(folder)
        if installer.missing_for(installer.DICOM):
            raise ValueError(installer.explain_extra(installer.DICOM))
        job = self.client.export_dicom(export_request(segmentationNode, path, report, folder))
        try:
            self.client.wait(job, on_idle=slicer.app.processEvents)
        except WorkerError as error:
            raise RuntimeError(str(error)) from error
        return path

    def _wait(self, run: Run) -> vtkMRMLSegmentationNode:
        self.on_change()
        try:
            job = None
            while job is not run.job:  # a sequence has a job for each frame
                job = run.job
                self.client.wait(job, on_idle=slicer.app.processEvents)
        except WorkerError as error:
            raise RuntimeError(str(error)) from error
        except BaseException:
            # The script's progress function failed, or the user pressed Ctrl+C.
            self.client.close()
            self.run = None
            raise
        finally:
            self.on_change()
        if run.error is not None:
            raise RuntimeError(str(run.error)) from run.error
        return run.outcome.node

    def close(self) -> None:
        """End the worker."""
        if self._client is not None:
            self._client.close()
            self._client = None
        self.run = None

    def _log(self, text: str) -> None:
        self.on_log(text)


def _callbacks(progress: ProgressCallback | None) -> RunCallbacks:
    return RunCallbacks() if progress is None else RunCallbacks(on_progress=progress)

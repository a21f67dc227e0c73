"""What the module does, with or without a panel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import slicer
from slicer.i18n import tr as _

from MaskSAMSlicerLib import installer
from MaskSAMSlicerLib.core_path import core_folder, worker_python
from MaskSAMSlicerLib.model_catalog import DEFAULT_MODEL, find_row
from MaskSAMSlicerLib.mrml.box_nodes import boxes_of, is_edited
from MaskSAMSlicerLib.mrml.segments import ADD, REPLACE
from MaskSAMSlicerLib.mrml.undo import UndoStep
from MaskSAMSlicerLib.run import Choice, Outcome, Run
from MaskSAMSlicerLib.update import Update, record_of
from MaskSAMSlicerLib.worker.client import WorkerClient, WorkerError

if TYPE_CHECKING:
    from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode

_Run = TypeVar("_Run", bound=Run)

DEVICES = ("auto", "cpu", "cuda", "mps")


class SegmentationLogic:
    """Runs models over one worker process.

    Example:
        >>> logic = slicer.util.getModuleLogic("MaskSAMSlicer")
        >>> segmentation = logic.segment(volumeNode)  # a whole head
        >>> segmentation = logic.segment(volumeNode, model="hippocampus", roiNode=roi)
    """

    def __init__(self) -> None:
        self.on_log: Callable[[str], None] = lambda _text: None
        # Called when a script's run begins and ends, for a panel that is open meanwhile.
        self.on_change: Callable[[], None] = lambda: None
        self._client: WorkerClient | None = None
        self._sessions: set[str] = set()
        self.run: Run | None = None

    @property
    def client(self) -> WorkerClient:
        """The worker's client; the process starts with the first run."""
        if self._client is None:
            self._client = WorkerClient(
                python=worker_python(), core_folder=core_folder(), on_log=self._log
            )
        return self._client

    @property
    def busy(self) -> bool:
        """Whether a run is under way."""
        return self.run is not None and not self.run.finished

    def forget(self) -> None:
        """Let go of the last run's result, and of the volumes that the worker holds open."""
        if not self.busy:
            self.run = None
        if self._client is not None:
            for session in self._sessions:
                self._client.close_session(session)
        self._sessions.clear()

    def start(
        self,
        choice: Choice,
        on_progress: Callable[[str, float, float | None], None],
        on_done: Callable[[Outcome], None],
        on_error: Callable[[WorkerError], None],
    ) -> Run:
        """Starts a run and returns at once; :meth:`poll` carries it on.

        Raises:
            ValueError: something cannot work; the message says what to do.
        """
        return self._started(Run(choice, on_progress, on_done, on_error))

    def start_update(
        self,
        choice: Choice,
        on_progress: Callable[[str, float, float | None], None],
        on_done: Callable[[Outcome], None],
        on_error: Callable[[WorkerError], None],
        step: UndoStep | None = None,
    ) -> Update:
        """Starts another run on the result of an earlier one (`choice.output`), from the boxes of
        the choice; :meth:`poll` carries it on.

        Args:
            step: the undo steps of the segmentation so far.

        Raises:
            ValueError: something cannot work; the message says what to do.
        """
        return self._started(Update(choice, on_progress, on_done, on_error, step=step))

    def _started(self, run: _Run) -> _Run:
        if self.busy:
            raise ValueError(_("A run is under way: wait for its end, or cancel it."))
        lacking = installer.missing()
        if lacking:
            raise ValueError(
                _("Python packages are missing ({packages}): press Install.").format(
                    packages=", ".join(lacking)
                )
            )
        run.start(self.client)
        self.run = run
        self._sessions.add(run.session)
        return run

    def poll(self) -> None:
        """Hands out what the worker has said; never waits."""
        if self._client is not None:
            self._client.poll()

    def cancel(self) -> None:
        """Ends the run; the scene stays as it is."""
        if self.busy:
            self.client.cancel()

    def segment(
        self,
        volumeNode: vtkMRMLScalarVolumeNode | Sequence[vtkMRMLScalarVolumeNode],
        model: str = DEFAULT_MODEL,
        roiNode: vtkMRMLMarkupsROINode | None = None,
        boxNodes: Sequence[vtkMRMLMarkupsROINode] | None = None,
        segmentationNode: vtkMRMLSegmentationNode | None = None,
        device: str = "auto",
        rule: str = REPLACE,
        progress: Callable[[str, float, float | None], None] | None = None,
        overwrite: bool = False,
    ) -> vtkMRMLSegmentationNode:
        """Segments a volume and waits for the result; the application stays responsive.

        Args:
            volumeNode: the image, or one for each channel of the model.
            model: name in the catalog.
            roiNode: the part to segment; None for the whole volume.
            boxNodes: ROIs named like classes; each bounds its class. Of models that need boxes
                (SAM, MedSAM): named like what they are drawn around.
            segmentationNode: where segments go; None for a new one.
            device: "auto", "cpu", "cuda" or "mps".
            rule: "replace" puts a class into the segment of its name, "add" gives new segments.
            progress: called with (stage, fraction done, seconds left or None).
            overwrite: whether classes with boxes may take voxels of classes without.

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
        volumes = volumeNode if isinstance(volumeNode, (list, tuple)) else [volumeNode]
        choice = Choice(
            volumes,
            find_row(model),
            roiNode,
            boxNodes or (),
            segmentationNode,
            rule,
            device,
            overwrite,
        )
        run = self.start(choice, progress or _ignore, _ignore, _ignore)
        return self._waited_for(run)

    def update(
        self,
        segmentationNode: vtkMRMLSegmentationNode,
        boxNodes: Sequence[vtkMRMLMarkupsROINode] | None = None,
        overwrite: bool = False,
        progress: Callable[[str, float, float | None], None] | None = None,
    ) -> vtkMRMLSegmentationNode:
        """Segments again what boxes were changed of, and waits: a decode only, as long as the
        worker holds the volume open.

        Args:
            segmentationNode: the result of an earlier run.
            boxNodes: all boxes that count, named like classes; None for those that a person moved
                or drew in the panel. A class without one gets its automatic voxels back.
            overwrite: whether classes with boxes may take voxels of classes without.
            progress: called with (stage, fraction done, seconds left or None).

        Returns:
            The segmentation.

        Raises:
            ValueError: an argument cannot work; the message says what to do.
            RuntimeError: the run failed or was cancelled; the scene is as before.
        """
        record = record_of(segmentationNode)
        if boxNodes is None:
            boxNodes = [box for box in boxes_of(segmentationNode) if is_edited(box)]
        choice = Choice(
            (),
            find_row(record.model),
            boxes=boxNodes,
            output=segmentationNode,
            device=record.device,
            overwrite=overwrite,
        )
        run = self.start_update(choice, progress or _ignore, _ignore, _ignore)
        return self._waited_for(run)

    def _waited_for(self, run: Run) -> vtkMRMLSegmentationNode:
        self.on_change()
        try:
            self.client.wait(run.job, on_idle=slicer.app.processEvents)
        except WorkerError as error:
            raise RuntimeError(str(error)) from error
        except BaseException:
            # The caller's progress failed, or the person pressed Ctrl+C: nobody waits any more.
            self.client.close()
            self.run = None
            raise
        finally:
            self.on_change()
        if run.error is not None:
            raise RuntimeError(str(run.error)) from run.error
        return run.outcome.node

    def close(self) -> None:
        """Ends the worker; called when the application quits and before a reload."""
        if self._client is not None:
            self._client.close()
            self._client = None
        self.run = None

    def _log(self, text: str) -> None:
        self.on_log(text)


def _ignore(*_arguments: object) -> None:
    """Nobody wants to know."""

"""Learning from corrected segmentations, for scripts and for the panel.

Learning has its own worker, so that segmenting can go on meanwhile.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from MaskSAMCore.callbacks import ProgressCallback
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import image_digest
from MaskSAMCore.labels import Label
from MaskSAMCore.models import find, user_folder
from MaskSAMCore.models.catalog import check_name
from MaskSAMCore.models.unfinished import unfinished_learning
from MaskSAMCore.worker.protocol import AdaptParams, AdaptResult, KeepCorrectionsResult
from MaskSAMSlicerLib import installer
from MaskSAMSlicerLib.logic import LogCallback, new_client
from MaskSAMSlicerLib.model_catalog import DEFAULT_MODEL, ModelInfo, find_model, list_models
from MaskSAMSlicerLib.mrml.corrections import CorrectedNodes, corrected_case
from MaskSAMSlicerLib.mrml.segments import check_segmentation
from MaskSAMSlicerLib.worker.client import CorrectedCase, Job, WorkerClient, WorkerError

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode

    Volumes = vtkMRMLScalarVolumeNode | Sequence[vtkMRMLScalarVolumeNode]

DEFAULT_MINUTES = 15.0
# Time in seconds for a cancelled worker to save what it has learnt.
_CANCEL_SECONDS = 3.0
# Longest time in seconds that the end of the application waits for corrections to be kept.
_KEEPING_SECONDS = 60.0
# Prefix of the setting for a model's folder of corrections; the model's name follows.
_FOLDER_SETTING = "MaskSAM/corrections/"


def new_learning_client(on_log: LogCallback) -> WorkerClient:
    """Return a client whose worker learns with Slicer's Python, at low priority."""
    return new_client(on_log, low_priority=True, cancel_seconds=_CANCEL_SECONDS)


def corrections_folder(model: str) -> Path:
    """Return the folder in which corrections for a model are kept.

    This is the folder that the user has chosen last, else a folder below the user's documents.
    """
    chosen = slicer.app.userSettings().value(_FOLDER_SETTING + model, "")
    if chosen:
        return Path(str(chosen))
    documents = qt.QStandardPaths.writableLocation(qt.QStandardPaths.DocumentsLocation)
    return Path(str(documents)) / "MaskSAM" / f"corrections-{model}"


def choose_corrections_folder(model: str, folder: Path) -> None:
    """Remember the folder in which corrections for a model are kept."""
    slicer.app.userSettings().setValue(_FOLDER_SETTING + model, str(folder))


def output_of(name: str) -> Path:
    """Return the folder of a new model, where the catalog finds it."""
    return user_folder() / "models" / name


def free_name(model: str) -> str:
    """Return an unused name for a model that is adapted from another one."""
    base = re.sub(r"(-ours(-\d+)?)?$", "-ours", model, count=1)
    taken = {one.name for one in list_models()}
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name


@dataclass(frozen=True)
class LearningRequest:
    """A model to adapt to corrected segmentations.

    Attributes:
        model: the model to adapt.
        name: name of the new model.
        corrections: corrected segmentations in the scene; cases in the folder are used, too.
        folder: folder that keeps the corrections.
        minutes: longest time in minutes.
        device: "auto", "cpu", "cuda" or "mps".
        resume: True to go on with the unfinished learning of this name, False to begin anew.
    """

    model: ModelInfo
    name: str
    corrections: Sequence[CorrectedNodes]
    folder: Path
    minutes: float = DEFAULT_MINUTES
    device: str = "auto"
    resume: bool = False


def _ignore(*_arguments: object) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class LearningCallbacks:
    """Callbacks for learning, called on the main thread from ``poll``.

    Attributes:
        on_progress: receives the stage, the fraction done and the seconds left or None.
        on_kept: receives the number of corrections, once they are in the folder.
        on_validation: receives the minutes of learning and the Dice on held-out cases.
        on_done: receives the result.
        on_error: receives the error; no model was written.
    """

    on_progress: ProgressCallback = _ignore
    on_kept: Callable[[int], None] = _ignore
    on_validation: Callable[[float, float], None] = _ignore
    on_done: Callable[[AdaptResult], None] = _ignore
    on_error: Callable[[WorkerError], None] = _ignore


class Learning:
    """Learning from corrections: the corrections are kept first, then the model is adapted.

    The voxels are copied before :meth:`start` returns, so that the scene may change or be closed.

    Attributes:
        request: the request; without nodes once the learning has started.
        job: the worker's current job: keeping the corrections, then adapting the model.
        keeping: whether the corrections are being kept.
        validations: minutes of learning and Dice on held-out cases.
        result: the result, once the learning has succeeded.
        error: the error, once the learning has failed.
    """

    def __init__(
        self, request: LearningRequest, callbacks: LearningCallbacks | None = None
    ) -> None:
        self.request = request
        self.job: Job | None = None
        self.keeping = False
        self.validations: list[tuple[float, float]] = []
        self.result: AdaptResult | None = None
        self.error: WorkerError | None = None
        self._callbacks = callbacks or LearningCallbacks()
        self._client: WorkerClient | None = None
        self._params: AdaptParams | None = None
        self._cancelled = False
        self._case_count = 0
        self._kept_count = 0

    @property
    def finished(self) -> bool:
        """Return whether the learning has succeeded or failed."""
        return self.result is not None or self.error is not None

    def start(self, client: WorkerClient) -> None:
        """Check the request and send the corrections to the worker.

        Raises:
            ValueError: the request cannot work; the message says what to do. Nothing was started.
        """
        request = self.request
        _check(request)
        cases = _cases(request.corrections, request.model.labels)
        self.request = replace(request, corrections=())
        self._client = client
        # The model may be removed while the corrections are kept; the worker then says so.
        self._params = AdaptParams(
            str(find(request.model.name).folder),
            str(request.folder.absolute()),
            str(output_of(request.name).absolute()),
            request.name,
            request.minutes,
            request.device,
            request.resume,
        )
        if cases:
            self.keeping, self._case_count = True, len(cases)
            self.job = client.keep_corrections(
                cases,
                request.folder,
                channels=[name for name in request.model.channels if name],
                on_progress=self._on_keeping,
                on_done=self._on_kept,
                on_error=self.fail,
            )
        else:
            self._learn()

    def cancel(self) -> None:
        """Stop learning, but first finish keeping the corrections, as the scene may lose them."""
        self._cancelled = True
        if not self.keeping:
            self._client.cancel()

    def finish_keeping(self) -> None:
        """Wait until the corrections are kept, without any callback, as the scene may lose them."""
        self._callbacks = LearningCallbacks()
        self.cancel()
        with contextlib.suppress(WorkerError):
            self._client.wait(self.job, _KEEPING_SECONDS)

    def _on_keeping(self, stage: str, fraction: float, seconds_left: float | None) -> None:
        # Each case is reported when it begins; those before it are complete.
        self._kept_count = round(fraction * self._case_count)
        self._callbacks.on_progress(stage, fraction, seconds_left)

    def _on_kept(self, result: KeepCorrectionsResult) -> None:
        self.keeping = False
        self._callbacks.on_kept(len(result.cases))
        if self._cancelled:
            self.fail(WorkerError.cancelled())
        else:
            self._learn()

    def _learn(self) -> None:
        self.job = self._client.adapt(
            self._params,
            on_progress=self._callbacks.on_progress,
            on_done=self._finish,
            on_error=self.fail,
            on_validation=self._on_validation,
        )

    def _on_validation(self, minutes: float, dice: float) -> None:
        self.validations.append((minutes, dice))
        self._callbacks.on_validation(minutes, dice)

    def _finish(self, result: AdaptResult) -> None:
        self.result = result
        if result.kept:  # the new model can learn from the same corrections
            choose_corrections_folder(self.request.name, self.request.folder)
        self._callbacks.on_done(result)

    def fail(self, error: WorkerError) -> None:
        """End the learning with an error, and report it to the caller."""
        kind, text, details = error.kind, str(error), error.details
        if kind == "changed":
            # The worker's own message names command-line options.
            kind = "refused"
            text = _(
                "the corrections are kept, but they or the model have changed since the learning of"
                " '{name}' was interrupted: untick 'Go on with the interrupted learning' to learn"
                " anew from all of them"
            ).format(name=self.request.name)
        elif kind == "crashed":
            # The worker's own message gives advice for segmenting.
            details = f"{error}\n{error.details}".strip()
            text = _(
                "learning ended unexpectedly, often because the memory ran out; the corrections and"
                " what was learnt until the last save are kept: close other programs and press"
                " Learn again"
            )
            if self.keeping:
                text = _(
                    "keeping the corrections ended unexpectedly, often because the memory ran out:"
                    " close other programs and press Learn again"
                )
        if self.keeping:
            text = _("{reason} ({kept} of {count} corrected volumes are kept)").format(
                reason=text, kept=self._kept_count, count=self._case_count
            )
            self.keeping = False
        self.error = WorkerError(kind, text, details)
        self._callbacks.on_error(self.error)


class LearningLogic:
    """Learning in a worker process of its own, one model at a time.

    Args:
        client_factory: makes the client of the worker; receives a function for log lines.

    Attributes:
        learning: the latest learning; None before the first one.
        on_log: called with each line for the log.
        on_change: called when a script's learning begins and ends.
    """

    def __init__(
        self, client_factory: Callable[[LogCallback], WorkerClient] = new_learning_client
    ) -> None:
        self.learning: Learning | None = None
        self.on_log: LogCallback = lambda _text: None
        self.on_change: Callable[[], None] = lambda: None
        self._client_factory = client_factory
        self._client: WorkerClient | None = None

    @property
    def client(self) -> WorkerClient:
        """Client of the worker; the process starts with the first request."""
        if self._client is None:
            self._client = self._client_factory(lambda text: self.on_log(text))
        return self._client

    @property
    def busy(self) -> bool:
        """Return whether a model is learning."""
        return self.learning is not None and not self.learning.finished

    def start(
        self, request: LearningRequest, callbacks: LearningCallbacks | None = None
    ) -> Learning:
        """Start learning and return at once; :meth:`poll` continues it.

        Raises:
            ValueError: the request cannot work; the message says what to do.
        """
        if self.busy:
            raise ValueError(_("A model is learning: wait until it ends, or cancel it."))
        installer.check_packages(installer.LEARNING)
        learning = Learning(request, callbacks)
        learning.start(self.client)
        self.learning = learning
        choose_corrections_folder(request.model.name, request.folder)
        return learning

    @property
    def needs_polling(self) -> bool:
        """Return whether :meth:`poll` has something left to do."""
        return self._client is not None and self._client.needs_polling

    def poll(self) -> None:
        """Handle the worker's messages without waiting for more."""
        if self._client is not None:
            self._client.poll()
        if self.learning is not None and self.busy and not self.needs_polling:
            # The client drops a job before it calls the callback: the callback raised an error.
            text = _("learning ended after an error inside MaskSAM: see Slicer's error log")
            self.learning.fail(WorkerError("internal", text))

    def cancel(self) -> None:
        """Stop learning; the corrections and what was learnt so far are kept for the next time."""
        if self.learning is not None and self.busy:
            self.learning.cancel()

    def adapt(
        self,
        corrections: Sequence[tuple[Volumes, vtkMRMLSegmentationNode]],
        model: str = DEFAULT_MODEL,
        name: str | None = None,
        minutes: float = DEFAULT_MINUTES,
        folder: str | Path | None = None,
        checked: Sequence[str] | None = None,
        device: str = "auto",
        resume: bool = False,
        progress: ProgressCallback | None = None,
    ) -> str:
        """Adapt a model to corrected segmentations and wait; the application stays responsive.

        Args:
            corrections: pairs of a volume (or one volume for each channel of the model) and its
                corrected segmentation. Cases in the folder are used, too.
            model: name of the model to adapt.
            name: name of the new model; None for a free one.
            minutes: longest time in minutes.
            folder: folder that keeps the corrections; None for the one used last.
            checked: names of the segments that are right; None for all segments.
            device: "auto", "cpu", "cuda" or "mps".
            resume: go on with the unfinished learning of this name instead of beginning anew.
            progress: called with the stage, the fraction done and the seconds left or None.

        Returns:
            The name of the new model, for ``segment``.

        Raises:
            ValueError: an argument cannot work; the message says what to do.
            RuntimeError: the learning failed or was cancelled, or the new model is not better.
        """
        found = find_model(model)
        nodes = [
            CorrectedNodes(one if isinstance(one, (list, tuple)) else [one], other, checked)
            for one, other in corrections
        ]
        request = LearningRequest(
            model=found,
            name=free_name(model) if name is None else name,
            corrections=nodes,
            folder=corrections_folder(model) if folder is None else Path(folder),
            minutes=minutes,
            device=device,
            resume=resume,
        )
        callbacks = LearningCallbacks() if progress is None else LearningCallbacks(progress)
        learning = self.start(request, callbacks)
        self._wait(learning)
        if not learning.result.kept:
            raise RuntimeError(learning.result.message)
        return learning.request.name

    def _wait(self, learning: Learning) -> None:
        self.on_change()
        try:
            job = None
            while job is not learning.job:  # one job keeps the corrections, the next adapts
                job = learning.job
                self.client.wait(job, on_idle=slicer.app.processEvents)
        except WorkerError:
            raise RuntimeError(str(learning.error)) from learning.error
        except BaseException:
            # The script's progress function failed, or the user pressed Ctrl+C.
            self.close()
            raise
        finally:
            self.on_change()
        if learning.error is not None:  # cancelled while the corrections were kept
            raise RuntimeError(str(learning.error)) from learning.error

    def close(self) -> None:
        """End the worker, once the corrections are kept; what was learnt until the last save is
        kept."""
        if self.learning is not None and self.learning.keeping:
            self.learning.finish_keeping()
        if self._client is not None:
            self._client.close()
            self._client = None
        self.learning = None


def _check(request: LearningRequest) -> None:
    """Check what can be checked before any work.

    Raises:
        ValueError: the request cannot work; the message says what to do.
    """
    model = request.model
    if not model.installed:
        raise ValueError(
            _("The model '{title}' is not installed: press Download first.").format(
                title=model.title
            )
        )
    if model.needs_boxes:
        raise ValueError(
            _("'{title}' has no classes that could learn: choose another model.").format(
                title=model.title
            )
        )
    try:
        check_name(request.name)
    except MaskSAMError as error:
        raise ValueError(str(error)) from error
    if any(one.name == request.name for one in list_models()):
        raise ValueError(
            _("There is a model named '{name}': choose another name.").format(name=request.name)
        )
    if not request.minutes > 0:
        raise ValueError(_("Choose how many minutes the model may learn."))
    if request.resume and unfinished_learning(output_of(request.name)) is None:
        raise ValueError(
            _("No learning of '{name}' was interrupted: begin anew.").format(name=request.name)
        )
    for nodes in request.corrections:
        _check_nodes(nodes, model)
    if not request.corrections and not request.folder.is_dir():
        raise ValueError(_("Add a corrected segmentation first."))


def _check_nodes(nodes: CorrectedNodes, model: ModelInfo) -> None:
    node = nodes.segmentation
    check_segmentation(node)
    if len(nodes.volumes) != len(model.channels):
        raise ValueError(
            _("'{title}' takes {count} images, but '{name}' belongs to {given}.").format(
                title=model.title,
                count=len(model.channels),
                name=node.GetName(),
                given=len(nodes.volumes),
            )
        )


def _cases(corrections: Sequence[CorrectedNodes], labels: Sequence[Label]) -> list[CorrectedCase]:
    """Return the cases of corrected segmentations, one for each image.

    Segmentations of the same image, or of copies of it, are merged: learning uses only the newest
    case of an image, so that separate cases would replace each other.

    Args:
        corrections: corrected segmentations.
        labels: classes of the model.

    Raises:
        ValueError: a segmentation cannot be used, a class is checked in two segmentations of an
            image, or corrected classes of two segmentations overlap.
    """
    cases: dict[str, CorrectedCase] = {}
    owners: dict[tuple[str, str], tuple[str, str]] = {}
    for nodes in corrections:
        case = corrected_case(nodes, labels)
        owner = nodes.segmentation.GetName(), case.name
        # Each ROI of a volume gives an image of its own.
        image = image_digest(case.channels)
        keys = {(image, name.casefold()): name for name in case.checked}
        for key, name in keys.items():
            if key in owners:
                raise ValueError(_ticked_twice(name, owners[key], owner))
        owners.update(dict.fromkeys(keys, owner))
        cases[image] = _merged(cases[image], case) if image in cases else case
    return list(cases.values())


def _ticked_twice(name: str, one: tuple[str, str], other: tuple[str, str]) -> str:
    """Return why a class cannot be ticked in two segmentations.

    Args:
        name: name of the class.
        one: names of a segmentation and its volume.
        other: names of another segmentation and its volume, which is the same image.
    """
    if one[1] == other[1]:
        text = _(
            "'{name}' is ticked in two segmentations of '{volume}', '{one}' and '{other}': untick"
            " it in one of them."
        )
    else:
        text = _(
            "'{name}' is ticked in '{one}' and '{other}', but their volumes '{volume}' and '{copy}'"
            " are the same image: untick it in one of them."
        )
    return text.format(name=name, one=one[0], other=other[0], volume=one[1], copy=other[1])


def _merged(one: CorrectedCase, other: CorrectedCase) -> CorrectedCase:
    """Return a case with the classes of two cases of one image.

    Where a corrected class overlaps one that is not, the corrected class gets the voxels; where
    classes that are not corrected overlap, the second case gets them.

    Raises:
        ValueError: two corrected classes overlap.
    """
    first, second = _corrected_voxels(one), _corrected_voxels(other)
    shared = first & second
    if shared.any():
        place = np.unravel_index(shared.argmax(), shared.shape)
        names = [_class_at(case, place) for case in (one, other)]
        raise ValueError(
            _(
                "'{one}' and '{other}' overlap in two segmentations of '{volume}': erase the"
                " overlap from one of them, or untick one."
            ).format(one=names[0], other=names[1], volume=one.name)
        )
    shift = max(label.value for label in one.labels)
    moved = other.labelmap.astype(np.uint16) + np.uint16(shift)
    labels = [replace(label, value=label.value + shift) for label in other.labels]
    return replace(
        one,
        labelmap=np.where((other.labelmap > 0) & ~first, moved, one.labelmap),
        labels=[*one.labels, *labels],
        checked=[*one.checked, *other.checked],
        corrected=[*one.corrected, *other.corrected],
    )


def _corrected_voxels(case: CorrectedCase) -> np.ndarray:
    """Return the voxels of the corrected classes of a case as bool [K, J, I]."""
    values = [label.value for label in case.labels if label.name in case.corrected]
    return np.isin(case.labelmap, values)


def _class_at(case: CorrectedCase, place: tuple[np.intp, ...]) -> str:
    """Return the name of the class that has a voxel (k, j, i) of a case."""
    return next(label.name for label in case.labels if label.value == case.labelmap[place])

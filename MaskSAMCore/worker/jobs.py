"""Jobs of the requests that take time, which run one after another on the job thread."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MaskSAMCore import __version__
from MaskSAMCore.errors import Cancelled, MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.worker import protocol
from MaskSAMCore.worker.cache import ModelCache
from MaskSAMCore.worker.protocol import (
    AdaptParams,
    AdaptResult,
    AddModelParams,
    AddModelResult,
    AvailableDevice,
    DevicesResult,
    DeviceUsed,
    ExportDicomParams,
    InstanceMessage,
    KeepCorrectionsParams,
    KeepCorrectionsResult,
    LogMessage,
    ModelParams,
    ProgressMessage,
    ProposalMessage,
    Request,
    SegmentParams,
    SegmentResult,
    SessionParams,
    ValidationMessage,
)
from MaskSAMCore.worker.shared_files import (
    file_state,
    open_image,
    open_labelmap,
    write_labelmap,
)

if TYPE_CHECKING:
    from MaskSAMCore.inference import Instance

# Within a stage, progress is reported after this time or after this share of the job.
_SECONDS_BETWEEN_REPORTS = 0.05
_SHARE_BETWEEN_REPORTS = 0.01
SESSION_LOST = (
    "the embeddings of the earlier run are gone, or the volume, the ROI or the model has changed:"
    " the whole run was repeated"
)

Notify = Callable[["ProgressMessage | ValidationMessage | LogMessage"], None]


class JobContext:
    """A request whose job waits or runs.

    Args:
        request: request with an id.
        models: models and sessions that are kept between requests.
        notify: function that sends a notification to the client.

    Attributes:
        params: parameters of the request.
        models: models and sessions that are kept between requests.
        stop: event that is set once the client has cancelled the request.
    """

    def __init__(self, request: Request, models: ModelCache, notify: Notify) -> None:
        assert request.id is not None
        self.id = request.id
        self.method = request.method
        self.params = request.params
        self.models = models
        self.stop = threading.Event()
        self._notify = notify
        self._stage, self._fraction, self._reported_at = "", 0.0, 0.0

    def progress(self, stage: str, fraction: float, seconds_left: float | None = None) -> None:
        """Report progress, unless the last report of the same stage is recent."""
        now = time.monotonic()
        due = now - self._reported_at >= _SECONDS_BETWEEN_REPORTS
        grown = fraction - self._fraction >= _SHARE_BETWEEN_REPORTS or fraction >= 1
        if due or grown or stage != self._stage:
            self._stage, self._fraction, self._reported_at = stage, fraction, now
            rounded = round(float(fraction), 4)
            self._notify(ProgressMessage(self.id, stage, rounded, seconds_left))

    def validation(self, minutes: float, dice: float) -> None:
        """Send the validation Dice that an adaptation has reached."""
        self._notify(ValidationMessage(self.id, round(minutes, 3), round(dice, 4)))

    def log(self, text: str) -> None:
        """Send a line for the log."""
        self._notify(LogMessage(text))

    def cancelled(self) -> bool:
        """Return whether the client has cancelled the request."""
        return self.stop.is_set()

    def check(self) -> None:
        """Raise Cancelled if the client has cancelled the request."""
        if self.cancelled():
            raise Cancelled


def segment(job: JobContext) -> dict[str, Any]:
    """Segment a volume, and write its labelmap to the file of the request."""
    began = time.monotonic()
    params = SegmentParams.from_json(job.params)
    volumes = [open_image(image) for image in params.images]
    job.check()
    job.progress("Starting PyTorch", 0)
    import torch

    job.check()
    job.progress("Loading the model", 0)
    loading_began = time.monotonic()
    segmenter = job.models.segmenter(params.model, params.device)
    seconds = time.monotonic() - loading_began
    job.log(f"PyTorch {torch.__version__}, on {segmenter.device}, ready in {seconds:.1f} s")
    job.check()
    tta: Any = params.tta
    options: dict[str, Any] = {
        "overwrite": params.overwrite,
        "progress": job.progress,
        "cancelled": job.cancelled,
    }

    def channels() -> list[Volume]:
        if not params.resample:
            return volumes
        job.progress("Resampling the channels", 0)
        # Imported late, because it needs SciPy.
        from MaskSAMCore.data.alignment import align_channels

        return align_channels(volumes)

    if params.session is None:
        result = segmenter.segment(
            channels(), roi=params.roi, boxes=params.boxes, tta=tta, **options
        )
    else:
        files = tuple(file_state(image) for image in params.images)
        session, opened = job.models.session(
            params.session, (files, params.resample), segmenter, channels, params.roi, tta
        )
        result = session.segment(params.boxes, **options)
        if opened and params.resume:
            result = replace(result, notes=(SESSION_LOST, *result.notes))
    job.check()
    return SegmentResult(
        labelmap_file=write_labelmap(result.labelmap, Path(params.output), job.check),
        labels=result.labels,
        instances=tuple(_message(instance) for instance in result.instances),
        device=DeviceUsed(str(segmenter.device.device), segmenter.device.reason),
        notes=result.notes,
        seconds=time.monotonic() - began,
        intracranial=result.intracranial,
    ).to_json()


def _message(instance: Instance) -> InstanceMessage:
    proposal = None
    if instance.proposal is not None:
        proposal = ProposalMessage(instance.proposal.box, instance.proposal.confidence)
    return InstanceMessage(
        instance.value,
        instance.name,
        instance.confidence,
        instance.box,
        instance.voxel_count,
        proposal,
        instance.expected_dice,
        instance.expected_dice_low,
        instance.weakest_place,
    )


def close_session(job: JobContext) -> dict[str, Any]:
    """Close a session, if it exists."""
    job.models.close_session(SessionParams.from_json(job.params).session)
    return {}


def devices(job: JobContext) -> dict[str, Any]:
    """List the devices that the network can run on, and name the one that "auto" selects."""
    import torch

    from MaskSAMCore.inference import choose_device

    auto = choose_device("auto")
    name, reason = str(auto.device), auto.reason
    threads = torch.get_num_threads()
    description = f"processor, {threads} thread{'s' if threads > 1 else ''}"
    choices = [AvailableDevice("cpu", description, reason if name == "cpu" else "")]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            size = properties.total_memory / 2**30
            choices.append(AvailableDevice(f"cuda:{index}", f"{properties.name}, {size:.0f} GiB"))
    with contextlib.suppress(MaskSAMError):
        choose_device("mps")
        choices.append(AvailableDevice("mps", "Apple GPU"))
    return DevicesResult(tuple(choices), DeviceUsed(name, reason)).to_json()


def download(job: JobContext) -> dict[str, Any]:
    """Download a model of the catalog, and verify it."""
    from MaskSAMCore.models import download as download_entry
    from MaskSAMCore.models import find

    entry = find(ModelParams.from_json(job.params).name)
    stage, began = f"Downloading {entry.title}", time.monotonic()

    def report(done: int, total: int) -> None:
        share = min(1.0, done / max(total, 1))
        elapsed = time.monotonic() - began
        job.progress(stage, share, elapsed / share * (1 - share) if share else None)

    job.progress(stage, 0)
    download_entry(entry, report, job.cancelled)
    job.models.clear()
    return {}


def add_model(job: JobContext) -> dict[str, Any]:
    """Verify a bundle or official SAM weights from disk, and keep a copy."""
    from MaskSAMCore.models import add_file, catalog
    from MaskSAMCore.models import add_model as add_bundle

    path = Path(AddModelParams.from_json(job.params).path)
    job.progress(f"Verifying {path.name}", 0)
    for entry in catalog():
        if entry.kind == "backbone" and entry.url and path.name == entry.file.name:
            add_file(entry, path)
            return AddModelResult(entry.name, entry.title).to_json()
    bundle = add_bundle(path)
    job.models.clear()
    return AddModelResult(bundle.name, bundle.title).to_json()


def remove_model(job: JobContext) -> dict[str, Any]:
    """Remove a model that the user downloaded or added."""
    from MaskSAMCore.models import remove

    name = ModelParams.from_json(job.params).name
    job.models.clear()
    remove(name)
    return {}


def export_dicom(job: JobContext) -> dict[str, Any]:
    """Write a labelmap as a DICOM segmentation, with a report of its volumes if requested."""
    from MaskSAMCore.io.dicom_segmentation import Algorithm, check_codes, write_dicom_segmentation
    from MaskSAMCore.io.dicom_source import check_installed, find_instances, read_source

    params = ExportDicomParams.from_json(job.params)
    check_installed()
    check_codes(params.labels)
    grid = open_labelmap(params.labelmap, params.ijk_to_ras)
    job.progress("Reading the DICOM series", 0)
    files = find_instances([Path(path) for path in params.source], params.instances, job.check)
    outputs = {Path(path).resolve(): path for path in (params.output, params.report) if path}
    for replaced in outputs.keys() & {file.resolve() for file in files}:
        raise MaskSAMError(
            f"{outputs[replaced]} is a file of the series, and inputs are never replaced: choose"
            " another name"
        )
    source = read_source(files[0].parent, files)
    # The user may have moved the volume in Slicer, by centring it or hardening a transform.
    grid = source.in_place(grid)
    job.check()
    job.progress("Writing the DICOM segmentation", 0.5)
    algorithm = Algorithm(
        params.model, params.version or __version__, __version__, corrected=params.corrected
    )
    output = Path(params.output)
    write_dicom_segmentation(
        grid.array, grid, output, params.labels, source, algorithm, overwrite=True
    )
    if params.report is not None:
        from MaskSAMCore.io.dicom_report import write_dicom_report

        job.progress("Writing the report", 0.9)
        write_dicom_report(Path(params.report), output, source, overwrite=True)
    return {}


def keep_corrections(job: JobContext) -> dict[str, Any]:
    """Add corrected cases to a folder one by one, each completely or not at all."""
    from MaskSAMCore.data.corrections import append_case

    params = KeepCorrectionsParams.from_json(job.params)
    folder, names, cases = Path(params.folder), params.channels or None, []
    for number, one in enumerate(params.corrections):
        job.check()
        job.progress(f"Keeping {one.name}", number / len(params.corrections))
        channels = [open_image(image) for image in one.images]
        labelmap = open_labelmap(one.labelmap, one.images[0].ijk_to_ras).array
        values = {label.name: label.value for label in one.labels}
        cases.append(
            append_case(
                folder,
                channels,
                labelmap,
                values,
                one.checked,
                one.name,
                names,
                one.labels,
                job.log,
            )
        )
    return KeepCorrectionsResult(tuple(cases)).to_json()


def adapt(job: JobContext) -> dict[str, Any]:
    """Adapt a model to corrected cases, and write the new model's bundle if it is better."""
    params = AdaptParams.from_json(job.params)
    job.progress("Starting PyTorch", 0)
    from MaskSAMCore.training.adapt import AdaptOptions
    from MaskSAMCore.training.adapt import adapt as learn

    options = AdaptOptions(
        model=Path(params.model),
        cases=Path(params.cases),
        output=Path(params.output),
        name=params.name,
        minutes=params.minutes,
        device=params.device,
        resume=params.resume,
    )
    result = learn(
        options, job.progress, job.cancelled, on_validation=job.validation, report=job.log
    )
    return AdaptResult(
        result.kept, result.before, result.after, result.held_out, result.message
    ).to_json()


JOBS: Mapping[str, Callable[[JobContext], dict[str, Any]]] = {
    protocol.SEGMENT: segment,
    protocol.CLOSE_SESSION: close_session,
    protocol.DEVICES: devices,
    protocol.DOWNLOAD: download,
    protocol.ADD_MODEL: add_model,
    protocol.REMOVE_MODEL: remove_model,
    protocol.EXPORT_DICOM: export_dicom,
    protocol.KEEP_CORRECTIONS: keep_corrections,
    protocol.ADAPT: adapt,
}

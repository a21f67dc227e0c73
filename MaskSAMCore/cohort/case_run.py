"""Work on one case: reading, segmenting and writing, and its record."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from MaskSAMCore import (
    __version__,
    io,  # the readers are imported on first use
)
from MaskSAMCore.callbacks import CancelledCallback, ProgressCallback
from MaskSAMCore.cohort.case import Case
from MaskSAMCore.cohort.peak_memory import peak_mb, reset_peak
from MaskSAMCore.cohort.record import CaseRecord, volumes_of
from MaskSAMCore.errors import Cancelled, describe
from MaskSAMCore.geometry import RasBox, Volume, box_on_grid
from MaskSAMCore.io.dicom_report import write_dicom_report
from MaskSAMCore.io.dicom_segmentation import Algorithm, write_dicom_segmentation
from MaskSAMCore.io.dicom_source import DicomSource, read_source
from MaskSAMCore.io.files import write_bytes
from MaskSAMCore.pictures import thumbnail

if TYPE_CHECKING:
    from MaskSAMCore.inference import Segmentation, Segmenter

SOFTWARE = f"masksam {__version__}"
# Digits of a SHA-256 that stand for boxes.
_DIGITS = 8
_NOTHING_FOUND = "No class was found: check the image, the region and the model."


@dataclass(frozen=True)
class CaseSettings:
    """Settings of all cases of a run.

    Attributes:
        roi: region to segment; None for whole volumes.
        boxes: boxes that prompt the classes they are named after; None for the model's own prompts.
        boxes_overwrite: whether classes with boxes may take voxels of classes without boxes.
        mirror: whether mirrored passes are averaged.
        probabilities: whether the probabilities of all classes are written, too.
        dicom_report: whether the volumes are written as a DICOM report, too, beside a DICOM
            segmentation.
        pictures: whether a picture of each case is written, too, for the report.
        overwrite: whether existing outputs may be replaced.
    """

    roi: RasBox | None = None
    boxes: tuple[RasBox, ...] | None = None
    boxes_overwrite: bool = False
    mirror: bool = False
    probabilities: bool = False
    dicom_report: bool = False
    pictures: bool = False
    overwrite: bool = False

    @property
    def recorded(self) -> str:
        """Settings that change the labels, as the table of the run records them.

        A region and boxes are named by the first digits of the SHA-256 of their places.
        """
        parts = [f"tta {'mirror' if self.mirror else 'none'}"]
        if self.roi is not None:
            parts.append(f"roi {_digest([replace(self.roi, class_name='')])}")
        if self.boxes is not None:
            parts.append(f"boxes {_digest(self.boxes)}")
        if self.boxes_overwrite:
            parts.append("boxes-overwrite")
        return "; ".join(parts)

    def outputs(self, case: Case) -> tuple[Path, ...]:
        """Return the files without which a case is not complete."""
        outputs = [case.output]
        if self.probabilities:
            outputs.append(case.probabilities)
        if self.dicom_report:
            outputs.append(case.report)
        return tuple(outputs)


class CaseRun:
    """Work on one case in three successive stages, which may run on different threads.

    An error in a stage is kept, and the later stages do nothing.

    Args:
        case: case to segment.
        settings: settings of the run.

    Attributes:
        case: case to segment.
        error: error of a stage; None without one.
    """

    def __init__(self, case: Case, settings: CaseSettings) -> None:
        self.case = case
        self.error: Exception | None = None
        self._settings = settings
        self._volumes: Sequence[Volume] = ()
        self._source: DicomSource | None = None
        self._result: Segmentation | None = None
        self._record = CaseRecord(case.name, "started", inputs=case.paths, output=case.output)

    def read(self) -> None:
        """Read the images."""
        self._attempt(self._read)

    def segment(
        self,
        segmenter: Segmenter,
        progress: ProgressCallback | None = None,
        cancelled: CancelledCallback | None = None,
        noted: Callable[[Sequence[str]], None] | None = None,
    ) -> None:
        """Segment the images, see :meth:`Segmenter.segment`.

        Args:
            segmenter: the model.
            progress: receives the progress.
            cancelled: polled before each step; True stops the run.
            noted: receives the notes of the record that are known before the images are segmented.

        Raises:
            Cancelled: `cancelled` returned True.
        """
        self._record = replace(
            self._record,
            model=segmenter.name,
            model_version=segmenter.version,
            software=SOFTWARE,
            settings=self._settings.recorded,
        )
        reset_peak()
        self._attempt(lambda: self._segment(segmenter, progress, cancelled, noted))
        self._record = replace(self._record, peak_memory_mb=peak_mb())

    def write(self) -> None:
        """Write the outputs, each complete or absent."""
        self._attempt(self._write)
        # Only the record is kept, because images and results of large volumes take much memory.
        self._volumes, self._source, self._result = (), None, None

    @property
    def record(self) -> CaseRecord:
        """Record of the case at the current stage of the work."""
        if self.error is not None:
            return replace(self._record, status="failed", reason=describe(self.error))
        return self._record

    def _attempt(self, stage: Callable[[], None]) -> None:
        if self.error is not None:
            return
        start = time.perf_counter()
        try:
            stage()
        except Cancelled:
            raise
        except Exception as error:
            # An error in one case must not stop the others of an overnight run.
            self.error = error
        seconds = (self._record.seconds or 0.0) + time.perf_counter() - start
        self._record = replace(self._record, seconds=seconds)

    def _read(self) -> None:
        self._volumes = [io.read_volume(image.path, image.files) for image in self.case.images]
        if self.case.is_dicom:
            # The labelmap lies on the grid of the first channel.
            first = self.case.images[0]
            self._source = read_source(first.path, first.files)

    def _segment(
        self,
        segmenter: Segmenter,
        progress: ProgressCallback | None,
        cancelled: CancelledCallback | None,
        noted: Callable[[Sequence[str]], None] | None,
    ) -> None:
        settings, volumes = self._settings, self._volumes
        boxes = settings.boxes
        if noted is not None:
            of_files = (*self.case.notes, *(note for volume in volumes for note in volume.notes))
            doubts = segmenter.doubts(volumes, settings.roi is not None)
            noted(tuple(dict.fromkeys((*of_files, *doubts))))
        result = segmenter.segment(
            volumes,
            roi=None if settings.roi is None else box_on_grid(settings.roi, volumes[0]),
            boxes=None if boxes is None else [box_on_grid(box, volumes[0]) for box in boxes],
            overwrite=settings.boxes_overwrite,
            progress=progress,
            cancelled=cancelled,
            tta="mirror" if settings.mirror else "none",
            probabilities=settings.probabilities,
        )
        self._volumes, self._result = (), result
        nothing = () if result.instances else (_NOTHING_FOUND,)
        self._record = replace(
            self._record,
            volumes=tuple(volumes_of(result)),
            notes=(*self.case.notes, *nothing, *result.notes),
        )

    def _write(self) -> None:
        result, case, overwrite = self._result, self.case, self._settings.overwrite
        if result is None:
            raise RuntimeError(f"{case.name} was not segmented before it was written")
        # Another shard that failed or was stopped may have removed the folder while it was empty.
        case.output.parent.mkdir(parents=True, exist_ok=True)
        outdated = self._outdated()
        if result.probabilities is not None:
            io.write_probabilities(
                result.probabilities, result.volume, case.probabilities, overwrite=overwrite
            )
        # The labelmap is written after the probabilities, because it marks a case as complete.
        if self._source is None:
            io.write_labelmap(
                result.labelmap, result.volume, case.output, result.labels, overwrite=overwrite
            )
        else:
            self._write_dicom(result, self._source)
        if self._settings.pictures:
            # The picture comes last: a report takes a picture older than the labelmap as outdated.
            picture = thumbnail(result.volume, result.labelmap, result.labels)
            write_bytes(case.picture, picture)
        notes = (f"{path.name} is of the result before: remove it." for path in outdated)
        self._record = replace(self._record, status="done", notes=(*self._record.notes, *notes))

    def _outdated(self) -> list[Path]:
        """Return the files of an earlier result that this result does not replace."""
        case = self.case
        if not case.output.exists():
            return []
        beside = {case.probabilities, case.report} - set(self._settings.outputs(case))
        return sorted(path for path in beside if path.exists())

    def _write_dicom(self, result: Segmentation, source: DicomSource) -> None:
        """Write the DICOM segmentation, and the report that refers to it."""
        case, settings = self.case, self._settings
        algorithm = Algorithm(
            self._record.model,
            self._record.model_version or __version__,
            __version__,
            corrected=settings.boxes is not None,
        )
        write_dicom_segmentation(
            result.labelmap,
            result.volume,
            case.output,
            result.labels,
            source,
            algorithm,
            settings.overwrite,
        )
        if settings.dicom_report:
            write_dicom_report(
                case.report, case.output, source, settings.overwrite, result.intracranial
            )


def _digest(boxes: Sequence[RasBox]) -> str:
    """Return the first digits of the SHA-256 of boxes."""
    values = [(box.class_name, *box.center, *box.axes.flat, *box.size) for box in boxes]
    text = json.dumps([[name, *map(float, numbers)] for name, *numbers in values])
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def run_case(segmenter: Segmenter, case: Case, settings: CaseSettings) -> CaseRecord:
    """Read, segment and write a case, and return its record; an error becomes a failed record.

    Args:
        segmenter: model, loaded once for many cases.
        case: case to segment.
        settings: settings of the run.
    """
    run = CaseRun(case, settings)
    run.read()
    run.segment(segmenter)
    run.write()
    return run.record

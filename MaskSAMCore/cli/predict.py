"""``masksam predict``: segment images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from MaskSAMCore import __version__
from MaskSAMCore.cli.display import ProgressDisplay, results_table
from MaskSAMCore.cli.outputs import Inputs, Outputs, files_in, prepared, present
from MaskSAMCore.cli.segmenters import is_training, load_segmenter
from MaskSAMCore.cohort.bids import (
    DESCRIPTION,
    LOOKUP_TABLE,
    check_derivatives,
    write_derivatives,
)
from MaskSAMCore.cohort.case import Case, LeftOut
from MaskSAMCore.cohort.case_run import CaseSettings
from MaskSAMCore.cohort.cases import OUTPUT_FORMATS, FoundCases, find_cases
from MaskSAMCore.cohort.dask_cluster import DaskCluster
from MaskSAMCore.cohort.dask_run import DaskRun
from MaskSAMCore.cohort.dask_worker import WorkerSettings
from MaskSAMCore.cohort.record import CaseRecord, count_statuses
from MaskSAMCore.cohort.report.page import check_installed as check_report
from MaskSAMCore.cohort.report.page import write_report
from MaskSAMCore.cohort.run import record_left_out, remaining_cases, run_cases
from MaskSAMCore.cohort.shard import Shard
from MaskSAMCore.cohort.table import TABLE_NAME, CaseTable
from MaskSAMCore.cohort.threads import limit_threads
from MaskSAMCore.cohort.warm_model import WarmModel
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import RasBox
from MaskSAMCore.io import read_boxes
from MaskSAMCore.io.dicom_segmentation import check_codes
from MaskSAMCore.io.dicom_source import check_installed
from MaskSAMCore.io.files import remove_abandoned
from MaskSAMCore.models.catalog import DEFAULT_MODEL
from MaskSAMCore.volumetry import write_volume_table

if TYPE_CHECKING:
    from MaskSAMCore.inference import Segmenter

Format = Enum("Format", {name: name for name in OUTPUT_FORMATS}, type=str)  # type: ignore[misc]

# Exit status of a run in which some cases failed and the others were segmented.
SOME_FAILED = 3
# A run of one folder with no more cases than this, all of them done, leaves no table: the shell has
# shown it all.
_SHOWN_CASES = 3
# Failed cases that the summary names; the table of the run has all.
_NAMED_FAILURES = 10
# Shards may still be writing files that are younger than this.
_ABANDONED_SECONDS = 600.0


class TTA(str, Enum):
    """Test-time augmentation: none, or the average of the paper's mirrored passes."""

    none = "none"
    mirror = "mirror"


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("predict")(predict)


def predict(
    inputs: list[Path] = typer.Argument(
        ...,
        metavar="INPUT...",
        help="Image files, DICOM series folders, BIDS datasets, or folders of images or of DICOM"
        " studies.",
    ),
    output: Path = typer.Option(
        ..., "-o", "--output", help="A file for one input, a folder for several."
    ),
    model: list[str] = typer.Option(
        [DEFAULT_MODEL],
        "-m",
        "--model",
        help="A model's name, the path of its bundle, or the folder of a training. Given several"
        " times, the probabilities of the models are averaged.",
    ),
    roi: Path | None = typer.Option(
        None, help="Slicer ROI markup (.mrk.json); only its inside is segmented."
    ),
    boxes: Path | None = typer.Option(
        None,
        help="Slicer ROI markups (.mrk.json) that prompt the classes they are named after, in place"
        " of the model's own prompts. SAM and MedSAM need boxes, of any names.",
    ),
    boxes_overwrite: bool = typer.Option(
        False,
        "--boxes-overwrite",
        help="Let classes with boxes overwrite classes without; by default these do not change.",
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:N or mps."),
    threads: int | None = typer.Option(
        None,
        "--threads",
        min=1,
        help="CPU cores to use; by default all. With --dask, those of each worker, by default one"
        " on this computer and elsewhere those it was started with.",
    ),
    tta: TTA | None = typer.Option(
        None,
        help="mirror: average mirrored passes (slower). By default as the model was exported: none,"
        " or mirror after a training by its paper's recipe.",
    ),
    image_format: Format = typer.Option(
        OUTPUT_FORMATS[0], "--format", help="File format of results in a folder."
    ),
    probabilities: bool = typer.Option(
        False, "--probabilities", help="Also write the probability of every class."
    ),
    volumes: Path | None = typer.Option(
        None,
        help="Also write volumes, scores and left-right asymmetry of all cases to a CSV file, and"
        " the intracranial volume and shares of it if the model segments the whole head.",
    ),
    report: Path | None = typer.Option(
        None,
        help="Also write one HTML page about all cases, those to look at first in front, and the"
        " picture of each beside its labelmap.",
    ),
    proposals: Path | None = typer.Option(
        None,
        help="Also draw the boxes and masks that MaskSAM proposed to itself on the slice with most"
        " foreground, and which of them won, to a PNG file; for one input.",
    ),
    dicom_report: bool = typer.Option(
        False,
        "--dicom-report",
        help="Also write the volumes as a DICOM structured report (TID 1500), beside each DICOM"
        " segmentation.",
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace outputs that exist."),
    skip_existing: bool = typer.Option(
        False,
        "--skip-existing",
        help="Skip cases whose outputs exist: continue a run that was stopped or had failures.",
    ),
    keep_going: bool | None = typer.Option(
        None,
        "--keep-going/--no-keep-going",
        help="Go on with the next case after an error, and exit with status 3 at the end;"
        " the default for folders of cases.",
    ),
    shard: str | None = typer.Option(
        None, "--shard", metavar="I/N", help="Segment only part I of N, such as 1/8 to 8/8."
    ),
    dask: str | None = typer.Option(
        None,
        "--dask",
        metavar="local[:N]|ADDRESS",
        help="Segment on N processes of this computer, or on the workers of a Dask scheduler, such"
        " as tcp://10.0.0.5:8786.",
    ),
    bids_suffix: list[str] = typer.Option(
        ["T1w"],
        "--bids-suffix",
        help="Suffix of the images to segment in BIDS datasets; may be given several times.",
    ),
) -> None:
    """Segment images into named classes, each on its own grid.

    The results of a folder of more than three cases are listed in cases.csv beside them.
    """
    if overwrite and skip_existing:
        raise MaskSAMError("--overwrite and --skip-existing exclude each other: choose one")
    if boxes_overwrite and boxes is None:
        raise MaskSAMError("--boxes-overwrite needs boxes: add --boxes FILE.mrk.json")
    if boxes is not None and len(model) > 1:
        raise MaskSAMError("several models together take no boxes: give one --model with --boxes")
    prompted = [one for one in model if needs_boxes(one)]
    if boxes is None and prompted:
        raise MaskSAMError(
            f"'{prompted[0]}' segments the objects in boxes: draw ROIs in Slicer, save them and add"
            " --boxes FILE.mrk.json"
        )
    if report is not None:
        check_report()
    part = None if shard is None else Shard.parse(shard)
    cluster = None if dask is None else DaskCluster.parse(dask)
    if cluster is not None and (len(model) > 1 or is_training(model[0])):
        raise MaskSAMError("--dask takes one model: its name, or the path of its bundle")
    if cluster is not None and cluster.is_local:
        threads = threads or 1
    if threads is not None and cluster is None:
        limit_threads(threads)
    # With Dask, the workers use the device; here only the model's classes are needed.
    own_device = device if cluster is None else "cpu"
    warm_model = WarmModel(lambda: load_segmenter(model, own_device))
    segmenter = warm_model.segmenter
    if boxes is None and segmenter.needs_boxes:
        raise MaskSAMError(
            f"'{segmenter.name}' segments only classes that have boxes: add --boxes FILE.mrk.json"
            " with one box or more for each of them"
        )
    found = find_cases(inputs, output, segmenter.channels, image_format.value, bids_suffix)
    if proposals is not None and len(found.cases) != 1:
        raise MaskSAMError(f"--proposals draws one input, but {len(found.cases)} are given")
    if keep_going is None:
        keep_going = bool(found.folders)
    failed = [one for one in found.left_out if one.failed]
    if failed and not keep_going:
        raise MaskSAMError(failed[0].reason)
    _check_dicom(found.cases, segmenter, dicom_report)
    settings = CaseSettings(
        roi=None if roi is None else _only_roi(roi),
        boxes=None if boxes is None else _boxes(boxes, segmenter),
        boxes_overwrite=boxes_overwrite,
        mirror=(segmenter.tta if tta is None else tta.value) == "mirror",
        probabilities=probabilities,
        dicom_report=dicom_report,
        pictures=report is not None,
        overwrite=overwrite or skip_existing,
    )
    cases, left_out = _of_shard(found, part)
    if part is not None:
        volumes = None if volumes is None else part.own_file(volumes)
        report = None if report is None else part.own_file(report)
    class_names = [label.name for label in segmenter.labels]
    class_names += [box.class_name for box in settings.boxes or ()]
    # An error of one of a few files that were named leaves nothing behind, thus no table.
    in_folder = found.cases[0].output != output and (bool(found.folders) or keep_going)
    table = CaseTable(
        output / TABLE_NAME if in_folder else None,
        class_names,
        part,
        [*(case.name for case in cases), *(one.name for one in left_out)],
        rated=segmenter.estimates_dice,
        intracranial=segmenter.intracranial,
    )
    bids = found.bids if table.path is not None else ()
    if bids:
        check_derivatives(output, bids)
    files = [path for case in cases for path in settings.outputs(case)]
    extended = [output / name for name in ((DESCRIPTION, LOOKUP_TABLE) if bids else ())]
    if report is not None:
        extended += [case.picture for case in cases]
    started = time.monotonic()
    checked = prepared(
        Outputs(
            (*files, *present(volumes, report, proposals)),
            extended=(*extended, *present(table.path)),
        ),
        _inputs(cases, roi, boxes, *map(Path, model)),
        settings.overwrite,
    )
    with checked, nullcontext() if cluster is None else cluster.connect(threads) as client:
        if bids:
            write_derivatives(output, bids, segmenter.labels, segmenter.name, __version__)
        with table:
            records = record_left_out(left_out, table)
            remaining = remaining_cases(cases, settings, table, skip_existing)
            shown = str(segmenter.device) if dask is None else f"{device}, on Dask's {dask}"
            with ProgressDisplay(len(remaining), shown) as display:
                watcher = _DisplayWatcher(display, keep_going)
                for record in records:
                    watcher.left_out(record)
                try:
                    if client is None:
                        records += run_cases(
                            remaining, warm_model, settings, table, watcher, keep_going
                        )
                    else:
                        workers = WorkerSettings(
                            str(Path(model[0]).absolute()) if Path(model[0]).exists() else model[0],
                            segmenter.version,
                            device,
                            threads,
                            (output if output.is_dir() else output.parent).absolute(),
                        )
                        run = DaskRun(client, workers, settings, table, watcher, keep_going)
                        records += run.run(remaining)
                finally:
                    done = table.volumes()
                    if volumes is not None and done:
                        write_volume_table(volumes, done)
        if volumes is not None and not done:
            display.message(f"{volumes} was not written: no case was segmented")
        if report is not None:
            folder = output if in_folder else found.cases[0].output.parent
            write_report(report, table.rows, folder, segmenter.labels, overwrite=True)
        if proposals is not None and not any(one.status == "failed" for one in records):
            from MaskSAMCore.io import read_volume
            from MaskSAMCore.research.proposal_picture import write_proposals

            images = [read_volume(image.path, image.files) for image in cases[0].images]
            write_proposals(segmenter, images, proposals)
        if table.path is not None:
            flat = all(case.output.parent == output for case in cases)
            done_now = sum(record.status == "done" for record in records)
            if flat and part is None and done_now == len(table.rows) <= _SHOWN_CASES:
                table.path.unlink()
            else:
                _summarize(display, records, len(cases) - len(remaining), table)
            # Runs that were killed leave temporary folders, but those of other shards are in use.
            age = time.monotonic() - started if part is None else _ABANDONED_SECONDS
            for folder in {output, *(case.output.parent for case in cases)}:
                remove_abandoned(folder, age)
        elif len(remaining) < len(cases):
            display.message(f"{len(cases) - len(remaining)} skipped: the outputs exist")
        if any(record.status == "failed" for record in records):
            # Folders without a result are removed.
            raise typer.Exit(SOME_FAILED)


class _DisplayWatcher:
    """Receiver of the progress of a run, which shows it.

    Args:
        display: display of the shell.
        goes_on: whether the run goes on after a failed case; otherwise the error ends the command,
            which prints it.
    """

    def __init__(self, display: ProgressDisplay, goes_on: bool) -> None:
        self.display = display
        self.goes_on = goes_on

    def started(self, name: str) -> None:
        """Show that a case is being read."""
        self.display.started(name)

    def progress(self, stage: str, fraction: float, seconds_left: float | None) -> None:
        """Show the progress of the case."""
        self.display.progress(stage, fraction, seconds_left)

    def finished(self, record: CaseRecord) -> None:
        """Show the results of a case, or the reason for which it has none."""
        if record.status == "failed":
            if self.goes_on:
                self.display.failed(record.case, record.reason)
        else:
            self.display.finished(record.case, results_table(record.volumes), record.notes)

    def message(self, text: str) -> None:
        """Show a message about the run."""
        self.display.message(text)

    def left_out(self, record: CaseRecord) -> None:
        """Show an image that is not segmented."""
        kind = "Failed" if record.status == "failed" else "Skipped"
        self.display.message(f"{kind}: {record.reason}")


def needs_boxes(model: str) -> bool:
    """Return whether a model of the catalog needs boxes, without loading it."""
    from MaskSAMCore.models import catalog

    return any(entry.needs_boxes for entry in catalog() if entry.name == model)


def _check_dicom(cases: Sequence[Case], segmenter: Segmenter, report: bool) -> None:
    """Check that the results of a model can be written as the command line says.

    Raises:
        MaskSAMError: a report is asked for without DICOM segmentations; or the model's classes or
            this installation do not allow these.
    """
    if not all(case.is_dicom for case in cases):
        if report:
            raise MaskSAMError("--dicom-report needs DICOM segmentations: add --format dcm")
        return
    check_installed()
    check_codes(segmenter.labels)


def _only_roi(path: Path) -> RasBox:
    """Return the ROI of a markup file.

    Raises:
        MaskSAMError: the file cannot be read, or holds several ROIs.
    """
    found = read_boxes(path)
    if len(found) != 1:
        raise MaskSAMError(f"{path} holds {len(found)} ROIs: --roi takes exactly one")
    return found[0]


def _boxes(path: Path, segmenter: Segmenter) -> tuple[RasBox, ...]:
    """Return the boxes of a markup file, with the names of the model's classes."""
    return tuple(read_boxes(path, [label.name for label in segmenter.labels]))


def _of_shard(found: FoundCases, shard: Shard | None) -> tuple[Sequence[Case], Sequence[LeftOut]]:
    """Return the cases of a shard, and the images that it leaves out."""
    if shard is None:
        return found.cases, found.left_out
    return shard.of(found.cases), shard.of(found.left_out)


def _inputs(cases: Sequence[Case], *others: Path | None) -> Inputs:
    """Return the files of a run that must not be replaced.

    Args:
        cases: cases of the run.
        others: further files, and the folder of the model.
    """
    images = [image for case in cases for image in case.images]
    series = {image.path for image in images if not image.files and image.path.is_dir()}
    series |= {file.parent for image in images for file in image.files}
    given = (path for other in present(*others) for path in files_in(other))
    return Inputs((*(image.path for image in images), *given), closed=tuple(sorted(series)))


def _summarize(
    display: ProgressDisplay, records: Sequence[CaseRecord], existing: int, table: CaseTable
) -> None:
    """Print how many cases were segmented, skipped and failed, with the reasons of failures."""
    counts = count_statuses(records)
    skipped = counts["skipped"] + existing
    display.message(
        f"{counts['done']} done, {skipped} skipped, {counts['failed']} failed: see {table.path}"
    )
    failures = [record for record in records if record.status == "failed"]
    for record in failures[:_NAMED_FAILURES]:
        display.message(f"  {record.case}: {record.reason}")
    if len(failures) > _NAMED_FAILURES:
        display.message(f"  and {len(failures) - _NAMED_FAILURES} more")

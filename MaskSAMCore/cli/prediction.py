"""A run of ``masksam predict``: its checks, its cases, and the files about the whole run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from MaskSAMCore import __version__
from MaskSAMCore.cli.display import ProgressDisplay, results_table
from MaskSAMCore.cli.outputs import Inputs, Outputs, prepared, present
from MaskSAMCore.cli.segmenters import is_training, load_segmenter
from MaskSAMCore.cohort.bids import (
    DEFAULT_SUFFIXES,
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
from MaskSAMCore.cohort.report.page import check_report_file, write_report
from MaskSAMCore.cohort.run import record_left_out, remaining_cases, run_cases
from MaskSAMCore.cohort.shard import Shard
from MaskSAMCore.cohort.table import TABLE_NAME, CaseTable, has_status
from MaskSAMCore.cohort.threads import limit_threads
from MaskSAMCore.cohort.warm_model import WarmModel
from MaskSAMCore.errors import MaskSAMError, first_names, visible
from MaskSAMCore.geometry import RasBox, box_on_grid
from MaskSAMCore.io import read_boxes
from MaskSAMCore.io.dicom_segmentation import check_codes
from MaskSAMCore.io.dicom_source import check_installed
from MaskSAMCore.io.files import files_in, remove_abandoned
from MaskSAMCore.models.catalog import is_path
from MaskSAMCore.volumetry import StructureVolume, read_volume_table, write_volume_table

if TYPE_CHECKING:
    from distributed import Client

    from MaskSAMCore.inference import Segmenter

# Exit status of a run in which some cases failed and the others were segmented.
SOME_FAILED = 3
# A run into one folder with at most this many cases, all segmented, leaves no table, because the
# terminal has shown everything.
_SHOWN_CASES = 3
# Number of failed cases that the summary names; the table of the run lists all of them.
_NAMED_FAILURES = 10
# Least age of abandoned folders; other runs, such as shards, may be writing younger ones.
_ABANDONED_SECONDS = 600.0


@dataclass(frozen=True)
class PredictOptions:
    """Options of ``masksam predict``, whose help describes them."""

    inputs: tuple[Path, ...]
    output: Path
    models: tuple[str, ...]
    roi: Path | None
    boxes: Path | None
    boxes_overwrite: bool
    device: str
    threads: int | None
    tta: str | None
    image_format: str | None
    probabilities: bool
    volumes: Path | None
    report: Path | None
    proposals: Path | None
    dicom_report: bool
    overwrite: bool
    skip_existing: bool
    keep_going: bool | None
    shard: str | None
    dask: str | None
    bids_suffixes: tuple[str, ...]

    def check(self) -> None:
        """Check the options as far as possible without loading the model or reading the inputs.

        Raises:
            MaskSAMError: options exclude each other, or an option needs another option or a package
                that is missing.
        """
        if self.overwrite and self.skip_existing:
            raise MaskSAMError("--overwrite and --skip-existing exclude each other: choose one")
        if self.boxes_overwrite and self.boxes is None:
            raise MaskSAMError("--boxes-overwrite needs boxes: add --boxes FILE.mrk.json")
        if self.boxes is not None and len(self.models) > 1:
            raise MaskSAMError(
                "several models together take no boxes: give one --model with --boxes"
            )
        prompted = [one for one in self.models if _needs_boxes(one)]
        if self.boxes is None and prompted:
            raise MaskSAMError(
                f"'{prompted[0]}' segments the objects in boxes: draw ROIs in Slicer, save them and"
                " add --boxes FILE.mrk.json"
            )
        if prompted and self.probabilities:
            raise MaskSAMError(
                f"'{prompted[0]}' predicts masks, not class probabilities: leave out"
                " --probabilities"
            )
        if prompted and self.tta == "mirror":
            raise MaskSAMError(
                "mirrored passes are for models without boxes: leave out --tta mirror"
            )
        if self.proposals is not None and len(self.models) > 1:
            raise MaskSAMError("--proposals draws the prompts of one model: give one --model")
        if self.proposals is not None and self.boxes is not None:
            raise MaskSAMError(
                "--proposals draws the model's own prompts, which --boxes replace: give one of them"
            )
        if self.proposals is not None and self.proposals.suffix.lower() != ".png":
            raise MaskSAMError(
                f"--proposals writes a PNG picture: end the name of {self.proposals} in .png"
            )
        if self.dask is not None and (len(self.models) > 1 or is_training(self.models[0])):
            raise MaskSAMError("--dask takes one model: its name, or the path of its bundle")
        if self.report is not None:
            check_report()


def run_prediction(options: PredictOptions) -> None:
    """Segment images according to the options.

    Raises:
        MaskSAMError: the options, the model or the inputs cannot be used, or a case failed and the
            run does not go on after failures.
        Exit: some cases failed; the status is `SOME_FAILED`.
    """
    options.check()
    cluster = None if options.dask is None else DaskCluster.parse(options.dask)
    shard = None if options.shard is None else Shard.parse(options.shard)
    threads = options.threads
    if cluster is not None and cluster.is_local:
        threads = threads or 1
    if threads is not None and cluster is None:
        limit_threads(threads)
    # With Dask, the workers use the device; here only the model's classes are needed.
    own_device = options.device if cluster is None else "cpu"
    warm_model = WarmModel(lambda: load_segmenter(options.models, own_device))
    prediction = _Prediction.of(options, warm_model.segmenter, shard)
    checked = prepared(prediction.outputs(), prediction.inputs(), prediction.settings.overwrite)
    with checked:
        _check_boxes(prediction.settings.boxes, prediction.segmenter)
        with nullcontext() if cluster is None else cluster.connect(threads) as client:
            records = prediction.run(warm_model, client, threads)
        if any(record.status == "failed" for record in records):
            # Raised inside the block, which then removes folders without a result.
            raise typer.Exit(SOME_FAILED)


@dataclass(frozen=True)
class _Prediction:
    """A run whose options, model and inputs fit each other.

    Attributes:
        options: options of the command.
        segmenter: the model.
        shard: part of the cases that is segmented; None for all.
        settings: settings of all cases.
        cases: cases to segment.
        left_out: images that are not segmented.
        goes_on: whether the run goes on after a failed case.
        table: table of the results.
        results: folder of the labelmaps.
        bids: BIDS datasets of the inputs; empty unless BIDS derivatives are written.
        volumes: path of the table of volumes to write, or None.
        measured: rows by case of an existing table of volumes that the run continues.
        report: path of the HTML report to write, or None.
    """

    options: PredictOptions
    segmenter: Segmenter
    shard: Shard | None
    settings: CaseSettings
    cases: Sequence[Case]
    left_out: Sequence[LeftOut]
    goes_on: bool
    table: CaseTable
    results: Path
    bids: Sequence[Path]
    volumes: Path | None
    measured: Mapping[str, Sequence[StructureVolume]]
    report: Path | None

    @classmethod
    def of(cls, options: PredictOptions, segmenter: Segmenter, shard: Shard | None) -> _Prediction:
        """Find the cases of a run, and check that the options fit them and the model.

        Raises:
            MaskSAMError: the options do not fit the model or the inputs.
        """
        if options.boxes is None and segmenter.needs_boxes:
            raise MaskSAMError(
                f"'{segmenter.name}' segments only classes that have boxes: add --boxes"
                " FILE.mrk.json with one box or more for each of them"
            )
        if options.proposals is not None:
            from MaskSAMCore.research.proposal_picture import proposing

            proposing(segmenter)
        output = options.output
        found = find_cases(
            options.inputs,
            output,
            segmenter.channels,
            options.image_format or OUTPUT_FORMATS[0],
            options.bids_suffixes or DEFAULT_SUFFIXES,
        )
        if options.bids_suffixes and not found.bids:
            raise MaskSAMError(
                "--bids-suffix chooses images of a BIDS dataset, but no input is one: leave the"
                " option out, or give the folder that holds sub-*/anat"
            )
        if found.cases[0].output == output:
            _check_format(output, options.image_format)
        if options.proposals is not None and len(found.cases) != 1:
            raise MaskSAMError(f"--proposals draws one input, but {len(found.cases)} are given")
        goes_on = bool(found.folders) if options.keep_going is None else options.keep_going
        failed = [one for one in found.left_out if one.failed]
        if failed and not goes_on:
            raise MaskSAMError(failed[0].reason)
        _check_dicom(found.cases, segmenter, options.dicom_report)
        settings = _settings(options, segmenter)
        cases, left_out = _of_shard(found, shard)
        class_names = [label.name for label in segmenter.labels]
        class_names += [box.class_name for box in settings.boxes or ()]
        # A run over single files that stops at an error must leave nothing behind, thus no table.
        in_folder = found.cases[0].output != output and (bool(found.folders) or goes_on)
        table = CaseTable(
            output / TABLE_NAME if in_folder else None,
            class_names,
            shard,
            [*(case.name for case in cases), *(one.name for one in left_out)],
            rated=segmenter.estimates_dice,
            intracranial=segmenter.intracranial,
        )
        bids = found.bids if table.path is not None else ()
        if bids:
            check_derivatives(output, bids, segmenter.labels, options.overwrite)
        volumes, report = _own_file(options.volumes, shard), _own_file(options.report, shard)
        # --skip-existing replaces no file of these names that a run did not write.
        measured = {}
        if options.skip_existing and volumes is not None and volumes.is_file():
            measured = read_volume_table(volumes)
        if options.skip_existing and report is not None and report.is_file():
            check_report_file(report)
        prediction = cls(
            options=options,
            segmenter=segmenter,
            shard=shard,
            settings=settings,
            cases=cases,
            left_out=left_out,
            goes_on=goes_on,
            table=table,
            results=output if in_folder else found.cases[0].output.parent,
            bids=bids,
            volumes=volumes,
            measured=measured,
            report=report,
        )
        _check_outside_datasets(prediction.outputs().written)
        return prediction

    def outputs(self) -> Outputs:
        """Return the files that the run writes."""
        output = self.options.output
        extended = [output / name for name in ((DESCRIPTION, LOOKUP_TABLE) if self.bids else ())]
        if self.report is not None:
            extended += [case.picture for case in self.cases]
        files = [path for case in self.cases for path in self.settings.outputs(case)]
        advice = Outputs.advice
        if self.table.path is not None:
            advice = "add --skip-existing to continue the run, or --overwrite to start anew"
        return Outputs(
            (*files, *present(self.volumes, self.report, self.options.proposals)),
            extended=(*extended, *present(self.table.path)),
            advice=advice,
        )

    def inputs(self) -> Inputs:
        """Return the files that the run reads, which must not be replaced."""
        options = self.options
        images = [image for case in self.cases for image in case.images]
        series = {image.path for image in images if not image.files and image.path.is_dir()}
        series |= {file.parent for image in images for file in image.files}
        models = [Path(one) for one in options.models if is_training(one) or is_path(one)]
        others = present(options.roi, options.boxes, *models)
        given = (path for other in others for path in files_in(other))
        return Inputs((*(image.path for image in images), *given), closed=tuple(sorted(series)))

    def run(
        self, warm_model: WarmModel, client: Client | None, threads: int | None
    ) -> list[CaseRecord]:
        """Segment the cases, write the files about the whole run, and return the cases' records.

        Args:
            warm_model: the model.
            client: client of a Dask cluster; None to segment in this process.
            threads: CPU cores of each worker of the cluster, see ``--threads``.
        """
        options = self.options
        with self.table:
            records = record_left_out(self.left_out, self.table)
            remaining, still_failed = remaining_cases(
                self.cases, self.settings, self.table, options.skip_existing
            )
            if still_failed and not self.goes_on:
                raise MaskSAMError(_kept_labelmaps(still_failed))
            records += still_failed
            if self.bids:
                labels, name = self.segmenter.labels, self.segmenter.name
                write_derivatives(options.output, self.bids, labels, name, __version__)
            device = str(self.segmenter.device)
            if options.dask is not None:
                device = f"{options.device}, on Dask's {options.dask}"
            with ProgressDisplay(len(remaining), device) as display:
                watcher = _DisplayWatcher(display, self.goes_on)
                for record in records:
                    watcher.left_out(record)
                try:
                    records += self._segmented(remaining, warm_model, client, threads, watcher)
                except Exception:
                    # The error tells the user that cases are missing. A run that the user stops
                    # writes no table of volumes, because it would look complete.
                    if self.volumes is not None and (volumes := self._known_volumes()):
                        write_volume_table(self.volumes, volumes)
                    raise
        others = {*(case.name for case in remaining), *(one.case for one in still_failed)}
        existing = [case.name for case in self.cases if case.name not in others]
        if self.volumes is not None:
            self._write_volumes(self.volumes, existing, display)
        # A shard may have no cases.
        if self.report is not None and self.table.rows:
            labels = self.segmenter.labels
            write_report(self.report, self.table.rows, self.results, labels, overwrite=True)
        failed = any(record.status == "failed" for record in records)
        if options.proposals is not None and self.cases and not failed:
            if options.skip_existing and options.proposals.exists():
                display.message(f"{options.proposals} exists and was kept")
            else:
                self._draw_proposals(options.proposals)
        if still_failed:
            display.message(_kept_labelmaps(still_failed))
        display.message(*self._notes_on_existing(existing))
        self._end(display, records, len(existing))
        return records

    def _segmented(
        self,
        cases: Sequence[Case],
        warm_model: WarmModel,
        client: Client | None,
        threads: int | None,
        watcher: _DisplayWatcher,
    ) -> list[CaseRecord]:
        """Segment cases, in this process or on a cluster, and return their records."""
        options = self.options
        if client is None:
            return run_cases(cases, warm_model, self.settings, self.table, watcher, self.goes_on)
        model, output = options.models[0], options.output
        workers = WorkerSettings(
            str(Path(model).absolute()) if is_path(model) else model,
            self.segmenter.version,
            options.device,
            threads,
            (output if output.is_dir() else output.parent).absolute(),
        )
        run = DaskRun(client, workers, self.settings, self.table, watcher, self.goes_on)
        return run.run(cases)

    def _write_volumes(self, path: Path, existing: Sequence[str], display: ProgressDisplay) -> None:
        """Write the table of volumes, including the known volumes of skipped cases.

        Args:
            path: file of the table.
            existing: names of the cases that were skipped.
            display: display of the shell.
        """
        volumes = self._known_volumes()
        if not volumes:
            display.message(f"{path} was not written: no case was segmented")
            return
        write_volume_table(path, volumes)
        unknown = [name for name in existing if visible(name) not in volumes]
        if unknown:
            display.message(
                f"{path} lacks {len(unknown)} skipped case(s), whose volumes no {TABLE_NAME} has"
                f" ({first_names(unknown)}): segment them again with --overwrite"
            )

    def _notes_on_existing(self, existing: Sequence[str]) -> list[str]:
        """Return messages about skipped cases that were segmented by another model or with other
        settings, or whose image was changed since.

        Args:
            existing: names of the cases that were skipped.
        """
        version, settings = self.segmenter.version, self.settings.recorded
        rows = {name: self.table.row(name) for name in existing}
        done = {name: row for name, row in rows.items() if has_status(row, "done")}
        models = {
            name: f"{row['model']} {row['model_version']}"
            for name, row in done.items()
            if row["model_version"] not in ("", version)
        }
        # Rows of earlier versions do not state the settings.
        others = {
            name: row["settings"]
            for name, row in done.items()
            if row.get("settings", "") not in ("", settings)
        }
        notes = (
            (models, "are results of another model", f"{self.segmenter.name} {version}"),
            (others, "were segmented with other settings", settings),
        )
        messages = [
            f"{len(cases)} skipped case(s) {difference}"
            f" ({first_names(sorted(set(cases.values())))}), such as {next(iter(cases))}: for"
            f" results of {own} alone, give --overwrite in place of --skip-existing, or another"
            " folder"
            for cases, difference, own in notes
            if cases
        ]
        changed = [case.name for case in self.cases if case.name in rows and case.is_outdated]
        if changed:
            messages.append(
                f"{len(changed)} skipped case(s) have an image that is newer than the labelmap"
                f" ({first_names(changed)}): to segment these again, remove their labelmaps"
            )
        return messages

    def _known_volumes(self) -> dict[str, Sequence[StructureVolume]]:
        """Return the volumes by case, from the table of cases and an earlier table of volumes.

        Earlier volumes of cases that have failed since are left out.
        """
        failed = {name for name, row in self.table.rows.items() if row["status"] == "failed"}
        kept = {name: rows for name, rows in self.measured.items() if name not in failed}
        return dict(sorted({**kept, **self.table.volumes()}.items()))

    def _draw_proposals(self, path: Path) -> None:
        from MaskSAMCore.io import read_volume
        from MaskSAMCore.research.proposal_picture import write_proposals

        images = [read_volume(image.path, image.files) for image in self.cases[0].images]
        roi = None if self.settings.roi is None else box_on_grid(self.settings.roi, images[0])
        write_proposals(self.segmenter, images, path, roi)

    def _end(
        self,
        display: ProgressDisplay,
        records: Sequence[CaseRecord],
        existing: int,
    ) -> None:
        """Print the summary of the run, and remove the temporary folders of killed runs.

        Args:
            display: display of the shell.
            records: records of segmented and failed cases, and of images that are not segmented.
            existing: number of cases that were skipped because their outputs existed.
        """
        if self.table.path is None:
            if existing:
                display.message(f"{existing} skipped: the outputs exist")
            return
        output = self.options.output
        flat = all(case.output.parent == output for case in self.cases)
        done = sum(record.status == "done" for record in records)
        if flat and self.shard is None and done == len(self.table.rows) <= _SHOWN_CASES:
            self.table.path.unlink(missing_ok=True)
        else:
            _summarize(display, records, existing, self.table)
        # Killed runs leave temporary folders behind; recent ones may be in use by other runs.
        for folder in {output, *(case.output.parent for case in self.cases)}:
            remove_abandoned(folder, _ABANDONED_SECONDS)


def _check_outside_datasets(outputs: Iterable[Path]) -> None:
    """Check that no output would lie among the cases of an nnU-Net dataset.

    Raises:
        MaskSAMError: an output would lie in ``imagesTr`` or ``labelsTr`` of a dataset.
    """
    for parent in sorted({path.parent.resolve() for path in outputs}):
        for folder in (parent, *parent.parents):
            is_named = folder.name in ("imagesTr", "labelsTr")
            if is_named and (folder.parent / "dataset.json").is_file():
                raise MaskSAMError(
                    f"{folder} has the cases of a dataset, and a result is none of its labels"
                    " before somebody has checked it: name a folder outside"
                )


def _settings(options: PredictOptions, segmenter: Segmenter) -> CaseSettings:
    """Return the settings of all cases."""
    return CaseSettings(
        roi=None if options.roi is None else _only_roi(options.roi),
        boxes=None if options.boxes is None else _boxes(options.boxes, segmenter),
        boxes_overwrite=options.boxes_overwrite,
        mirror=(options.tta or segmenter.tta) == "mirror",
        probabilities=options.probabilities,
        dicom_report=options.dicom_report,
        pictures=options.report is not None,
        overwrite=options.overwrite or options.skip_existing,
    )


def _own_file(path: Path | None, shard: Shard | None) -> Path | None:
    """Return the path of an output of the run; a shard has its own path for it."""
    return path if path is None or shard is None else shard.own_file(path)


class _DisplayWatcher:
    """Watcher that displays the progress of a run.

    Args:
        display: display of the shell.
        goes_on: whether the run goes on after a failed case; otherwise the error ends the command,
            which prints it.
    """

    def __init__(self, display: ProgressDisplay, goes_on: bool) -> None:
        self.display = display
        self.goes_on = goes_on
        self._noted: dict[str, Sequence[str]] = {}

    def started(self, name: str) -> None:
        """Show that a case is being read."""
        self.display.started(name)

    def progress(self, stage: str, fraction: float, seconds_left: float | None) -> None:
        """Show the progress of the case."""
        self.display.progress(stage, fraction, seconds_left)

    def noted(self, name: str, notes: Sequence[str]) -> None:
        """Show notes on a case before it is segmented, so that the user can stop the run."""
        self._noted[name] = notes
        self.display.noted(name, notes)

    def finished(self, record: CaseRecord) -> None:
        """Show the results of a case and its further notes, or the reason for its failure."""
        noted = self._noted.pop(record.case, ())
        if record.status == "failed":
            if self.goes_on:
                self.display.failed(record.case, record.reason)
        else:
            notes = [note for note in record.notes if note not in noted]
            self.display.finished(record.case, results_table(record.volumes), notes)

    def message(self, text: str) -> None:
        """Show a message about the run."""
        self.display.message(text)

    def left_out(self, record: CaseRecord) -> None:
        """Show an image that is not segmented."""
        # For images that belong to no case, the reason already contains their names.
        kind = "Failed" if record.status == "failed" else "Skipped"
        case = "" if record.output is None else f"{record.case}: "
        self.display.message(f"{kind}: {case}{record.reason}")


def _needs_boxes(model: str) -> bool:
    """Return whether a model of the catalog needs boxes, without loading it."""
    from MaskSAMCore.models import catalog

    return any(entry.needs_boxes for entry in catalog() if entry.name == model)


def _check_format(output: Path, image_format: str | None) -> None:
    """Check that an output file has the format of --format, if the option is given.

    Raises:
        MaskSAMError: the file's name ends in another format.
    """
    name = output.name.lower()
    formats = [one for one in OUTPUT_FORMATS if name.endswith(f".{one}")]
    if image_format is not None and image_format != max(formats, key=len, default=""):
        raise MaskSAMError(
            f"--format {image_format} is for results in a folder, but {output} is a file of another"
            " format: leave the option out, or give a folder"
        )


def _check_dicom(cases: Sequence[Case], segmenter: Segmenter, report: bool) -> None:
    """Check that the results of a model can be written as DICOM files, if any are requested.

    Raises:
        MaskSAMError: a report is requested without DICOM segmentations, or DICOM segmentations are
            impossible with the model's classes or with this installation.
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


def _check_boxes(boxes: Iterable[RasBox] | None, segmenter: Segmenter) -> None:
    """Check that boxes are named after classes of a model that has classes.

    Raises:
        MaskSAMError: a box names no class.
    """
    if boxes and segmenter.labels:
        from MaskSAMCore.inference.box_prompts import class_index

        for box in boxes:
            class_index(box.class_name, segmenter.labels)


def _of_shard(found: FoundCases, shard: Shard | None) -> tuple[Sequence[Case], Sequence[LeftOut]]:
    """Return the cases and the left-out images of a shard, or of the whole run without a shard."""
    if shard is None:
        return found.cases, found.left_out
    return shard.of(found.cases), shard.of(found.left_out)


def _kept_labelmaps(failed: Sequence[CaseRecord]) -> str:
    """Return a message about cases that failed and have labelmaps of earlier runs."""
    return (
        f"{len(failed)} case(s) failed and have labelmaps, which are kept"
        f" ({first_names([one.case for one in failed])}): to segment them again, remove these, or"
        " give --overwrite in place of --skip-existing"
    )


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

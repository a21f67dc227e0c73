"""Runs over many cases: a bad case is reported, and the others are segmented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch

from MaskSAMCore import io
from MaskSAMCore.cohort.case import Case
from MaskSAMCore.cohort.case_run import CaseSettings, run_case
from MaskSAMCore.cohort.cases import find_cases
from MaskSAMCore.cohort.record import CaseRecord
from MaskSAMCore.cohort.run import remaining_cases, run_cases
from MaskSAMCore.cohort.table import CaseTable
from MaskSAMCore.cohort.warm_model import WarmModel
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box, RasBox, box_in_space
from MaskSAMCore.inference import DeviceChoice, MaskSegmenter
from MaskSAMCore.io import read_volume, write_labelmap, write_volume
from MaskSAMCore.models import Suitability
from Testing.cohort.bad_files import write_bad_files
from Testing.cohort.helpers import (
    assert_equal_labelmaps,
    labelmaps,
    rows_of,
    write_cases,
)
from Testing.helpers.threshold_model import (
    LABELS,
    one_class,
    threshold_segmenter,
    two_blobs,
    volume_of,
)
from Testing.helpers.time_limits import LONG

NAMES = ("a", "b", "site/a", "site/c", "d")


class RecordedRun:
    """Watcher that records the cases of a run as they start and finish."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.notes: dict[str, Sequence[str]] = {}
        self.records: list[CaseRecord] = []

    def started(self, name: str) -> None:
        self.begun.append(name)

    def noted(self, name: str, notes: Sequence[str]) -> None:
        assert name == self.begun[-1] and name not in self.notes
        self.notes[name] = notes

    def progress(self, stage: str, fraction: float, seconds_left: float | None) -> None:
        assert 0 <= fraction <= 1
        assert self.begun[-1] in self.notes

    def finished(self, record: CaseRecord) -> None:
        self.records.append(record)

    def message(self, text: str) -> None:
        raise AssertionError(text)


class FailingSegmenter:
    """Segmenter that raises an error for one image."""

    def __init__(self, name: str, error: Exception) -> None:
        self._segmenter = threshold_segmenter()
        self._name = name
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._segmenter, name)

    def segment(self, volumes: Sequence[Any], **options: Any) -> Any:
        if volumes[0].name == self._name:
            raise self._error
        return self._segmenter.segment(volumes, **options)


@pytest.fixture(scope="module")
def segmenter() -> MaskSegmenter:
    return threshold_segmenter()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_cases(tmp_path / "in", NAMES)
    return tmp_path / "in"


def cases_of(images: Path, out: Path) -> Sequence[Case]:
    return find_cases([images], out, 1, "nii.gz").cases


def run(
    images: Path,
    out: Path,
    segmenter: Any,
    keep_going: bool = True,
    settings: CaseSettings = CaseSettings(),
) -> RecordedRun:
    """Segment the cases of a folder, and return the watcher of the run."""
    watcher = RecordedRun()
    out.mkdir(exist_ok=True)
    with CaseTable(out / "cases.csv", [label.name for label in LABELS]) as table:
        model = WarmModel(lambda: segmenter)
        run_cases(cases_of(images, out), model, settings, table, watcher, keep_going)
    return watcher


def test_a_picture_is_as_new_as_its_labelmap(
    images: Path, tmp_path: Path, segmenter: MaskSegmenter
):
    run(images, tmp_path / "out", segmenter, settings=CaseSettings(pictures=True))
    for case in cases_of(images, tmp_path / "out"):
        assert case.picture.stat().st_mtime_ns >= case.output.stat().st_mtime_ns


def test_notes_on_a_case_are_received_before_it_is_segmented(images: Path, tmp_path: Path):
    segmenter = threshold_segmenter()
    suitability = Suitability(needs_roi=True)
    segmenter.settings = replace(segmenter.settings, suitability=suitability)
    watcher = run(images, tmp_path / "out", segmenter)
    assert list(watcher.notes) == watcher.begun
    for record in watcher.records:
        (note,) = watcher.notes[record.case]
        assert "needs an ROI" in note and record.notes.count(note) == 1


def test_bad_files_are_told_and_the_others_are_segmented(
    images: Path, tmp_path: Path, segmenter: MaskSegmenter
):
    out = tmp_path / "out"
    bad = write_bad_files(images / "bad")
    watcher = run(images, out, segmenter)
    rows = rows_of(out / "cases.csv")
    assert {name for name, row in rows.items() if row["status"] == "done"} == set(NAMES)
    for name, reason in bad.items():
        assert rows[f"bad/{name}"]["status"] == "failed"
        assert reason in rows[f"bad/{name}"]["reason"]
    assert sorted(labelmaps(out)) == sorted(f"{name}.nii.gz" for name in NAMES)
    assert sorted(watcher.begun) == sorted(rows) == sorted(one.case for one in watcher.records)


def test_a_run_and_single_cases_give_the_same(
    images: Path, tmp_path: Path, segmenter: MaskSegmenter
):
    run(images, tmp_path / "out", segmenter)
    for case in cases_of(images, tmp_path / "single"):
        record = run_case(segmenter, case, CaseSettings())
        assert record.status == "done"
        row = rows_of(tmp_path / "out" / "cases.csv")[case.name]
        assert [f"{one.ml:.6f}" for one in record.volumes] == [
            row["Anterior (ml)"],
            row["Posterior (ml)"],
        ]
    assert_equal_labelmaps(labelmaps(tmp_path / "out"), labelmaps(tmp_path / "single"))


def test_labelmaps_lie_on_the_grids_of_their_images(
    images: Path, tmp_path: Path, segmenter: MaskSegmenter
):
    run(images, tmp_path / "out", segmenter)
    for name in NAMES:
        image, found = (read_volume(f / f"{name}.nii.gz") for f in (images, tmp_path / "out"))
        assert found.same_grid(image)
        np.testing.assert_array_equal(found.array, image.array)


def test_a_case_is_read_and_another_is_written_while_one_is_segmented(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read, segmented = {name: Event() for name in "abd"}, {name: Event() for name in "abd"}

    def reading(path: Path, only: Sequence[Path] = ()) -> Any:
        volume = read_volume(path)
        if path.parent == images:
            read[volume.name].set()
        return volume

    def writing(labelmap: Any, volume: Any, path: Path, *others: Any, **options: Any) -> None:
        if path.parent == tmp_path / "out" and volume.name == "a":
            assert segmented["b"].wait(LONG)
        write_labelmap(labelmap, volume, path, *others, **options)

    class Segmenter(FailingSegmenter):
        def segment(self, volumes: Sequence[Any], **options: Any) -> Any:
            if volumes[0].name == "a" and not segmented["a"].is_set():
                assert read["b"].wait(LONG)
            if volumes[0].name in segmented:
                segmented[volumes[0].name].set()
            return super().segment(volumes, **options)

    monkeypatch.setattr(io, "read_volume", reading)
    monkeypatch.setattr(io, "write_labelmap", writing)
    watcher = run(images, tmp_path / "out", Segmenter("", ValueError()))
    assert {one.status for one in watcher.records} == {"done"}, watcher.records


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MaskSAMError("too few slices"), "too few slices"),
        (MemoryError(), "the memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "the memory ran out"),
        (RuntimeError("index 7\nof 5"), "unexpected RuntimeError: index 7"),
    ],
)
def test_no_error_of_a_case_ends_a_run(error: Exception, reason: str, images: Path, tmp_path: Path):
    watcher = run(images, tmp_path / "out", FailingSegmenter("b", error))
    statuses = {one.case: one.status for one in watcher.records}
    assert statuses == {name: "failed" if name == "b" else "done" for name in NAMES}
    assert reason in rows_of(tmp_path / "out" / "cases.csv")["b"]["reason"]
    assert not (tmp_path / "out" / "b.nii.gz").exists()


class SmallGPU(FailingSegmenter):
    """Segmenter on a GPU whose memory is too small for one image.

    Args:
        name: name of the image.
        moves: whether the segmenter moves to the CPU; otherwise the error is raised.
    """

    def __init__(self, name: str, moves: bool) -> None:
        super().__init__("" if moves else name, torch.cuda.OutOfMemoryError("CUDA out of memory"))
        self._large = name if moves else ""
        self.device = DeviceChoice(torch.device("cuda"), "simulated")

    def segment(self, volumes: Sequence[Any], **options: Any) -> Any:
        result = super().segment(volumes, **options)
        if volumes[0].name == self._large:
            self.device = DeviceChoice(torch.device("cpu"), "cuda ran out of memory")
        return result


@pytest.mark.parametrize("moves", [True, False])
def test_after_a_gpu_ran_out_of_memory_the_model_is_loaded_anew(
    moves: bool, images: Path, tmp_path: Path
):
    loaded: list[SmallGPU] = []

    def load() -> Any:
        if len(loaded) == 1 and moves and not failures:
            failures.append(1)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        loaded.append(SmallGPU("b", moves))
        return loaded[-1]

    failures: list[int] = []
    watcher = RecordedRun()
    with CaseTable(None, ()) as table:
        model = WarmModel(load)
        cases = cases_of(images, tmp_path / "out")
        run_cases(cases, model, CaseSettings(), table, watcher, keep_going=True)
    statuses = {one.case: one.status for one in watcher.records}
    assert statuses == {name: "done" if moves or name != "b" else "failed" for name in NAMES}
    assert len(loaded) == 2
    assert model.segmenter is loaded[1]
    assert len(failures) == moves


def test_without_keep_going_the_first_error_ends_the_run(images: Path, tmp_path: Path):
    with pytest.raises(MaskSAMError, match="too few slices"):
        run(images, tmp_path / "out", FailingSegmenter("b", MaskSAMError("too few slices")), False)
    rows = rows_of(tmp_path / "out" / "cases.csv")
    assert {name: row["status"] for name, row in rows.items()} == {"a": "done", "b": "failed"}


def test_an_output_that_cannot_be_written_is_told(
    images: Path, tmp_path: Path, segmenter: MaskSegmenter
):
    (tmp_path / "out" / "b.nii.gz").mkdir(parents=True)
    watcher = run(images, tmp_path / "out", segmenter)
    failed = {one.case: one.reason for one in watcher.records if one.status == "failed"}
    assert list(failed) == ["b"]
    assert "b.nii.gz" in failed["b"]


def test_an_roi_and_boxes_are_placed_on_each_grid(
    images: Path, tmp_path: Path, segmenter: MaskSegmenter
):
    (case, *_) = cases_of(images, tmp_path / "out")
    volume = read_volume(case.paths[0])
    centre = (volume.ijk_to_ras @ [11, 8, 5, 1])[:3]
    roi = RasBox("", tuple(centre), volume.directions, (4.0, 4.0, 4.0))
    record = run_case(segmenter, case, CaseSettings(roi=roi))
    assert record.status == "done", record.reason
    inside = np.argwhere(read_volume(case.output).array > 0)
    assert len(inside)
    assert (np.abs(inside[:, ::-1] - [11, 8, 5]) <= 2).all()


def test_classes_with_boxes_take_voxels_from_others_only_where_that_is_wanted(
    tmp_path: Path, segmenter: MaskSegmenter
):
    (tmp_path / "in").mkdir()
    unsure = np.where(two_blobs() == 2, np.float32(1.6), two_blobs())
    write_volume(volume_of(unsure), tmp_path / "in" / "a.nii.gz")
    (case, *_) = cases_of(tmp_path / "in", tmp_path / "out")
    volume = read_volume(case.paths[0])
    boxes = [Box("Anterior", (0, 0, 0), (23, 17, 11))]
    found = []
    for wanted in (False, True):
        settings = CaseSettings(
            boxes=tuple(box_in_space(box, volume) for box in boxes),
            boxes_overwrite=wanted,
            overwrite=True,
        )
        assert run_case(segmenter, case, settings).status == "done"
        found.append(read_volume(case.output).array)
        expected = segmenter.segment(volume, boxes=boxes, overwrite=wanted)
        np.testing.assert_array_equal(found[-1], expected.labelmap)
    assert not np.array_equal(*found)


def test_doubts_in_the_files_of_a_case_are_noted(
    images: Path, tmp_path: Path, segmenter: MaskSegmenter
):
    (case, *_) = cases_of(images, tmp_path / "out")
    record = run_case(segmenter, replace(case, notes=("it may lack slices",)), CaseSettings())
    assert record.notes == ("it may lack slices",)


def test_a_result_in_which_nothing_was_found_is_noted(tmp_path: Path, segmenter: MaskSegmenter):
    write_cases(tmp_path / "in", ["usual"])
    write_volume(volume_of(one_class()), tmp_path / "in" / "empty.nii.gz")
    notes = run(tmp_path / "in", tmp_path / "out", segmenter).records
    assert {one.case: bool(one.notes) for one in notes} == {"empty": True, "usual": False}
    assert rows_of(tmp_path / "out" / "cases.csv")["empty"]["notes"].startswith(
        "No class was found"
    )


def test_what_an_earlier_run_did_not_survive_comes_last(images: Path, tmp_path: Path):
    out = tmp_path / "out"
    cases = cases_of(images, out)
    write_cases(out, NAMES[:3])
    with CaseTable(out / "cases.csv", ()) as table:
        table.add(CaseRecord("a", "done"))
        table.add(CaseRecord("b", "started"))
    with CaseTable(out / "cases.csv", ()) as table:
        remaining, _ = remaining_cases(cases, CaseSettings(), table, skip_existing=True)
    assert [case.name for case in remaining] == ["d", "site/c", "b"]
    rows = rows_of(out / "cases.csv")
    assert rows["a"]["status"] == "done"
    assert (rows["site/a"]["status"], rows["site/a"]["reason"]) == ("skipped", "its outputs exist")


def test_a_labelmap_without_its_probabilities_is_not_replaced(images: Path, tmp_path: Path):
    out = tmp_path / "out"
    write_cases(out, NAMES)
    cases = cases_of(images, out)
    cases[0].probabilities.write_bytes(b"")
    settings = replace(CaseSettings(), probabilities=True)
    table = CaseTable(None, ())
    with pytest.raises(MaskSAMError, match=r"4 case.*_probabilities\.nrrd.*--overwrite"):
        remaining_cases(cases, settings, table, skip_existing=True)
    assert not table.rows
    assert remaining_cases(cases, settings, table, skip_existing=False) == (list(cases), [])


def test_a_case_that_failed_is_segmented_again_unless_it_has_a_labelmap(
    images: Path, tmp_path: Path
):
    out = tmp_path / "out"
    write_cases(out, NAMES[:2])
    with CaseTable(out / "cases.csv", ()) as earlier:
        for name in ("a", "d"):
            earlier.add(CaseRecord(name, "failed", "damaged"))
    table = CaseTable(out / "cases.csv", ())
    cases = cases_of(images, out)
    remaining, failed = remaining_cases(cases, CaseSettings(), table, skip_existing=True)
    assert [case.name for case in remaining] == ["d", "site/a", "site/c"]
    assert [(record.case, record.status, record.reason) for record in failed] == [
        ("a", "failed", "damaged")
    ]
    assert {name: row["status"] for name, row in table.rows.items()} == {
        "a": "failed",
        "b": "skipped",
        "d": "failed",
    }

"""``masksam predict`` over folders: killed and resumed, in shards, with bad files among them."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from MaskSAMCore.cli import main
from MaskSAMCore.cohort.threads import cores
from MaskSAMCore.geometry import RasBox
from MaskSAMCore.io import write_boxes
from Testing.cli.helpers import error_of, without_reader, without_space
from Testing.cohort.bad_files import write_bad_files
from Testing.cohort.helpers import (
    assert_equal_labelmaps,
    labelmaps,
    rows_of,
    write_cases,
)
from Testing.helpers.paths import ROOT
from Testing.helpers.small_bundle import small_bundle
from Testing.helpers.time_limits import LONG

NAMES = tuple(f"site{n % 2}/case_{n}" for n in range(8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_cases(tmp_path / "in", NAMES)
    return tmp_path


def predict(folder: Path, model: str, *more: str, out: str = "out") -> int:
    return main(["predict", str(folder / "in"), "-o", str(folder / out), "-m", model, *more])


def finished(table: Path) -> int:
    """Return the number of cases that a run has finished so far."""
    return table.read_text().count(",done,") if table.exists() else 0


def test_a_killed_run_leaves_complete_outputs_and_is_resumed(folder: Path, model: str):
    assert predict(folder, model, "--volumes", str(folder / "whole.csv"), out="whole") == 0
    out, table = folder / "out", folder / "out" / "cases.csv"
    arguments = ["predict", str(folder / "in"), "-o", str(out), "-m", model]
    process = subprocess.Popen(
        [sys.executable, "-m", "MaskSAMCore.cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    limit = time.monotonic() + LONG
    while finished(table) < 2 and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = finished(table)
    written = {path: path.stat().st_mtime_ns for path in out.glob("site*/*.nii.gz")}
    assert before >= 2
    assert len(labelmaps(out)) == len(written) >= before
    volumes = folder / "volumes.csv"
    # Only old temporary folders are removed; another process may be writing to younger ones.
    for path in (*out.rglob(".masksam-*"), *out.rglob(".masksam-*/*")):
        os.utime(path, (0, 0))
    assert predict(folder, model, "--skip-existing", "--volumes", str(volumes)) == 0
    rows = rows_of(table)
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(NAMES, "done")
    kept = sum(path.stat().st_mtime_ns == modified for path, modified in written.items())
    assert kept >= before
    assert_equal_labelmaps(labelmaps(folder / "whole"), labelmaps(out))
    assert not list(out.rglob(".masksam-*"))
    tables = [list(csv.reader(p.open(newline=""))) for p in (volumes, folder / "whole.csv")]
    assert sorted(tables[0]) == sorted(tables[1])


def test_sigterm_stops_a_run_as_ctrl_c_does(folder: Path, model: str):
    out, temporary = folder / "out", folder / "temporary"
    temporary.mkdir()
    # With so many cases, the run does not end before the signal arrives.
    write_cases(folder / "in", [f"more/{number}" for number in range(100)])
    arguments = ["predict", str(folder / "in"), "-o", str(out), "-m", model]
    arguments += ["--volumes", str(folder / "volumes.csv")]
    process = subprocess.Popen(
        [sys.executable, "-m", "MaskSAMCore.cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = time.monotonic() + LONG
    while not finished(out / "cases.csv") and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    process.terminate()
    _, printed = process.communicate(timeout=LONG)
    assert process.returncode == 130
    assert printed.splitlines()[-1] == "masksam: error: stopped; nothing was half-written"
    assert not list(temporary.iterdir()) and not list(out.rglob(".masksam-*"))
    # A table of some cases would look like a table of all cases.
    assert not (folder / "volumes.csv").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break in another way there")
def test_a_run_goes_on_when_the_reader_of_its_tables_has_ended(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    write_cases(tmp_path / "in", ["a", "b"])
    with without_reader("stdout"):
        assert predict(tmp_path, model) == 0
    assert sorted(labelmaps(tmp_path / "out")) == ["a.nii.gz", "b.nii.gz"]
    printed = capfd.readouterr().err
    assert printed.count("the run goes on without") == 1
    assert "2 of 2 cases" in printed


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break in another way there")
def test_a_run_goes_on_when_the_reader_of_its_messages_has_ended(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """As in ``masksam predict ... 2>&1 | head``."""
    write_cases(tmp_path / "in", ["a", "b"])
    with without_reader("stderr"):
        assert predict(tmp_path, model) == 0
    assert sorted(labelmaps(tmp_path / "out")) == ["a.nii.gz", "b.nii.gz"]
    assert "Bright" in capfd.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_run_goes_on_when_the_disk_of_its_log_is_full(name: str, model: str, tmp_path: Path):
    """As in ``masksam predict ... > log.txt``, with results on another disk."""
    write_cases(tmp_path / "in", ["a", "b"])
    with without_space(name):
        assert predict(tmp_path, model) == 0
    assert sorted(labelmaps(tmp_path / "out")) == ["a.nii.gz", "b.nii.gz"]


def test_files_that_another_process_is_writing_stay(folder: Path, model: str):
    written, abandoned = (folder / "out" / f".masksam-{name}" for name in ("written", "old"))
    for path in (written, abandoned):
        path.mkdir(parents=True)
        (path / "part.nii.gz").touch()
    # The other process began before this run and may be waiting for a disk.
    for path, seconds in ((written, 60), (abandoned, 3600)):
        for one in (path / "part.nii.gz", path):
            os.utime(one, (time.time() - seconds,) * 2)
    assert predict(folder, model) == 0
    assert (written / "part.nii.gz").exists() and not abandoned.exists()


def test_shards_are_the_whole_and_become_one_table(folder: Path, model: str):
    assert predict(folder, model, out="whole") == 0
    for number in (1, 2, 3):
        assert predict(folder, model, "--shard", f"{number}/3") == 0
        assert len(labelmaps(folder / "out")) == (3, 6, 8)[number - 1]
    assert_equal_labelmaps(labelmaps(folder / "whole"), labelmaps(folder / "out"))
    assert not (folder / "out" / "cases.csv").exists()
    assert predict(folder, model, "--skip-existing") == 0
    whole, parts = (rows_of(folder / name / "cases.csv") for name in ("whole", "out"))
    for name in NAMES:
        for column in ("status", "Bright (ml)", "Dark (confidence)", "model_version"):
            assert parts[name][column] == whole[name][column]


def test_bad_files_give_status_3_and_a_summary(
    folder: Path, model: str, capfd: pytest.CaptureFixture[str]
):
    bad = write_bad_files(folder / "in" / "bad")
    assert predict(folder, model) == 3
    printed = capfd.readouterr().err
    assert f"8 done, 0 skipped, 10 failed: see {folder / 'out' / 'cases.csv'}" in printed
    assert "bad/empty_0: " in printed
    assert "18 of 18 cases" in printed
    assert not (folder / "out" / "bad").exists()
    assert predict(folder, model, "--skip-existing") == 3
    assert "0 done, 8 skipped, 10 failed" in capfd.readouterr().err
    shutil.rmtree(folder / "in" / "bad")
    write_cases(folder / "in" / "bad", list(bad))
    assert predict(folder, model, "--skip-existing") == 0
    assert "10 done, 8 skipped, 0 failed" in capfd.readouterr().err
    rows = rows_of(folder / "out" / "cases.csv")
    assert {row["status"] for row in rows.values()} == {"done"}


def test_a_second_run_needs_a_decision_about_existing_outputs(
    folder: Path, model: str, capfd: pytest.CaptureFixture[str]
):
    write_cases(folder / "out", NAMES[:1])
    arguments = ["predict", str(folder / "in"), "-o", str(folder / "out"), "-m", model]
    error = error_of(capfd, arguments)
    assert "add --skip-existing to continue the run, or --overwrite to start anew" in error
    assert "exclude each other" in error_of(capfd, [*arguments, "--overwrite", "--skip-existing"])
    assert "is no shard" in error_of(capfd, [*arguments, "--shard", "3/2"])


def test_a_continued_run_keeps_labelmaps_that_it_would_have_to_replace(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    write_cases(tmp_path / "in", ["a", "b", "c", "d"])
    assert predict(tmp_path, model) == 0
    out = tmp_path / "out"
    corrected = out / "a.nii.gz"
    shutil.copy(out / "b.nii.gz", corrected)
    content = corrected.read_bytes()
    arguments = ["predict", str(tmp_path / "in"), "-o", str(out), "-m", model, "--skip-existing"]
    capfd.readouterr()
    assert "--overwrite" in error_of(capfd, [*arguments, "--probabilities"])
    (tmp_path / "in" / "a.nii.gz").write_bytes(b"")
    assert predict(tmp_path, model, "--overwrite") == 3
    shutil.copy(tmp_path / "in" / "b.nii.gz", tmp_path / "in" / "a.nii.gz")
    assert main(arguments) == 3
    printed = capfd.readouterr().err
    assert "0 done, 3 skipped, 1 failed" in printed
    assert "1 case(s) failed and have labelmaps, which are kept (a)" in printed
    assert "empty file" in rows_of(out / "cases.csv")["a"]["reason"]
    assert f"Failed: a: {rows_of(out / 'cases.csv')['a']['reason']}" in printed
    assert corrected.read_bytes() == content
    # A labelmap written after the failure counts as the result of the case.
    later = (out / "cases.csv").stat().st_mtime + 2
    os.utime(corrected, (later, later))
    for _ in range(2):
        assert main(arguments) == 0
        assert "0 done, 4 skipped, 0 failed" in capfd.readouterr().err
    assert corrected.read_bytes() == content
    corrected.unlink()
    assert main(arguments) == 0
    assert "1 done, 3 skipped, 0 failed" in capfd.readouterr().err


def test_a_folder_of_results_may_have_the_name_of_the_model(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MASKSAM_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert main(["models", "add", model]) == 0
    write_cases(tmp_path / "in", ["a"])
    arguments = ["predict", "in", "-o", "small", "-m", "small"]
    assert main(arguments) == 0
    write_cases(tmp_path / "in", ["b"])
    assert main([*arguments, "--skip-existing"]) == 0
    assert main([*arguments, "--overwrite"]) == 0
    assert sorted(labelmaps(tmp_path / "small")) == ["a.nii.gz", "b.nii.gz"]


def test_a_table_of_others_is_not_replaced(
    folder: Path, model: str, capfd: pytest.CaptureFixture[str]
):
    (folder / "out").mkdir()
    (folder / "out" / "cases.csv").write_text("precious")
    arguments = ["predict", str(folder / "in"), "-o", str(folder / "out"), "-m", model]
    assert "no table of cases" in error_of(capfd, [*arguments, "--overwrite"])
    assert (folder / "out" / "cases.csv").read_text() == "precious"
    assert [path.name for path in (folder / "out").iterdir()] == ["cases.csv"]


def test_images_that_were_named_need_no_table(
    folder: Path, model: str, capfd: pytest.CaptureFixture[str]
):
    images = [str(folder / "in" / f"{name}.nii.gz") for name in NAMES[:2]]
    (folder / "bad.nii.gz").write_bytes(b"")
    options = ["-o", str(folder / "out"), "-m", model]
    assert "empty file" in error_of(
        capfd, ["predict", str(folder / "bad.nii.gz"), *images, *options]
    )
    assert not (folder / "out").exists()
    assert main(["predict", *images, *options]) == 0
    assert sorted(labelmaps(folder / "out")) == ["case_0.nii.gz", "case_1.nii.gz"]
    assert not (folder / "out" / "cases.csv").exists()
    more = [str(folder / "bad.nii.gz"), "--keep-going", "--skip-existing"]
    assert main(["predict", *images, *more, *options]) == 3
    assert [row["status"] for row in rows_of(folder / "out" / "cases.csv").values()] == [
        "failed",
        "skipped",
        "skipped",
    ]


def test_skipped_cases_of_which_no_table_has_the_volumes_are_named(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    write_cases(tmp_path / "in", ["a", "b"])
    assert predict(tmp_path, model) == 0
    assert not (tmp_path / "out" / "cases.csv").exists()  # so few cases get no table
    write_cases(tmp_path / "in", ["c"])
    capfd.readouterr()
    volumes = tmp_path / "volumes.csv"
    assert predict(tmp_path, model, "--skip-existing", "--volumes", str(volumes)) == 0
    printed = "".join(capfd.readouterr())
    assert "lacks 2 skipped case(s), whose volumes no cases.csv has (a, b)" in printed
    with volumes.open(newline="", encoding="utf-8-sig") as stream:
        assert {row["case"] for row in csv.DictReader(stream)} == {"c"}
    again = tmp_path / "again.csv"
    assert predict(tmp_path, model, "--overwrite", "--volumes", str(again)) == 0
    assert "lacks" not in "".join(capfd.readouterr())


def test_a_continued_run_tells_of_cases_that_another_model_has_segmented(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    write_cases(tmp_path / "in", ["a", "b", "c", "d"])
    assert predict(tmp_path, model) == 0
    other = str(small_bundle(tmp_path / "other", "other", seed=5))
    capfd.readouterr()
    assert predict(tmp_path, model, "--skip-existing") == 0
    assert "another model" not in capfd.readouterr().err
    assert predict(tmp_path, other, "--skip-existing") == 0
    printed = capfd.readouterr().err
    assert "4 skipped case(s) are results of another model (small " in printed
    assert "such as a: for results of other " in printed


def test_a_continued_run_tells_of_images_that_are_newer_than_their_labelmaps(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    write_cases(tmp_path / "in", ["a", "b", "c", "d"])
    assert predict(tmp_path, model) == 0
    capfd.readouterr()
    assert predict(tmp_path, model, "--skip-existing") == 0
    assert "newer" not in capfd.readouterr().err
    later = (tmp_path / "out" / "b.nii.gz").stat().st_mtime + 60
    (image,) = (tmp_path / "in").glob("b.*")
    os.utime(image, (later, later))
    assert predict(tmp_path, model, "--skip-existing") == 0
    assert (
        "1 skipped case(s) have an image that is newer than the labelmap (b): to segment these"
        " again, remove their labelmaps"
    ) in capfd.readouterr().err


def test_a_continued_run_tells_of_cases_that_were_segmented_with_other_settings(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    write_cases(tmp_path / "in", ["a", "b", "c", "d"])
    places = {"roi": (0.0, 0.0, 0.0), "renamed": (0.0, 0.0, 0.0), "moved": (1.0, 0.0, 0.0)}
    rois = {name: tmp_path / f"{name}.mrk.json" for name in places}
    for name, center in places.items():
        write_boxes([RasBox(name, center, np.eye(3), (400.0, 400.0, 400.0))], rois[name])
    assert predict(tmp_path, model, "--roi", str(rois["roi"])) == 0
    (of_roi,) = {row["settings"] for row in rows_of(tmp_path / "out" / "cases.csv").values()}
    capfd.readouterr()
    for name in ("roi", "renamed"):
        assert predict(tmp_path, model, "--skip-existing", "--roi", str(rois[name])) == 0
        assert "other settings" not in capfd.readouterr().err
    assert predict(tmp_path, model, "--skip-existing", "--tta", "mirror") == 0
    assert (
        f"4 skipped case(s) were segmented with other settings ({of_roi}), such as a: for results"
        " of tta mirror alone, give --overwrite"
    ) in capfd.readouterr().err
    assert predict(tmp_path, model, "--skip-existing", "--roi", str(rois["moved"])) == 0
    assert f"settings ({of_roi})" in capfd.readouterr().err


def test_a_table_of_an_earlier_version_does_not_state_the_settings(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    write_cases(tmp_path / "in", ["a", "b", "c", "d"])
    assert predict(tmp_path, model) == 0
    table = tmp_path / "out" / "cases.csv"
    text = table.read_text()
    table.write_text(text.replace(",settings,", ",").replace(",tta none,", ","))
    assert "tta" not in table.read_text()
    capfd.readouterr()
    assert predict(tmp_path, model, "--skip-existing", "--tta", "mirror") == 0
    printed = capfd.readouterr().err
    assert "4 skipped" in printed and "other settings" not in printed


def test_a_continued_run_replaces_only_files_that_it_wrote(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    write_cases(tmp_path / "in", ["a", "b"])
    volumes, report = tmp_path / "volumes.csv", tmp_path / "report.html"
    options = ["--volumes", str(volumes), "--report", str(report)]
    assert predict(tmp_path, model, *options) == 0
    before = volumes.read_text()
    write_cases(tmp_path / "in", ["c"])
    assert predict(tmp_path, model, "--skip-existing", *options) == 0
    # A report of an earlier version, which has no mark, is replaced, too.
    mark = '<meta name="generator" content="MaskSAM report">'
    assert report.read_text("utf-8").count(mark) == 1
    report.write_text(report.read_text("utf-8").replace(mark, ""), "utf-8")
    assert predict(tmp_path, model, "--skip-existing", *options) == 0
    assert mark in report.read_text("utf-8")
    # No cases.csv has the volumes of the first two cases, so their old rows are kept.
    assert volumes.read_text().startswith(before)
    assert {line.split(",")[0] for line in volumes.read_text().splitlines()} == {"case", *"abc"}
    capfd.readouterr()
    for path in (volumes, report):
        content = path.read_bytes()
        path.write_text("precious")
        arguments = ["predict", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", model]
        assert "name another file" in error_of(capfd, [*arguments, "--skip-existing", *options])
        assert path.read_text() == "precious"
        path.write_bytes(content)


def test_the_picture_of_proposals_is_kept_where_the_segmentation_is(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    write_cases(tmp_path / "in", ["a"])
    picture = tmp_path / "proposals.png"
    picture.write_bytes(b"precious")
    assert predict(tmp_path, model, "--skip-existing", "--proposals", str(picture)) == 0
    assert picture.read_bytes() == b"precious"
    assert f"{picture} exists and was kept" in capfd.readouterr().err


def test_a_bids_dataset_becomes_derivatives(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    names = [f"sub-{n}/ses-1/anat/sub-{n}_ses-1_T1w" for n in (1, 2)]
    write_cases(tmp_path / "in", [*names, "sub-1/ses-1/anat/sub-1_ses-1_T2w"])
    (tmp_path / "in" / "dataset_description.json").write_text('{"Name": "raw"}')
    assert predict(tmp_path, model, out="in/derivatives/masksam") == 0
    out = tmp_path / "in" / "derivatives" / "masksam"
    assert sorted(labelmaps(out)) == [
        f"sub-{n}/ses-1/anat/sub-{n}_ses-1_space-orig_desc-T1w_dseg.nii.gz" for n in (1, 2)
    ]
    assert {"cases.csv", "dataset_description.json", "dseg.tsv"} < {p.name for p in out.iterdir()}
    table = (out / "dseg.tsv").read_text()
    other = str(small_bundle(tmp_path / "other", class_names=("Bright", "Grey")))
    error = error_of(
        capfd, ["predict", str(tmp_path / "in"), "-o", str(out), "-m", other, "--skip-existing"]
    )
    assert "other classes" in error
    assert (out / "dseg.tsv").read_text() == table


@pytest.mark.parametrize("wanted", [2, 3_000_000_000])
def test_the_number_of_threads_is_that_of_the_option_but_at_most_all_cores(
    wanted: int, folder: Path, model: str
):
    before = torch.get_num_threads()
    try:
        image = folder / "in" / f"{NAMES[0]}.nii.gz"
        arguments = ["predict", str(image), "-o", str(folder / "o.nii.gz"), "-m", model]
        assert main([*arguments, "--threads", str(wanted)]) == 0
        assert torch.get_num_threads() == min(wanted, cores())
    finally:
        torch.set_num_threads(before)


def test_a_report_of_shards_shows_all_cases_with_pictures(
    folder: Path, model: str, capfd: pytest.CaptureFixture[str]
):
    bad = write_bad_files(folder / "in" / "bad")
    out = folder / "out"
    options = ["--report", str(out / "part.html")]
    for number in (1, 2):
        predict(folder, model, "--shard", f"{number}/2", *options)
    assert {path.name for path in out.glob("*.html")} == {
        "part-1-of-2.html",
        "part-2-of-2.html",
    }
    assert main(["report", str(out)]) == 0
    text = (out / "report.html").read_text("utf-8")
    assert text.count('<li id="case-') == len(NAMES) + len(bad)
    assert text.count("data:image/webp;base64,") == len(NAMES)
    assert text.index("is an empty file") < text.index("site0/case_0")
    assert "add --overwrite" in error_of(capfd, ["report", str(out)])


def test_a_shard_without_a_case_has_nothing_to_write(model: str, tmp_path: Path):
    write_cases(tmp_path / "in", ["a"])
    options = ["--report", str(tmp_path / "r.html"), "--volumes", str(tmp_path / "v.csv")]
    options += ["--proposals", str(tmp_path / "p.png")]
    assert predict(tmp_path, model, "--shard", "2/2", *options) == 0
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.nii.gz"]


def test_a_finished_run_gets_its_report_later(
    folder: Path, model: str, capfd: pytest.CaptureFixture[str]
):
    assert predict(folder, model) == 0
    assert not list(folder.rglob("*.webp"))
    report = folder / "elsewhere" / "report.html"
    assert predict(folder, model, "--skip-existing", "--report", str(report)) == 0
    text = report.read_text("utf-8")
    assert text.count("data:image/webp;base64,") == len(NAMES)
    assert 'href="../out/site0/case_0.nii.gz"' in text.replace("./../", "../")
    empty = folder / "empty"
    empty.mkdir()
    assert "holds no cases.csv" in error_of(capfd, ["report", str(empty)])


def test_a_run_without_a_table_is_told_how_to_get_its_report(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    write_cases(tmp_path / "in", ["a"])
    out = tmp_path / "out"
    assert predict(tmp_path, model) == 0
    capfd.readouterr()
    error = error_of(capfd, ["report", str(out)])
    assert "holds no cases.csv" in error and "segment with --report" in error
    page = out / "report.html"
    assert predict(tmp_path, model, "--overwrite", "--report", str(page)) == 0 and page.is_file()

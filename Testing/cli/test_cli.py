"""The shell command, run as a person would: outputs complete or absent, errors in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MaskSAMCore.cli import main
from MaskSAMCore.cli.cases import find_cases
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import RasBox, box_on_grid
from MaskSAMCore.inference import Segmenter
from MaskSAMCore.io import read_boxes, read_volume, write_boxes
from MaskSAMCore.models import find
from Testing.helpers.generated import generated_case, write_image
from Testing.helpers.paths import ROOT
from Testing.helpers.small_bundle import small_bundle


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_bundle(tmp_path_factory.mktemp("models") / "small"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "bräin.nii.gz"
    write_image(generated_case(0)[0], path)
    return path


def error_of(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Runs a command that must fail, and gives its error."""
    assert main(arguments) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("masksam:")]
    assert len(lines) == 1
    assert lines[0].startswith("masksam: error: ")
    return lines[0]


def test_one_image_becomes_one_segmentation_on_its_own_grid(
    image: Path, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    target = tmp_path / "out" / "result.seg.nrrd"
    assert main(["predict", str(image), "-o", str(target), "-m", model]) == 0
    assert "volume (ml)" in capfd.readouterr().out
    found, given = sitk.ReadImage(str(target)), sitk.ReadImage(str(image))
    assert found.GetSize() == given.GetSize()
    assert found.GetOrigin() == pytest.approx(given.GetOrigin())
    assert found.GetDirection() == pytest.approx(given.GetDirection())
    assert found.GetMetaData("Segment0_Name") == "Bright"
    assert [p.name for p in target.parent.iterdir()] == ["result.seg.nrrd"]


def test_a_folder_of_cases_becomes_a_folder_of_labelmaps(model: str, tmp_path: Path):
    for name in ("a", "b"):
        write_image(generated_case(0)[0], tmp_path / "in" / f"{name}_0000.nii.gz")
    out = tmp_path / "out"
    arguments = ["predict", str(tmp_path / "in"), "-o", str(out), "-m", model, "--format", "mha"]
    assert main(arguments) == 0
    assert sorted(p.name for p in out.iterdir()) == ["a.mha", "b.mha"]


def test_channels_of_a_case_are_found_by_their_numbers(tmp_path: Path):
    two = str(small_bundle(tmp_path / "two", channels=2))
    for channel in range(2):
        write_image(generated_case(0)[0], tmp_path / "in" / f"a_{channel:04d}.nii.gz")
    assert main(["predict", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", two]) == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.nii.gz"]
    (tmp_path / "in/a_0001.nii.gz").unlink()
    with pytest.raises(MaskSAMError, match="'a' has 1 image"):
        find_cases([tmp_path / "in"], tmp_path / "out", 2, "mha")


def test_an_output_that_exists_is_kept_unless_told(
    image: Path, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    target = tmp_path / "result.nii.gz"
    target.write_bytes(b"precious")
    arguments = ["predict", str(image), "-o", str(target), "-m", model]
    assert "--overwrite" in error_of(capfd, arguments)
    assert target.read_bytes() == b"precious"
    assert main([*arguments, "--overwrite"]) == 0
    assert read_volume(target).shape == (14, 26, 30)


def test_nothing_is_found_outside_the_roi(image: Path, model: str, tmp_path: Path):
    volume = read_volume(image)
    centre = (volume.ijk_to_ras @ np.array([14.5, 12.5, 6.5, 1]))[:3]
    roi = tmp_path / "roi.mrk.json"
    write_boxes([RasBox("ROI", tuple(centre), np.eye(3), (20.0, 18.0, 16.0))], roi)
    target = tmp_path / "result.nii.gz"
    arguments = ["predict", str(image), "-o", str(target), "-m", model, "--roi", str(roi)]
    assert main(arguments) == 0
    found = np.argwhere(read_volume(target).array > 0)
    assert len(found)
    assert (np.abs(found[:, ::-1] - [14.5, 12.5, 6.5]) <= [10, 9, 4]).all()


def test_a_box_bounds_its_class(image: Path, model: str, tmp_path: Path):
    volume = read_volume(image)
    centre = (volume.ijk_to_ras @ np.array([9.5, 7.5, 6.5, 1]))[:3]
    boxes = tmp_path / "boxes.mrk.json"
    write_boxes([RasBox("Bright", tuple(centre), np.eye(3), (10.0, 8.0, 12.0))], boxes)
    target = tmp_path / "result.nii.gz"
    arguments = ["predict", str(image), "-o", str(target), "-m", model, "--boxes", str(boxes)]
    assert main(arguments) == 0
    found = np.argwhere(read_volume(target).array == 1)
    assert (np.abs(found[:, ::-1] - [9.5, 7.5, 6.5]) <= [5, 4, 3]).all()


def test_boxes_leave_other_classes_alone_unless_they_may_overwrite(
    image: Path, model: str, tmp_path: Path
):
    volume = read_volume(image)
    shape = np.array(volume.shape[::-1])
    centre = (volume.ijk_to_ras @ [*(shape / 2 - 0.5), 1])[:3]
    boxes, target = tmp_path / "boxes.mrk.json", tmp_path / "result.nii.gz"
    write_boxes([RasBox("Bright", tuple(centre), np.eye(3), tuple(shape * volume.spacing))], boxes)
    found = {}
    for name, more in (
        ("automatic", []),
        ("kept", ["--boxes", str(boxes)]),
        ("overwritten", ["--boxes", str(boxes), "--boxes-overwrite"]),
    ):
        arguments = ["predict", str(image), "-o", str(target), "-m", model, "--overwrite", *more]
        assert main(arguments) == 0
        found[name] = read_volume(target).array
    np.testing.assert_array_equal(found["kept"] == 2, found["automatic"] == 2)
    box = box_on_grid(read_boxes(boxes)[0], volume)
    expected = Segmenter.from_model(model).segment(volume, boxes=[box], overwrite=True)
    np.testing.assert_array_equal(found["overwritten"], expected.labelmap)


def test_probabilities_come_as_one_image_that_sums_to_one(image: Path, model: str, tmp_path: Path):
    target = tmp_path / "result.nii.gz"
    arguments = ["predict", str(image), "-o", str(target), "-m", model, "--probabilities"]
    assert main(arguments) == 0
    shares = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "result_probabilities.nrrd")))
    assert shares.shape == (14, 26, 30, 3)
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-3)
    labels = read_volume(target).array
    assert (shares.argmax(-1) == labels).mean() > 0.99


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.write_bytes(b"not an image"), "cannot be read as an image"),
        (lambda p: p.write_bytes(b""), "empty file"),
        (lambda p: write_image(np.zeros((3, 20, 20, 3), np.float32)[..., 0][:1], p), None),
    ],
)
def test_bad_input_is_told_in_one_line_and_leaves_nothing(
    prepare, message: str | None, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    path = tmp_path / "in.nii.gz"
    prepare(path)
    target = tmp_path / "result.nii.gz"
    arguments = ["predict", str(path), "-o", str(target), "-m", model]
    if message is None:  # a single slice is a volume too
        assert main(arguments) == 0
        assert read_volume(target).shape == (1, 20, 20)
    else:
        assert message in error_of(capfd, arguments)
        assert not target.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "IMAGE", "-o", "FILE/result.nii.gz", "-m", "MODEL"], "FILE"),
        (["predict", "IMAGE", "-o", "FILE/results", "-m", "MODEL"], "FILE"),
        (["predict", "IMAGE", "-o", f"{'long' * 99}/a.mha", "-m", "MODEL"], "longlong"),
        (["predict", "IMAGE", "-o", "LOCKED/result.nii.gz", "-m", "MODEL"], "LOCKED"),
        (["predict", "IMAGE", "-o", "LOCKED/results", "-m", "MODEL"], "LOCKED"),
        (["predict", "IMAGE", "-o", "name.png", "-m", "MODEL"], "not written as '.png'"),
        (["predict", "IMAGE", "-o", "name.mhd", "-m", "MODEL"], "not written as '.mhd'"),
        (["predict", "IMAGE", "IMAGE", "-o", "out", "-m", "MODEL"], "two cases are named 'bräin'"),
        (["evaluate", "IMAGE", "IMAGE", "-o", "FILE/summary.json"], "FILE"),
        (["demo", "-o", "FILE/results"], "FILE"),
        (["demo", "-o", "LOCKED/results"], "LOCKED"),
        (["benchmark", "-m", "MODEL", "--shape", "90000x90000x90000"], "the memory ran out"),
    ],
)
def test_an_ordinary_mistake_is_told_in_one_line_and_leaves_nothing(
    arguments: list[str],
    message: str,
    image: Path,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_bytes(b"in the way")
    (tmp_path / "LOCKED").mkdir(mode=0o555)
    if "LOCKED" in message and os.access(tmp_path / "LOCKED", os.W_OK):
        if not sys.platform.startswith("linux"):
            pytest.skip("this person may write everywhere")
        # Not even the system's administrator makes folders here.
        arguments = [a.replace("LOCKED", "/proc/LOCKED") for a in arguments]
    before = sorted(tmp_path.rglob("*"))
    names = {"IMAGE": str(image), "MODEL": model}
    line = error_of(capfd, [names.get(a, a) for a in arguments])
    assert message in line
    assert "Errno" not in line
    assert sorted(tmp_path.rglob("*")) == before


def test_cases_of_one_name_are_told_apart_from_channels(tmp_path: Path):
    for name in ("a/x", "b/x", "a/y_0000", "b/y_0000"):
        write_image(np.zeros((2, 3, 4), np.float32), tmp_path / f"{name}.nii.gz")
    a, b = tmp_path / "a", tmp_path / "b"
    with pytest.raises(MaskSAMError, match="two cases are named 'x'"):
        find_cases([a / "x.nii.gz", b / "x.nii.gz"], tmp_path / "out", 1, "mha")
    with pytest.raises(MaskSAMError, match="two cases are named 'y'"):
        find_cases([a / "y_0000.nii.gz", b / "y_0000.nii.gz"], tmp_path / "out", 2, "mha")
    both = find_cases([b / "x.nii.gz", a / "x.nii.gz"], tmp_path / "out", 2, "mha")
    assert [case.channels for case in both] == [(b / "x.nii.gz", a / "x.nii.gz")]
    dotted = find_cases([a / "x.nii.gz"], tmp_path / "at-1.5mm", 1, "mha")
    assert dotted[0].output == tmp_path / "at-1.5mm" / "x.mha"


def test_images_that_are_no_volumes_are_told(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    flat = sitk.GetImageFromArray(np.zeros((20, 20), np.float32))
    colour = sitk.GetImageFromArray(np.zeros((8, 20, 20, 3), np.uint8), isVector=True)
    moving = sitk.JoinSeries([sitk.GetImageFromArray(np.zeros((8, 20, 20), np.float32))] * 3)
    bad = np.zeros((8, 20, 20), np.float32)
    bad[0, 0, 0] = np.nan
    for image, message in (
        (flat, "2D image"),
        (colour, "3 values per voxel"),
        (moving, "4D image"),
        (sitk.GetImageFromArray(bad), "NaN or infinite"),
    ):
        path = tmp_path / "in.mha"
        sitk.WriteImage(image, str(path))
        arguments = ["predict", str(path), "-o", str(tmp_path / "out.nii.gz"), "-m", model]
        assert message in error_of(capfd, arguments)


def test_wrong_words_and_options_are_told_in_one_line(
    image: Path, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    assert "no model named 'nobody'" in error_of(
        capfd, ["predict", str(image), "-o", str(tmp_path / "o.mha"), "-m", "nobody"]
    )
    assert "device" in error_of(
        capfd,
        ["predict", str(image), "-o", str(tmp_path / "o.mha"), "-m", model, "--device", "warp"],
    )
    error_of(capfd, ["predict", str(image)])
    error_of(capfd, ["fly"])
    for folder in ("none", "."):
        assert "dataset" in error_of(
            capfd, ["train", str(tmp_path / folder), "-o", str(tmp_path / "run")]
        )
    assert not (tmp_path / "run").exists()


def test_evaluate_prints_and_writes_a_summary(
    image: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    path = tmp_path / "label.nii.gz"
    write_image(generated_case(0)[1], path)
    summary = tmp_path / "summary.json"
    assert main(["evaluate", str(path), str(path), "-o", str(summary)]) == 0
    assert "Dice" in capfd.readouterr().out
    assert json.loads(summary.read_text(encoding="utf-8"))["foreground_mean"]["Dice"] == 1


def test_evaluate_keeps_a_summary_that_exists_unless_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    path, summary = tmp_path / "label.nii.gz", tmp_path / "new" / "summary.json"
    write_image(generated_case(0)[1], path)
    arguments = ["evaluate", str(path), str(path), "-o", str(summary)]
    assert main(arguments) == 0
    summary.write_bytes(b"precious")
    assert "--overwrite" in error_of(capfd, arguments)
    assert summary.read_bytes() == b"precious"
    assert main([*arguments, "--overwrite"]) == 0
    assert b"Dice" in summary.read_bytes()


def test_evaluate_tells_of_references_without_a_prediction(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    for name in ("predictions/a", "references/a", "references/b", "references/c"):
        write_image(generated_case(0)[1], tmp_path / f"{name}.nii.gz")
    arguments = ["evaluate", str(tmp_path / "predictions"), str(tmp_path / "references")]
    assert main(arguments) == 0
    heard = capfd.readouterr()
    assert "2 references have no prediction (b, c)" in heard.err
    assert "1 case(s)" in heard.out
    told = error_of(capfd, [*arguments, "--all", "-o", str(tmp_path / "summary.json")])
    assert "2 references have no prediction" in told
    assert not (tmp_path / "summary.json").exists()
    for name in "bc":
        write_image(generated_case(0)[1], tmp_path / "predictions" / f"{name}.nii.gz")
    assert main([*arguments, "--all"]) == 0
    assert "no prediction" not in capfd.readouterr().err


def test_models_are_listed_added_shown_verified_and_removed(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MASKSAM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["models", "add", model]) == 0
    assert main(["models", "list"]) == 0
    listed = capfd.readouterr().out
    assert "small" in listed
    assert "sam_vit_b" in listed
    assert main(["models", "info", "small"]) == 0
    assert "Bright" in capfd.readouterr().out
    assert main(["models", "verify", "small"]) == 0
    assert main(["models", "remove", "small", "--yes"]) == 0
    assert "no model named" in error_of(capfd, ["models", "verify", "small"])


def test_a_download_says_first_what_it_is_and_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """The real catalogue, behind a proxy that is not there: nothing can come."""
    monkeypatch.setenv("MASKSAM_HOME", str(tmp_path / "home"))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert main(["models", "download", "sam_vit_b"]) == 2
    told, _, error = capfd.readouterr().err.partition("masksam: error: ")
    entry = find("sam_vit_b")
    assert "127.0.0.1" not in told and "cannot download" in error
    for fact in (entry.title, "375 MB", "Apache-2.0", entry.url, f"SHA-256 {entry.sha256}"):
        assert fact in told
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_what_ships_is_not_downloaded(capfd: pytest.CaptureFixture[str]):
    assert "installed already" in error_of(capfd, ["models", "download", "hippocampus"])


def test_benchmark_tells_seconds_and_device(model: str, capfd: pytest.CaptureFixture[str]):
    arguments = ["benchmark", "-m", model, "--shape", "8x20x24", "--repeats", "2"]
    assert main([*arguments, "--device", "cpu"]) == 0
    assert "median of 2" in capfd.readouterr().out


def run(arguments: list[str], **how: object) -> subprocess.CompletedProcess[str]:
    """The real process."""
    return subprocess.run(
        [sys.executable, "-m", "MaskSAMCore.cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        text=True,
        timeout=600,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how},
    )


def test_the_process_itself_says_its_version_and_exits_with_two_after_an_error(tmp_path: Path):
    assert run(["--version"]).stdout.startswith("masksam 0.")
    failed = run(["models", "info", "nobody"])
    assert failed.returncode == 2
    assert failed.stderr.startswith("masksam: error: no model named 'nobody'")
    assert failed.stderr.count("\n") == 1
    assert failed.stdout == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_disk_that_is_full_of_what_was_printed_is_told_in_one_line():
    with open("/dev/full", "w") as full:
        failed = run(["models", "list"], stdout=full)
    assert failed.returncode == 2
    assert failed.stderr == "masksam: error: no space left on device\n"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break in another way there")
def test_a_reader_that_has_seen_enough_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(["models", "list"], stdout=writing)
    finally:
        os.close(writing)
    assert done.returncode == 1
    assert done.stderr == ""

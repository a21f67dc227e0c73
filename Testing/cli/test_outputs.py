"""Outputs of every command: never an input, never one file twice, and nothing left by an error."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import SimpleITK as sitk
from rich.console import Console

from MaskSAMCore.cli import demo, main
from MaskSAMCore.cli.outputs import Inputs, Outputs, prepared
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from Testing.cli.helpers import error_of, without_reader
from Testing.helpers.generated import generated_case, write_dataset, write_image


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with inputs of all kinds."""
    monkeypatch.chdir(tmp_path)
    image, labels = generated_case(0, (8, 18, 22))
    write_image(image, tmp_path / "in" / "a.nii.gz")
    for name in ("found/a.nii.gz", "known/a.nii.gz"):
        write_image(labels, tmp_path / name)
    markup = '{"markups": [{"type": "ROI", "center": [8, 8, 8], "size": [12, 12, 12]}]}'
    (tmp_path / "R.mrk.json").write_text(markup, encoding="utf-8")
    (tmp_path / "card.json").write_text("{}", encoding="utf-8")
    (tmp_path / "link.nii.gz").symlink_to("in/a.nii.gz")
    os.link("in/a.nii.gz", "hard.nii.gz")
    (tmp_path / "linked").symlink_to("in", target_is_directory=True)
    write_dataset(tmp_path / "data", cases=2)
    (tmp_path / "splits.json").write_text("{}", encoding="utf-8")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}", encoding="utf-8")
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize(
    "command",
    [
        "predict in/a.nii.gz -o in/a.nii.gz",
        "predict in -o in",
        "predict in -o linked",
        "predict in/a.nii.gz -o linked/../in/a.nii.gz",
        "predict in/a.nii.gz -o link.nii.gz",
        "predict link.nii.gz -o in/a.nii.gz",
        "predict in/a.nii.gz -o hard.nii.gz",
        "predict in/a.nii.gz -o in/A.NII.GZ",
        "predict in -o out --volumes in/a.nii.gz",
        "predict in -o out --volumes ./linked/a.nii.gz",
        "predict in -o out --roi R.mrk.json --volumes R.mrk.json",
        "predict in -o out --boxes R.mrk.json --volumes R.mrk.json",
        "predict in -o out --volumes MODEL/masksam.json",
        "evaluate found known -o found/a.nii.gz",
        "evaluate found known -o known/a.nii.gz",
        "evaluate found/a.nii.gz known/a.nii.gz -o known/a.nii.gz",
        "export run -o run",
        "export run -o .",
        "export run -o new --card new",
        "export run --card card.json -o card.json",
        "train data -o data",
        "train data -o data/imagesTr",
        "train data -o data/labelsTr/run",
        "train data -o run --splits run/run.json",
        "train data -o run --from run",
        "compare data -o data",
        "compare data -o data/imagesTr/new",
    ],
)
def test_no_output_replaces_or_joins_an_input(
    command: str, folder: Path, model: str, capfd: pytest.CaptureFixture[str]
):
    shutil.copytree(model, "MODEL")
    (folder / "new").write_text("{}", encoding="utf-8")
    before = contents(folder)
    arguments = command.split()
    if arguments[0] in ("predict", "evaluate", "export"):
        arguments += ["--overwrite"]
    if arguments[0] == "predict":
        arguments += ["-m", "MODEL"]
    error = error_of(capfd, arguments)
    assert "input" in error
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("predict in -o out --volumes out/a.nii.gz", "written twice"),
        ("predict in pair -o out --format nrrd --probabilities", "written twice"),
        ("predict in -o out --volumes in", "is a folder"),
        ("predict in -o out --volumes out", "out is a folder: name another file"),
        ("predict in -o out --report out", "out is a folder: name another file"),
        ("predict in/a.nii.gz -o b.mha --volumes b.mha/v.csv", "b.mha is a folder"),
        ("predict in/a.nii.gz -o data/labelsTr/b.nii.gz", "has the cases of a dataset"),
        ("predict in -o data/imagesTr/new", "has the cases of a dataset"),
        ("predict in -o out --volumes data/labelsTr/volumes.csv", "has the cases of a dataset"),
        ("evaluate found known -o in", "is a folder"),
        ("evaluate found known -o /dev/null", "is a device or a pipe"),
        ("evaluate found known -o R.mrk.json/new/s.json", "R.mrk.json"),
    ],
)
def test_an_output_that_cannot_be_one_is_refused(
    command: str,
    message: str,
    folder: Path,
    model: str,
    capfd: pytest.CaptureFixture[str],
):
    write_image(generated_case(0, (8, 18, 22))[0], folder / "pair" / "a_probabilities.nii.gz")
    before = contents(folder)
    arguments = [*command.split(), "--overwrite"]
    assert message in error_of(capfd, arguments + ["-m", model] * (arguments[0] == "predict"))
    assert contents(folder) == before
    assert Path("/dev/null").is_char_device()


def test_nothing_is_added_to_the_folder_of_a_dicom_series(
    folder: Path, model: str, capfd: pytest.CaptureFixture[str]
):
    (folder / "series").mkdir()
    (folder / "series" / "1.dcm").write_bytes(b"DICM")
    for output in ("series", "series/o.nii.gz", "series/deep/o.nii.gz"):
        error = error_of(capfd, ["predict", "series", "-o", output, "-m", model])
        assert "input" in error
        assert [path.name for path in (folder / "series").iterdir()] == ["1.dcm"]


@pytest.mark.parametrize(
    "command",
    [
        "predict bad.nii.gz -o new/deep/o.nii.gz --volumes other/v.csv",
        "evaluate found/a.nii.gz bad.nii.gz -o new/deep/s.json",
        "export run -o new/deep/model",
        "train bad.nii.gz -o new/deep/run",
        "train data -o new/deep/run --preview 1 --splits splits.json",
        "compare data -o new/deep/table --splits splits.json",
        "models add bad.nii.gz",
        "models add bad.nii.gz --name own --unverified",
        "models add nowhere",
        "models add run",
    ],
)
def test_an_error_leaves_no_folder(
    command: str,
    folder: Path,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("MASKSAM_HOME", str(folder / "home"))
    (folder / "bad.nii.gz").write_bytes(b"no image")
    before = contents(folder)
    arguments = command.split()
    error_of(capfd, arguments + ["-m", model] * (arguments[0] == "predict"))
    assert contents(folder) == before


def test_finished_cases_stay_complete_if_a_later_one_fails(
    folder: Path, model: str, capfd: pytest.CaptureFixture[str]
):
    (folder / "in" / "b.nii.gz").write_bytes(b"no image")
    arguments = ["predict", "in", "-o", "out", "-m", model, "--volumes", "out/v.csv"]
    assert "b.nii.gz" in error_of(capfd, [*arguments, "--no-keep-going"])
    written = sorted(path.name for path in (folder / "out").iterdir())
    assert written == ["a.nii.gz", "cases.csv", "v.csv"]


@pytest.mark.parametrize(
    ("header", "voxels"), [("a.hdr", "a.img"), ("a.mhd", "a.raw"), ("a.nhdr", "a.raw")]
)
def test_the_voxels_of_a_header_are_an_input(
    header: str, voxels: str, folder: Path, model: str, capfd: pytest.CaptureFixture[str]
):
    image = sitk.ReadImage(str(folder / "in" / "a.nii.gz"), sitk.sitkFloat32)
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    (folder / "pair").mkdir()
    sitk.WriteImage(image, str(folder / "pair" / header))
    before = contents(folder)
    assert folder / "pair" / voxels in before
    arguments = ["predict", f"pair/{header}", "-o", "out", "-m", model, "--overwrite"]
    assert "is an input" in error_of(capfd, [*arguments, "--volumes", f"pair/{voxels}"])
    assert contents(folder) == before


def test_a_name_too_long_for_the_disk_is_refused_before_the_work(
    folder: Path, model: str, capfd: pytest.CaptureFixture[str]
):
    arguments = ["predict", "in/a.nii.gz", "-o", f"out/{'x' * 240}.nii.gz", "-m", model]
    assert "too long" in error_of(capfd, [*arguments, "--probabilities"])
    assert not Path("out").exists()


def test_results_may_lie_beside_their_images(folder: Path, model: str):
    assert main(["predict", "in/a.nii.gz", "-o", "in/a.seg.nrrd", "-m", model]) == 0
    assert main(["evaluate", "found", "known", "-o", "found/summary.json"]) == 0
    assert sorted(path.name for path in (folder / "in").iterdir()) == ["a.nii.gz", "a.seg.nrrd"]


def test_one_output_by_two_names_is_refused(tmp_path: Path):
    (tmp_path / "one").mkdir()
    (tmp_path / "other").symlink_to("one", target_is_directory=True)
    outputs = Outputs((tmp_path / "one" / "a.nii.gz", tmp_path / "other" / "a.nii.gz"))
    with pytest.raises(MaskSAMError, match="written twice"), prepared(outputs, Inputs(), True):
        pass


def test_names_in_upper_and_lower_case_are_two_files_where_the_disk_keeps_them_apart(
    folder: Path, model: str
):
    if Path("IN").exists():
        pytest.skip("the disk does not keep them apart")
    write_image(generated_case(1, (6, 16, 20))[0], folder / "in" / "A.nii.gz")
    assert main(["predict", "in", "-o", "out", "-m", model]) == 0
    written = sorted(path.name for path in (folder / "out").glob("*.nii.gz"))
    assert written == ["A.nii.gz", "a.nii.gz"]


def test_a_demo_that_is_stopped_leaves_no_file_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    pytest.importorskip("nilearn", reason="the demo's head comes with nilearn")
    begun = []

    def stopped(_volume: Volume, folder: Path, *_: object) -> None:
        begun.extend(path.name for path in folder.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_whole_head", stopped)
    assert main(["demo", "-o", str(tmp_path / "out")]) == 130
    assert begun == ["mni152_t1.nii.gz"] and not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break in another way there")
def test_a_demo_goes_on_when_the_reader_of_its_tables_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As in ``masksam demo | head``."""
    pytest.importorskip("nilearn", reason="the demo's head comes with nilearn")

    def write(name: str) -> Callable[..., None]:
        def part(_volume: Volume, folder: Path, _device: str, console: Console) -> None:
            console.print(name)
            for ending in (".nii.gz", ".seg.nrrd", ".png"):
                (folder / f"{name}{ending}").touch()

        return part

    monkeypatch.setattr(demo, "_whole_head", write("brain"))
    monkeypatch.setattr(demo, "_hippocampi", write("hippocampi"))
    with without_reader("stdout"):
        assert main(["demo", "-o", str(tmp_path / "out")]) == 0
    assert len(contents(tmp_path / "out")) == 7


@pytest.mark.parametrize("name", ["mni152_t1.nii.gz", "brain.nii.gz", "hippocampi.png"])
def test_the_demo_replaces_no_file_of_others(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    pytest.importorskip("nilearn", reason="the demo's head comes with nilearn")
    (tmp_path / name).write_bytes(b"precious")
    error = error_of(capfd, ["demo", "-o", str(tmp_path)])
    assert f"{tmp_path / name} exists: add --overwrite" in error
    assert contents(tmp_path) == {tmp_path / name: b"precious"}


@pytest.mark.parametrize("name", ["my model", "model.zip"])
def test_an_export_is_refused_under_a_name_that_no_model_can_have(
    name: str, folder: Path, capfd: pytest.CaptureFixture[str]
):
    before = contents(folder)
    error = error_of(capfd, ["export", "run", "-o", name])
    assert f"'{name}' cannot be a model's name: use letters, digits, - and _" in error
    assert contents(folder) == before

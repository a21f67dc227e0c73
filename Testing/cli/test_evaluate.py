"""``masksam evaluate``: the table, the summary file, and references without a prediction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.cli import main
from MaskSAMCore.geometry import Volume
from MaskSAMCore.io import write_labelmap
from MaskSAMCore.labels import Label
from Testing.cli.helpers import error_of, run_process
from Testing.helpers.generated import generated_case, write_image


@pytest.fixture
def labelmap(tmp_path: Path) -> Path:
    path = tmp_path / "label.nii.gz"
    write_image(generated_case(0)[1], path)
    return path


def test_evaluate_prints_and_writes_a_summary(
    labelmap: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    summary = tmp_path / "summary.json"
    assert main(["evaluate", str(labelmap), str(labelmap), "-o", str(summary)]) == 0
    assert "Dice" in capfd.readouterr().out
    assert json.loads(summary.read_text(encoding="utf-8"))["foreground_mean"]["Dice"] == 1


@pytest.mark.parametrize("more", [[], ["--published", "acdc"], ["--published", "amos22"]])
def test_no_figure_is_cut_in_eighty_columns(
    more: list[str],
    labelmap: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["evaluate", str(labelmap), str(labelmap), *more]) == 0
    printed = capfd.readouterr().out
    assert "…" not in printed
    assert "(0.0000)" in printed


def test_an_existing_summary_is_kept_without_overwrite(
    labelmap: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    summary = tmp_path / "new" / "summary.json"
    arguments = ["evaluate", str(labelmap), str(labelmap), "-o", str(summary)]
    assert main(arguments) == 0
    summary.write_bytes(b"precious")
    assert "--overwrite" in error_of(capfd, arguments)
    assert summary.read_bytes() == b"precious"
    assert main([*arguments, "--overwrite"]) == 0
    assert b"Dice" in summary.read_bytes()


def test_references_without_a_prediction_are_named_and_the_option_all_refuses_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    for name in ("predictions/a", "references/a", "references/b", "references/c"):
        write_image(generated_case(0)[1], tmp_path / f"{name}.nii.gz")
    arguments = ["evaluate", str(tmp_path / "predictions"), str(tmp_path / "references")]
    assert main(arguments) == 0
    printed = capfd.readouterr()
    assert "2 references have no prediction (b, c)" in printed.err
    assert "1 case(s)" in printed.out
    error = error_of(capfd, [*arguments, "--all", "-o", str(tmp_path / "summary.json")])
    assert "2 references have no prediction" in error
    assert not (tmp_path / "summary.json").exists()
    for name in "bc":
        write_image(generated_case(0)[1], tmp_path / "predictions" / f"{name}.nii.gz")
    assert main([*arguments, "--all"]) == 0
    assert "no prediction" not in capfd.readouterr().err


def test_labelmaps_in_folders_of_their_own_are_compared_at_the_same_place(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    known, other = generated_case(0)[1], generated_case(1)[1]
    for name in ("references/a", "references/site/a", "references/site/b", "found/a"):
        write_image(known, tmp_path / f"{name}.nii.gz")
    write_image(other, tmp_path / "found" / "site" / "a.nrrd")
    write_image(other, tmp_path / "found" / ".trash" / "c.nii.gz")
    write_image(other, tmp_path / "found" / "site" / "a_probabilities.nii.gz")
    summary = tmp_path / "summary.json"
    (tmp_path / "found").rename(tmp_path / "references" / "found")
    arguments = ["evaluate", str(tmp_path / "references" / "found"), str(tmp_path / "references")]
    assert "1 reference has no prediction (site/b)" in error_of(capfd, [*arguments, "--all"])
    assert main([*arguments, "-o", str(summary)]) == 0
    cases = json.loads(summary.read_text(encoding="utf-8"))["metric_per_case"]
    dice = {case["prediction_file"]: case["metrics"]["1"]["Dice"] for case in cases}
    assert dice.keys() == {"a.nii.gz", "site/a.nrrd"}
    assert dice["a.nii.gz"] == 1 > dice["site/a.nrrd"]
    assert [case["reference_file"] for case in cases] == ["a.nii.gz", "site/a.nii.gz"]


def test_a_case_without_foreground_has_a_table_without_nan(
    labelmap: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    empty, summary = tmp_path / "empty.nii.gz", tmp_path / "summary.json"
    write_image(np.zeros_like(generated_case(0)[1]), empty)
    assert main(["evaluate", str(labelmap), str(empty), "-o", str(summary)]) == 0
    values = json.loads(summary.read_text(encoding="utf-8"))
    assert values["mean"]["1"]["Dice"] == values["mean"]["2"]["Dice"] == 0
    assert main(["evaluate", str(empty), str(empty), "--labels", "1"]) == 0
    printed = capfd.readouterr().out
    assert "– (–)" in printed and "nan" not in printed
    error = error_of(capfd, ["evaluate", str(empty), str(empty), "-o", str(tmp_path / "new.json")])
    assert "no labelled voxel" in error
    assert not (tmp_path / "new.json").exists()


def test_a_case_that_a_folder_has_twice_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    for name in ("found/a.nii.gz", "found/a.nrrd", "known/a.nii.gz"):
        write_image(generated_case(0)[1], tmp_path / name)
    found, known = str(tmp_path / "found"), str(tmp_path / "known")
    for folders in ((found, known), (known, found)):
        assert "has the case 'a' twice" in error_of(capfd, ["evaluate", *folders])


def test_nothing_but_the_table_is_printed(labelmap: Path):
    done = run_process(["evaluate", str(labelmap), str(labelmap)])
    assert (done.returncode, done.stderr) == (0, "")


def test_the_summary_may_be_written_again_beside_the_predictions(tmp_path: Path):
    for name in ("found/a", "known/a"):
        write_image(generated_case(0)[1], tmp_path / f"{name}.nii.gz")
    summary = tmp_path / "found" / "summary.json"
    arguments = ["evaluate", str(summary.parent), str(tmp_path / "known"), "-o", str(summary)]
    assert main(arguments) == 0
    assert main([*arguments, "--overwrite"]) == 0


def test_an_error_is_the_only_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    for name in ("found/a", "known/b"):
        write_image(generated_case(0)[1], tmp_path / f"{name}.nii.gz")
    assert main(["evaluate", str(tmp_path / "found"), str(tmp_path / "known")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "a.nii.gz has no reference" in line


@pytest.mark.parametrize("labels", ["", "1,", "-1", "1_0", "٣", "²", "1.0", "0x1"])
def test_labels_are_lists_of_plain_numbers(
    labels: str, labelmap: Path, capfd: pytest.CaptureFixture[str]
):
    arguments = ["evaluate", str(labelmap), str(labelmap), f"--labels={labels}"]
    assert "--labels must look like 1,2" in error_of(capfd, arguments)


def write_pairs(folder: Path, names: dict[str, int]) -> tuple[Path, Path]:
    """Write a dataset and predictions equal to its references; return the folders of both."""
    array = np.zeros((2, 4, 4), np.uint8)
    array.flat[: len(names)] = list(names.values())
    for part in ("predictions", "labelsTs"):
        write_image(array, folder / part / "a.nii.gz")
    labels = {"labels": {"background": 0, **names}}
    (folder / "dataset.json").write_text(json.dumps(labels), encoding="utf-8")
    return folder / "predictions", folder / "labelsTs"


def test_organs_are_named_beside_the_published_figures(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    folders = write_pairs(tmp_path, {"RV": 1, "MYO": 2, "LV": 3})
    assert main(["evaluate", *map(str, folders), "--published", "acdc"]) == 0
    shown = capfd.readouterr()
    (row,) = [line for line in shown.out.splitlines() if "MYO" in line]
    assert "0.9137" in row and "1.0000" in row
    (mean,) = [line for line in shown.out.splitlines() if "mean" in line]
    assert "0.9339" in mean
    assert "MaskSAM: Dice as published in Xie et al., MaskSAM, ICCV 2025, Table 3" in shown.err
    assert "other organs" not in shown.err


def test_other_organs_than_the_published_ones_are_noted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    folders = write_pairs(tmp_path, {"RV": 1, "MYO": 2})
    assert main(["evaluate", *map(str, folders), "--published", "acdc"]) == 0
    assert "the published means are over other organs than these (LV" in capfd.readouterr().err


def test_predictions_without_names_are_noted_where_the_references_have_names(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    found, known = tmp_path / "found", tmp_path / "known"
    label = generated_case(0)[1]
    labels = [Label(value, name, (1.0, 0.0, 0.0)) for value, name in ((1, "b"), (2, "a"))]
    known.mkdir()
    write_labelmap(label, Volume(label, np.eye(4)), known / "a.seg.nrrd", labels)
    found.mkdir()
    write_labelmap(label, Volume(label, np.eye(4)), found / "a.nii.gz", labels)

    def noted() -> bool:
        assert main(["evaluate", str(found), str(known)]) == 0
        return "1 prediction(s) have no class names (a.nii.gz)" in capfd.readouterr().err

    assert noted()
    values = {"labels": {"background": 0, "a": 1, "b": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps(values), encoding="utf-8")
    assert not noted()
    (tmp_path / "dataset.json").unlink()
    (found / "a.nii.gz").unlink()
    write_labelmap(label, Volume(label, np.eye(4)), found / "a.seg.nrrd", labels)
    assert not noted()


def test_references_without_names_are_noted_where_the_predictions_have_names(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    label = generated_case(0)[1]
    labels = [Label(value, name, (1.0, 0.0, 0.0)) for value, name in ((1, "b"), (2, "a"))]
    for path in (tmp_path / "found" / "a.seg.nrrd", tmp_path / "known" / "a.nii.gz"):
        path.parent.mkdir()
        write_labelmap(label, Volume(label, np.eye(4)), path, labels)
    arguments = ["evaluate", str(tmp_path / "found"), str(tmp_path / "known")]
    assert main(arguments) == 0
    assert "1 reference(s) have no class names (a.nii.gz)" in capfd.readouterr().err
    values = {"labels": {"background": 0, "b": 1, "a": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps(values), encoding="utf-8")
    assert main(arguments) == 0
    assert "no class names" not in capfd.readouterr().err


def test_labels_that_only_predictions_have_are_noted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    label = generated_case(0)[1]
    write_image(label, tmp_path / "known" / "a.nii.gz")
    label[0, 0, :2] = (5, 12)
    write_image(label, tmp_path / "found" / "a.nii.gz")
    arguments = ["evaluate", str(tmp_path / "found"), str(tmp_path / "known")]
    assert main(arguments) == 0
    printed = capfd.readouterr()
    assert "no reference has 2 of the predicted labels (5, 12)" in printed.err
    assert "give --labels 1,2,5,12" in printed.err
    summary = tmp_path / "summary.json"
    assert main([*arguments, "--labels", "1,2,5,12", "-o", str(summary)]) == 0
    printed = capfd.readouterr()
    assert "no reference" not in printed.err
    assert "predicted_only" not in json.loads(summary.read_text(encoding="utf-8"))


def test_the_rule_for_empty_references_is_chosen(tmp_path: Path):
    for part, value in (("predictions", 0), ("references", 0), ("references", 1)):
        array = np.full((2, 3, 4), value, np.uint8)
        if part == "references":
            array[0] = 1
        write_image(array, tmp_path / part / "a.nii.gz")
    summary = tmp_path / "summary.json"
    arguments = ["evaluate", str(tmp_path / "predictions"), str(tmp_path / "references")]
    options = ["--labels", "1,2", "--empty", "nnformer", "-o", str(summary)]
    assert main([*arguments, *options]) == 0
    means = json.loads(summary.read_text(encoding="utf-8"))["mean"]
    assert (means["1"]["Dice"], means["2"]["Dice"]) == (0, 1)


def test_only_the_cases_of_a_split_are_compared(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    for name in "abc":
        for part in ("predictions", "references"):
            write_image(generated_case(0)[1], tmp_path / part / f"{name}.nii.gz")
    split = tmp_path / "splits.json"
    arguments = ["evaluate", str(tmp_path / "predictions"), str(tmp_path / "references")]
    for sides, count in (({"val": ["b", "c"]}, 2), ({"val": ["b"], "test": ["c"]}, 1)):
        split.write_text(json.dumps({"train": ["a"], **sides}), encoding="utf-8")
        assert main([*arguments, "--split", str(split)]) == 0
        assert f"{count} case(s)" in capfd.readouterr().out
    split.write_text(json.dumps({"train": ["a"], "val": ["z"]}), encoding="utf-8")
    assert "has no labelmap of z" in error_of(capfd, [*arguments, "--split", str(split)])
    one = [str(tmp_path / part / "a.nii.gz") for part in ("predictions", "references")]
    assert "give two folders" in error_of(capfd, ["evaluate", *one, "--split", str(split)])
    split.write_text(json.dumps({"train": ["a"], "val": []}), encoding="utf-8")
    assert "no case under 'test' or 'val'" in error_of(capfd, [*arguments, "--split", str(split)])

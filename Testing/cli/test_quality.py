"""``masksam quality``: an estimator is fitted, evaluated, and shown by ``masksam predict``."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from MaskSAMCore.cli import main
from MaskSAMCore.models import load_bundle
from MaskSAMCore.models.expected_dice import QUALITY
from Testing.cli.helpers import error_of, headings_of, without_reader
from Testing.helpers.generated import write_dataset
from Testing.helpers.small_bundle import small_bundle


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset and a bundle whose estimator was fitted to it."""
    folder = tmp_path_factory.mktemp("fitted")
    data = write_dataset(folder / "data", cases=4)
    small_bundle(folder / "model")
    (folder / "splits.json").write_text(
        json.dumps({"train": ["case_00"], "val": ["case_01", "case_02"], "test": ["case_03"]})
    )
    options = ["--splits", str(folder / "splits.json"), "--samples", str(folder / "results.jsonl")]
    assert (
        main(["quality", "fit", str(folder / "model"), str(data), *options, "--results", "22"]) == 0
    )
    return folder


def test_a_fit_writes_an_estimator_that_is_evaluated_on_other_cases(fitted: Path, capfd):
    estimator = load_bundle(fitted / "model").estimator
    assert estimator is not None
    assert estimator.facts["cases"] == 2
    output = fitted / "measures.json"
    arguments = ["quality", "evaluate", str(fitted / "model"), str(fitted / "data")]
    options = ["--splits", str(fitted / "splits.json"), "--results", "4", "-o", str(output)]
    assert main([*arguments, *options]) == 0
    assert "the bound holds in" in capfd.readouterr().out
    measures = json.loads(output.read_text())
    assert 0 <= measures["coverage"] <= 1
    assert set(measures["rank_correlation"]) == {"Bright", "Dark"}
    assert output.with_suffix(".png").is_file()
    before = output.read_bytes()
    assert "add --overwrite" in error_of(capfd, [*arguments, *options])
    assert output.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break in another way there")
def test_measures_are_written_even_if_nobody_reads_the_table(fitted: Path, tmp_path: Path):
    """As in ``masksam quality evaluate ... | head -n 0``."""
    output = tmp_path / "measures.json"
    arguments = ["quality", "evaluate", str(fitted / "model"), str(fitted / "data")]
    options = ["--splits", str(fitted / "splits.json"), "--results", "4", "-o", str(output)]
    with without_reader("stdout"), without_reader("stderr"), pytest.raises(SystemExit):
        main([*arguments, *options])
    assert output.is_file() and output.with_suffix(".png").is_file()


def test_the_expected_dice_is_in_the_table_and_in_both_files(fitted: Path, tmp_path: Path, capfd):
    volumes, output = tmp_path / "volumes.csv", tmp_path / "out"
    arguments = ["predict", str(fitted / "data" / "imagesTr"), "-o", str(output)]
    assert main([*arguments, "-m", str(fitted / "model"), "--volumes", str(volumes)]) == 0
    assert headings_of(capfd.readouterr().out)[-2:] == ["expected Dice", "at least"]
    with volumes.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    with (output / "cases.csv").open(newline="") as stream:
        cases = {row["case"]: row for row in csv.DictReader(stream)}
    assert len(cases) == 4
    for name, case in cases.items():
        bounds = [float(row["expected_dice_low"]) for row in rows if row["case"] == name]
        assert float(case["expected_dice_low"]) == min(bounds)
        assert all(0 <= bound <= 1 for bound in bounds)


def test_a_model_with_an_estimator_of_other_weights_is_refused_until_it_is_fitted_again(
    fitted: Path, tmp_path: Path, capfd
):
    model = small_bundle(tmp_path / "other", class_names=("Dark", "Bright"))
    values = json.loads((fitted / "model" / QUALITY).read_text())
    (model / QUALITY).write_text(json.dumps({**values, "weights_sha256": "0" * 64}))
    arguments = ["predict", str(fitted / "data" / "imagesTr"), "-o", str(tmp_path / "out")]
    assert "masksam quality fit" in error_of(capfd, [*arguments, "-m", str(model)])
    assert not (tmp_path / "out").exists()


def test_mistakes_are_one_line(fitted: Path, tmp_path: Path, capfd):
    plain, data = str(small_bundle(tmp_path / "plain")), str(fitted / "data")
    splits = ["--splits", str(fitted / "splits.json")]
    assert "no estimator" in error_of(capfd, ["quality", "evaluate", plain, data, *splits])
    assert "no cases under 'test'" in error_of(capfd, ["quality", "evaluate", plain, data])
    few = ["quality", "fit", plain, data, *splits, "--results", "5"]
    assert "too few" in error_of(capfd, few)
    assert not (Path(plain) / QUALITY).exists()

"""A user's own model gets its Dice estimator from the validation cases of its run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from MaskSAMCore.cli import main
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.models import load_bundle
from MaskSAMCore.training.export import export_run
from MaskSAMCore.training.quality import fit_to_validation
from MaskSAMCore.training.run_folder import RUN_FILE


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Return a run with two validation cases."""
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    values = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    split = values["split"]
    split["val"].append(split["train"].pop())
    (folder / RUN_FILE).write_text(json.dumps(values), encoding="utf-8")
    return folder


def test_an_export_fits_the_expected_dice_by_itself(run: Path, tmp_path: Path):
    assert main(["export", str(run), "-o", str(tmp_path / "model"), "--quality-results", "24"]) == 0
    estimator = load_bundle(tmp_path / "model").estimator
    assert estimator is not None
    assert estimator.facts["cases"] == 2
    # The bundle does not contain the path of the dataset.
    assert str(tmp_path) not in (tmp_path / "model" / "masksam.json").read_text(encoding="utf-8")


def test_a_run_with_one_validation_case_is_exported_without_an_estimator(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    options = ["-o", str(tmp_path / "model"), "--quality-results", "24"]
    assert main(["export", str(trained), *options]) == 0
    assert load_bundle(tmp_path / "model").estimator is None
    assert "Note: results of this model have no expected Dice" in capfd.readouterr().err


def test_a_dataset_that_was_moved_is_asked_for(run: Path, dataset: Path, tmp_path: Path):
    values = json.loads((run / RUN_FILE).read_text(encoding="utf-8"))
    (run / RUN_FILE).write_text(json.dumps({**values, "folder": str(tmp_path / "moved")}))
    bundle = export_run(run, tmp_path / "model")
    with pytest.raises(MaskSAMError, match="--dataset"):
        fit_to_validation(run, bundle, 24)
    assert fit_to_validation(run, bundle, 24, dataset).is_file()

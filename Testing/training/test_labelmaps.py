"""Training on labelmaps alone, from the dataset folder to a model bundle."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from MaskSAMCore.cli import main
from MaskSAMCore.data.case_cache import CaseCache
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling import SAM_CONFIGS, build_model
from MaskSAMCore.presets.small import BRAIN
from MaskSAMCore.training.data import TrainingData, reload_training_data
from MaskSAMCore.training.export import export_run
from MaskSAMCore.training.fit import FitOptions, fit
from MaskSAMCore.training.run_folder import BEST, TrainingRecord, load_weights
from MaskSAMCore.training.validation import Evaluator
from Testing.helpers.labelled_heads import DESCRIPTION, write_labelmaps
from Testing.helpers.short_run import checkpoint

SMALL = {
    "window": (8, 24, 24),
    "stem_channels": (8, 8, 16, 16),
    "detail_channels": 8,
    "generator_channels": (32, 16, 8),
    "head_channels": 32,
    "sam": dataclasses.replace(
        SAM_CONFIGS["vit_t"],
        patch_size=8,
        embed_dim=48,
        num_heads=2,
        prompt_dim=48,
        decoder_mlp_dim=64,
    ),
}
QUICK = {
    "warm_up": 10,
    "iterations": 240,
    "batch": 2,
    "ema": 0.95,
    "learning_rate": 2e-3,
    "generator_first": 0.5,
    "common_contrasts": 0.0,
}


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelmaps(tmp_path_factory.mktemp("heads"), 5)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("targets") / "labels.json"
    file.write_text(json.dumps(DESCRIPTION), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def run(heads: Path, targets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "run"
    options = FitOptions(heads, run, BRAIN, targets=targets, device="cpu", workers=0)
    fit(options, lambda _: None, SMALL, QUICK)
    return run


@pytest.fixture(scope="module")
def data(heads: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return reloaded(heads, run, tmp_path_factory.mktemp("cases"))


def reloaded(heads: Path, run: Path, cases: Path) -> TrainingData:
    record = TrainingRecord.load(run)
    return reload_training_data(heads, record, lambda _: None, CaseCache(cases))


def test_a_training_learns_from_synthesised_images_alone(run: Path, data: TrainingData):
    record = TrainingRecord.load(run)
    assert record.plan.orientation == "SAR" and record.plan.spacing == (2.0, 2.0, 2.0)
    assert record.values == (3, 14, 42) and record.settings.mirror == ()
    evaluator = Evaluator(data.prepared.validation, record.classes, record.values)
    learned = evaluator.score(load_weights(record, run / BEST), "cpu")
    torch.manual_seed(1)
    untrained = evaluator.score(build_model(record.config).eval(), "cpu")
    # The decoder is trained only in the second half of the iterations.
    assert min(learned.dice["left side"], learned.dice["right side"]) > 0.45
    assert learned.mean > untrained.mean + 0.25


def test_a_resumed_run_keeps_its_targets(
    run: Path, heads: Path, data: TrainingData, tmp_path: Path
):
    record = TrainingRecord.load(run)
    assert (
        record.label_description is not None
        and record.label_description["targets"] == DESCRIPTION["targets"]
    )
    assert data.scheme is not None and data.classes == record.classes
    longer = Path(shutil.copytree(run, tmp_path / "run"))
    iterations = record.settings.iterations + 1
    dataclasses.replace(record, settings=record.settings.replace(iterations=iterations)).save(
        longer
    )
    fit(FitOptions(heads, longer, resume=True, device="cpu", workers=0), lambda _: None)
    assert checkpoint(longer)["global_step"] == iterations


def test_a_run_is_resumed_with_its_own_targets_only(
    run: Path, heads: Path, targets: Path, tmp_path: Path
):
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    options = FitOptions(heads, copied, resume=True, device="cpu", workers=0, stop_after=0.0)
    for labels, error in (
        (
            {"left side": ["left core"], "right side": ["right core"]},
            "run was begun with another --targets",
        ),
        ({"left side": ["nowhere"]}, "nowhere"),
    ):
        other = tmp_path / "other.json"
        other.write_text(json.dumps({**DESCRIPTION, "targets": labels}), encoding="utf-8")
        with pytest.raises(MaskSAMError, match=error):
            fit(dataclasses.replace(options, targets=other), lambda _: None)
    record = TrainingRecord.load(copied)
    iterations = record.settings.iterations + 1
    dataclasses.replace(record, settings=record.settings.replace(iterations=iterations)).save(
        copied
    )
    fit(dataclasses.replace(options, targets=targets), lambda _: None)
    assert checkpoint(copied)["global_step"] == iterations


def begun(heads: Path, run: Path, targets: Path | None) -> FitOptions:
    """Train for one step, extend the run by another, and return the options to resume it."""
    options = FitOptions(heads, run, BRAIN, targets=targets, device="cpu", workers=0)
    fit(options, lambda _: None, SMALL, {**QUICK, "iterations": 1})
    record = TrainingRecord.load(run)
    dataclasses.replace(record, settings=record.settings.replace(iterations=2)).save(run)
    return FitOptions(heads, run, resume=True, device="cpu", workers=0)


def test_a_resumed_run_ignores_the_targets_of_dataset_json_that_its_file_replaced(
    targets: Path, tmp_path: Path
):
    description = {**DESCRIPTION, "targets": ["left core"], "name": "Heads"}
    heads = write_labelmaps(tmp_path / "heads", 5, description)
    options = begun(heads, tmp_path / "run", targets)
    fit(options, lambda _: None)
    assert checkpoint(options.run)["global_step"] == 2
    assert TrainingRecord.load(options.run).classes == ("left side", "middle", "right side")


def test_a_changed_description_of_the_labels_is_refused(tmp_path: Path):
    heads = write_labelmaps(tmp_path / "heads", 5, DESCRIPTION)
    options = begun(heads, tmp_path / "run", None)
    changed = {**DESCRIPTION, "surroundings": [], "name": "Heads"}
    (heads / "dataset.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(MaskSAMError, match=r"dataset.json has other 'surroundings' than when"):
        fit(options, lambda _: None)
    (heads / "dataset.json").write_text(json.dumps(DESCRIPTION), encoding="utf-8")
    fit(options, lambda _: None)
    assert checkpoint(options.run)["global_step"] == 2


def test_validation_images_are_the_same_each_time(
    run: Path, heads: Path, data: TrainingData, tmp_path: Path
):
    again = reloaded(heads, run, tmp_path)
    for one, other in zip(data.prepared.validation, again.prepared.validation, strict=True):
        np.testing.assert_array_equal(one.open().image, other.open().image)
        assert one.open().image.dtype == np.float32


def test_the_model_has_the_values_of_the_labelmaps(run: Path, tmp_path: Path):
    bundle = export_run(run, tmp_path / "model")
    assert [label.value for label in bundle.labels] == [3, 14, 42]
    assert bundle.inference.mirror == ()


def test_the_preview_shows_windows_with_outlines_and_trains_nothing(
    heads: Path, targets: Path, tmp_path: Path
):
    run = tmp_path / "run"
    arguments = [str(heads), "-o", str(run), "--preset", "brain", "--targets", str(targets)]
    assert main(["train", *arguments, "--preview", "3", "--device", "cpu"]) == 0
    assert [path.name for path in run.iterdir()] == ["preview.png"]
    sheet = sitk.GetArrayFromImage(sitk.ReadImage(str(run / "preview.png")))
    assert sheet.ndim == 3 and sheet.shape[2] == 3
    colored = (sheet.max(-1).astype(int) - sheet.min(-1)) > 60
    assert 0.005 < colored.mean() < 0.5


def test_an_unknown_target_is_refused_with_one_line(heads: Path, tmp_path: Path, capsys):
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({**DESCRIPTION, "targets": ["nose"]}), encoding="utf-8")
    arguments = [str(heads), "-o", str(tmp_path / "run"), "--targets", str(file)]
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert "'targets' has names that are not in 'labels': nose" in " ".join(error.split())
    assert not (tmp_path / "run").exists()


def test_a_contrast_that_would_change_nothing_is_refused(
    heads: Path, targets: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    arguments = ["train", str(heads), "-o", str(tmp_path / "run"), "--preset", "brain"]
    assert main([*arguments, "--targets", str(targets), "--contrast", "0.5"]) == 2
    assert "leave --contrast out" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_windows_are_synthesised_by_workers_on_the_processor_or_without_any_on_a_gpu(
    run: Path, data: TrainingData
):
    settings = TrainingRecord.load(run).settings
    for device, workers in (("cpu", 3), ("cuda", 0)):
        windows = data.windows(settings, seed=1, device=device)
        assert data.loader(windows, batch=1, workers=3).num_workers == workers

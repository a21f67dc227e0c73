"""Training from labelmaps alone, from the folder to a model that finds what it never saw."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from MaskSAMCore.cli import main
from MaskSAMCore.modeling import SAM_CONFIGS
from MaskSAMCore.presets.small import BRAIN
from MaskSAMCore.training.data import Material, prepare_material
from MaskSAMCore.training.export import export_run
from MaskSAMCore.training.fit import FitOptions, fit
from MaskSAMCore.training.preview import contact_sheet
from MaskSAMCore.training.run_folder import BEST, TrainingRecord, load_weights
from MaskSAMCore.training.validation import Evaluator
from Testing.helpers.labelled_heads import DESCRIPTION, write_labelmaps

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
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelmaps(tmp_path_factory.mktemp("heads"), 5)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("targets") / "labels.json"
    file.write_text(json.dumps(DESCRIPTION), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def trained(dataset: Path, targets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "run"
    options = FitOptions(dataset, run, BRAIN, targets=targets, device="cpu", workers=0)
    fit(options, lambda _: None, SMALL, QUICK)
    return run


def prepared(dataset: Path, run: Path) -> tuple[TrainingRecord, Material]:
    record = TrainingRecord.load(run)
    return record, prepare_material(dataset, record.split, lambda _: None, record=record)


def test_it_learns_from_synthesised_images_alone(trained: Path, dataset: Path):
    record, material = prepared(dataset, trained)
    assert record.plan.orientation == "SAR" and record.plan.spacing == (2.0, 2.0, 2.0)
    assert record.values == (3, 14, 42) and record.settings.mirror == ()
    evaluator = Evaluator(material.validation, record.classes, record.values, record.plan)
    learned = evaluator.score(load_weights(record, trained / BEST).eval(), "cpu")
    torch.manual_seed(1)
    start = trained.parent / "untrained"
    options = FitOptions(dataset, start, BRAIN, device="cpu", workers=0)
    targets = trained.parent / "labels.json"
    targets.write_text(json.dumps(DESCRIPTION), encoding="utf-8")
    fit(dataclasses.replace(options, targets=targets), lambda _: None, SMALL, {"iterations": 1})
    untrained = evaluator.score(load_weights(record, start / BEST).eval(), "cpu")
    assert learned.dice["left side"] > 0.6 and learned.dice["right side"] > 0.6
    assert learned.mean > untrained.mean + 0.25


def test_a_run_goes_on_without_being_told_the_targets_again(trained: Path, dataset: Path):
    record, material = prepared(dataset, trained)
    assert record.label_maps is not None and record.label_maps["targets"] == DESCRIPTION["targets"]
    assert material.scheme is not None and material.classes == record.classes
    longer = dataclasses.replace(
        record, settings=record.settings.replace(iterations=record.settings.iterations + 2)
    )
    longer.save(trained)
    fit(FitOptions(dataset, trained, resume=True, device="cpu", workers=0), lambda _: None)
    assert int(json.loads((trained / "run.json").read_text())["settings"]["iterations"]) == 242


def test_validation_heads_are_the_same_each_time(trained: Path, dataset: Path):
    (_, one), (_, two) = prepared(dataset, trained), prepared(dataset, trained)
    for a, b in zip(one.validation, two.validation, strict=True):
        np.testing.assert_array_equal(a.channels[0].array, b.channels[0].array)
        assert a.channels[0].array.dtype == np.float32


def test_it_becomes_a_model_with_the_values_of_the_label_maps(trained: Path, tmp_path: Path):
    bundle = export_run(trained, tmp_path / "model")
    assert [label.value for label in bundle.labels] == [3, 14, 42]
    assert bundle.mirror == ()


def test_the_preview_shows_windows_with_outlines_and_trains_nothing(
    dataset: Path, targets: Path, tmp_path: Path
):
    run = tmp_path / "run"
    words = [str(dataset), "-o", str(run), "--preset", "brain", "--targets", str(targets)]
    assert main(["train", *words, "--preview", "3", "--device", "cpu"]) == 0
    assert [path.name for path in run.iterdir()] == ["preview.png"]
    sheet = sitk.GetArrayFromImage(sitk.ReadImage(str(run / "preview.png")))
    assert sheet.ndim == 3 and sheet.shape[2] == 3
    colored = (sheet.max(-1).astype(int) - sheet.min(-1)) > 60
    assert 0.005 < colored.mean() < 0.5


def test_outlines_lie_on_the_border_inside_a_class(tmp_path: Path):
    labels = torch.zeros(8, 20, 20, dtype=torch.long)
    labels[:, 5:15, 5:15] = 1
    contact_sheet([(torch.rand(1, 8, 20, 20), labels)], 1, 1, "SAR", tmp_path / "a.png")
    sheet = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.png"))).astype(int)
    # Two pixels a voxel; the plain slices are left of the outlined ones, the axial one on top.
    axial = sheet[:40, -40:]
    colored = (axial.max(-1) - axial.min(-1)) > 60
    expected = np.zeros((40, 40), bool)
    expected[10:30, 10:30] = True
    expected[11:29, 11:29] = False
    np.testing.assert_array_equal(colored, expected)


def test_an_unknown_target_is_one_clear_line(dataset: Path, tmp_path: Path, capsys):
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({**DESCRIPTION, "targets": ["nose"]}), encoding="utf-8")
    words = [str(dataset), "-o", str(tmp_path / "run"), "--targets", str(file)]
    assert main(["train", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert "'targets' has names that are not in 'labels': nose" in " ".join(error.split())
    assert not (tmp_path / "run").exists()


def test_a_contrast_that_would_change_nothing_is_refused(
    dataset: Path, targets: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    arguments = ["train", str(dataset), "-o", str(tmp_path / "run"), "--preset", "brain"]
    assert main([*arguments, "--targets", str(targets), "--contrast", "0.5"]) == 2
    assert "leave --contrast out" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()

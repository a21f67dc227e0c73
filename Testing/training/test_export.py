"""From a run to a bundle: the dataset's own values, the largest components, the SAM's file."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from MaskSAMCore import models
from MaskSAMCore.data.dataset import LabelledCase
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.inference import MaskSegmenter, Segmenter
from MaskSAMCore.io import read_volume
from MaskSAMCore.io.files import sha256
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling import build_model
from MaskSAMCore.models.bundle import DESCRIPTION
from MaskSAMCore.presets.small import TINY
from MaskSAMCore.training.export import export_run
from MaskSAMCore.training.fit import FitOptions, fit
from MaskSAMCore.training.run_folder import BEST, RUN_FILE, TrainingRecord, load_weights
from MaskSAMCore.training.validation import Evaluator
from Testing.helpers.networks import SMALL_SAM, small_masksam_config
from Testing.helpers.short_run import QUICK, SMALL, VALUES, write_gapped_dataset
from Testing.helpers.threshold_model import ThresholdModel, plan_for, two_blobs, volume_of


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gapped_dataset(tmp_path_factory.mktemp("gapped") / "data")


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose weights find both classes."""
    run = tmp_path_factory.mktemp("run") / "run"
    options = FitOptions(dataset, run, TINY, device="cpu", workers=0)
    fit(options, lambda _: None, SMALL, QUICK)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def helped(run: Path, values: list[int] | None) -> None:
    """Sets where validation found that the largest component helps."""
    path = run / "validation.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    known.pop("largest_component")
    if values is not None:
        known["largest_component"] = values
    path.write_text(json.dumps(known), encoding="utf-8")


def test_a_run_knows_its_datasets_values_and_figures(trained: Path):
    assert TrainingRecord.load(trained).values == tuple(VALUES.values())
    validation = json.loads((trained / "validation.json").read_text(encoding="utf-8"))
    assert set(validation["largest_component"]) <= set(VALUES.values())
    figures = json.loads((trained / "fingerprint.json").read_text(encoding="utf-8"))
    assert set(figures["cases"]) == set(TrainingRecord.load(trained).split["train"])
    assert figures["foreground_intensities"]["MR0"]["max"] > 100


def test_a_bundle_finds_what_the_runs_weights_find_with_the_datasets_values(
    run: Path, dataset: Path, tmp_path: Path
):
    helped(run, [300])
    bundle = export_run(run, tmp_path / "model")
    assert bundle.largest_component == (300,)
    assert [(label.name, label.value) for label in bundle.labels] == list(VALUES.items())
    record = TrainingRecord.load(run)
    model = load_weights(record, run / BEST)
    with torch.no_grad():
        # As they are stored: matrices in half precision.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half())
    # Two patients side by side: two components of each class.
    one = read_volume(dataset / "imagesTr/case_00_0000.nii.gz")
    volume = Volume(np.concatenate([one.array, one.array], axis=1), one.ijk_to_ras)

    def found(largest: tuple[int, ...]) -> np.ndarray:
        labels = [Label(value, name, (1, 1, 1)) for name, value in VALUES.items()]
        segmenter = MaskSegmenter(
            model,
            record.plan,
            labels,
            device="cpu",
            largest_component=largest,
            background_weight=bundle.background_weight,
            mirror=(0,),
        )
        return segmenter.segment(volume).labelmap

    exported = Segmenter.from_model(tmp_path / "model", device="cpu").segment(volume).labelmap
    assert set(np.unique(exported)) == {0, *VALUES.values()}
    np.testing.assert_array_equal(exported, found((300,)))
    assert (exported != found(())).any()


def test_a_card_decides_over_validation_on_the_largest_components(run: Path, tmp_path: Path):
    helped(run, [300])
    bundle = export_run(run, tmp_path / "one", {"largest_component": [10]})
    assert bundle.largest_component == (10,)
    bundle = export_run(run, tmp_path / "none", {"largest_component": []})
    assert bundle.largest_component == ()


def test_a_run_from_before_values_and_components_were_kept_is_exported(run: Path, tmp_path: Path):
    helped(run, None)
    values = json.loads((run / RUN_FILE).read_text(encoding="utf-8"))
    del values["values"], values["settings"]["epsilon"]
    (run / RUN_FILE).write_text(json.dumps(values), encoding="utf-8")
    bundle = export_run(run, tmp_path / "model")
    assert [label.value for label in bundle.labels] == [1, 2]
    assert bundle.largest_component == ()


def test_the_largest_component_is_kept_for_classes_that_are_better_with_it():
    """Class 1 has a stray piece that is wrong; class 2 has two pieces that are both right."""
    image = two_blobs()
    image[-3:, :3, :3] = 2
    truth = image.astype(np.uint8)
    image[:2, -3:, -3:] = 1
    case = LabelledCase("one", (volume_of(image),), truth)
    evaluator = Evaluator([case], list(VALUES), list(VALUES.values()), plan_for())
    scores = evaluator.score(ThresholdModel(), "cpu")
    assert scores.largest_component == (10,)
    right, wrong = int((truth == 1).sum()), 2 * 3 * 3
    assert scores.dice["Bright"] == pytest.approx(2 * right / (2 * right + wrong))
    assert scores.dice["Dark"] == 1
    clean = LabelledCase("two", (volume_of(truth.astype(np.float32)),), truth)
    evaluator = Evaluator([clean], list(VALUES), list(VALUES.values()), plan_for())
    assert evaluator.score(ThresholdModel(), "cpu").largest_component == ()


def test_the_background_weighs_more_where_that_is_better(run: Path, tmp_path: Path):
    """Around the class lies a rim that looks a little more like it than like the background."""
    image = two_blobs()
    truth = image.astype(np.uint8)
    image[:, :3][truth[:, :3] == 0] = 0.55
    case = LabelledCase("one", (volume_of(image),), truth)
    evaluator = Evaluator([case], list(VALUES), list(VALUES.values()), plan_for())
    scores = evaluator.score(ThresholdModel(), "cpu")
    # Enough for 0.45 to win over 0.55, and no more.
    assert scores.background_weight == 1.5
    assert scores.dice["Bright"] < 0.9, "the weight must not hide how the network itself does"
    clean = LabelledCase("two", (volume_of(truth.astype(np.float32)),), truth)
    evaluator = Evaluator([clean], list(VALUES), list(VALUES.values()), plan_for())
    assert evaluator.score(ThresholdModel(), "cpu").background_weight == 1.0

    path = run / "validation.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**known, "background_weight": 1.5}), encoding="utf-8")
    export_run(run, tmp_path / "model")
    assert models.load_bundle(tmp_path / "model").background_weight == 1.5
    assert Segmenter.from_model(tmp_path / "model", device="cpu").settings.background_weight == 1.5
    export_run(run, tmp_path / "other", {"background_weight": 1.2})
    assert models.load_bundle(tmp_path / "other").background_weight == 1.2
    for wrong in (0, None, "big", float("nan")):
        with pytest.raises(MaskSAMError, match="card cannot be used: background_weight"):
            export_run(run, tmp_path / "other", {"background_weight": wrong}, overwrite=True)
    assert models.load_bundle(tmp_path / "other").background_weight == 1.2
    described = tmp_path / "other" / "masksam.json"
    values = json.loads(described.read_text(encoding="utf-8"))
    described.write_text(json.dumps({**values, "background_weight": 0}), encoding="utf-8")
    with pytest.raises(MaskSAMError, match="background_weight 0 is not a number"):
        models.load_bundle(tmp_path / "other")


def test_a_bundle_takes_the_sam_it_was_trained_beside_only(tmp_path: Path):
    config = small_masksam_config(sam=dataclasses.replace(SMALL_SAM, name="vit_b", frozen=True))
    right, wrong = tmp_path / "sam.pth", tmp_path / "other.pth"
    for path in (right, wrong):
        torch.save(build_model(config).sam.state_dict(), path)
    labels = (Label(1, "One", (1, 0, 0)), Label(2, "Two", (0, 1, 0)))
    model = build_model(config)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("sam.")}
    bundle = models.save_bundle(
        tmp_path / "model",
        "beside",
        "Beside",
        state,
        config,
        plan_for(window=config.window),
        labels,
        sam_sha256=sha256(right),
    )
    assert bundle.sam_sha256 == sha256(right)
    bundle.build(right)
    with pytest.raises(MaskSAMError, match=f"{sha256(wrong)}, and must be {sha256(right)}"):
        bundle.build(wrong)
    with pytest.raises(MaskSAMError, match="cannot be read"):
        bundle.build(tmp_path / "absent.pth")
    # Bundles from before take any SAM that fits.
    path = tmp_path / "model" / DESCRIPTION
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["sam_sha256"]
    path.write_text(json.dumps(values), encoding="utf-8")
    older = models.load_bundle(tmp_path / "model")
    assert older.sam_sha256 is None
    older.build(wrong)

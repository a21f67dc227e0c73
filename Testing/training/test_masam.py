"""MA-SAM from end to end: training, resuming, export and segmentation."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling import MASam, MASamConfig, build_model
from MaskSAMCore.presets.masam import MASAM_TINY
from MaskSAMCore.training.export import export_run
from MaskSAMCore.training.fit import FitOptions, fit
from MaskSAMCore.training.run_folder import RUN_FILE, TrainingRecord
from Testing.helpers.short_run import (
    QUICK,
    SHORT,
    SMALL,
    assert_boxes_bound_their_class,
    checkpoint,
    dice_of,
    write_gapped_dataset,
)

SMALL_MASAM = {"window": (5, 28, 32), "sam": SMALL["sam"], "rank": 4, "adapter_dim": 16}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a larger dataset than in other tests, because MA-SAM learns less from few cases."""
    return write_gapped_dataset(tmp_path_factory.mktemp("dataset") / "data", 8)


@pytest.fixture(scope="module")
def masam(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("masam") / "run"
    options = FitOptions(dataset, run, MASAM_TINY, device="cpu", workers=0)
    settings = {**QUICK, "iterations": 240, "learning_rate": 2e-3}
    fit(options, lambda _: None, SMALL_MASAM, settings)
    return run


def test_training_reaches_a_dice_that_an_untrained_model_cannot(masam: Path, dataset: Path):
    assert dice_of(masam, dataset) > 0.7
    assert dice_of(masam, dataset, trained=False) < 0.4


def test_a_run_keeps_its_five_slices_and_its_network(masam: Path):
    record = TrainingRecord.load(masam)
    assert isinstance(record.config, MASamConfig)
    assert record.config.num_classes == 2 and record.config.window[0] == 5
    assert record.plan.window == record.config.window
    assert '"network": "masam"' in (masam / RUN_FILE).read_text(encoding="utf-8")


def test_an_exported_model_segments_and_its_boxes_bound_their_class(
    masam: Path, dataset: Path, tmp_path: Path
):
    bundle = export_run(masam, tmp_path / "model")
    assert bundle.config == TrainingRecord.load(masam).config
    assert_boxes_bound_their_class(masam, dataset, tmp_path / "model")


def test_a_training_continues(masam: Path, dataset: Path, tmp_path: Path):
    run = Path(shutil.copytree(masam, tmp_path / "run"))
    record = TrainingRecord.load(run)
    iterations = record.settings.iterations + 1
    dataclasses.replace(record, settings=record.settings.replace(iterations=iterations)).save(run)
    fit(FitOptions(dataset, run, resume=True, device="cpu", workers=0), lambda _: None)
    assert TrainingRecord.load(run).preset == "masam_tiny"
    assert checkpoint(run)["global_step"] == iterations


def test_a_frozen_sam_is_not_changed_by_training_nor_kept_in_the_bundle(
    dataset: Path, tmp_path: Path
):
    changes = {**SMALL_MASAM, "sam": dataclasses.replace(SMALL["sam"], name="vit_b", frozen=True)}
    small = MASamConfig(2, window=(5, 28, 32), sam=changes["sam"], pixels=None)
    torch.manual_seed(3)
    sam = build_model(small).sam
    file = tmp_path / "sam.pth"
    torch.save(sam.state_dict(), file)
    run = tmp_path / "run"
    options = FitOptions(dataset, run, MASAM_TINY, device="cpu", workers=0, sam_checkpoint=file)
    settings = {**SHORT, "iterations": 2, "learning_rate": 0.01, "warm_up": 0}
    fit(options, lambda _: None, changes, settings)
    bundle = export_run(run, tmp_path / "model")
    model = bundle.build(file)
    assert isinstance(model, MASam)
    for name, value in model.sam.image_encoder.state_dict().items():
        assert torch.equal(value, sam.image_encoder.state_dict()[name]), name
    decoder = model.sam.mask_decoder.transformer.state_dict()
    before = sam.mask_decoder.transformer.state_dict()
    assert any(
        not torch.equal(value.half(), before[name].half()) for name, value in decoder.items()
    )
    with pytest.raises(MaskSAMError, match="needs SAM vit_b"):
        bundle.build()


def test_a_change_that_does_not_fit_the_network_is_refused(tmp_path: Path):
    options = FitOptions(tmp_path / "data", tmp_path / "run", MASAM_TINY, device="cpu")
    with pytest.raises(MaskSAMError, match="preset 'masam_tiny' cannot be changed"):
        fit(options, lambda _: None, {"queries": 3})
    assert not (tmp_path / "run").exists()

"""The U-Net from end to end: training, export and segmentation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.research.presets import UNET
from MaskSAMCore.research.unet.config import UNetConfig
from MaskSAMCore.training.export import export_run
from MaskSAMCore.training.fit import FitOptions, fit
from MaskSAMCore.training.run_folder import TrainingRecord
from Testing.helpers.short_run import (
    assert_boxes_bound_their_class,
    dice_of,
    write_gapped_dataset,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gapped_dataset(tmp_path_factory.mktemp("dataset") / "data", 8)


@pytest.fixture(scope="module")
def unet(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("unet") / "run"
    options = FitOptions(dataset, run, UNET, device="cpu", workers=0)
    network = {"window": (16, 32, 32), "features": 8}
    fit(options, lambda _: None, network, {"iterations": 300, "augmentation": 0.3})
    return run


def test_training_reaches_a_dice_that_an_untrained_model_cannot(unet: Path, dataset: Path):
    assert dice_of(unet, dataset) > 0.7
    assert dice_of(unet, dataset, trained=False) < 0.4


def test_a_run_fits_its_stages_to_the_dataset(unet: Path):
    record = TrainingRecord.load(unet)
    assert isinstance(record.config, UNetConfig)
    assert record.config.window == record.plan.window
    assert len(record.config.strides) >= 3


def test_an_exported_model_segments_and_its_boxes_bound_their_class(
    unet: Path, dataset: Path, tmp_path: Path
):
    bundle = export_run(unet, tmp_path / "model")
    assert bundle.config == TrainingRecord.load(unet).config
    assert_boxes_bound_their_class(unet, dataset, tmp_path / "model")


def test_a_bundle_whose_network_needs_an_absent_package_names_what_to_install(
    unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bundle = export_run(unet, tmp_path / "model")
    name = "dynamic_network_architectures.architectures.unet"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MaskSAMError, match=r"cannot be built.*pip install masksam\[train\]"):
        bundle.build()

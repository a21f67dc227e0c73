"""A new network is one folder: nothing else is edited to train, export and use it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import MaskSAMCore.research
from MaskSAMCore.inference import Segmenter
from MaskSAMCore.io import read_volume
from MaskSAMCore.modeling import build_model, read_config
from MaskSAMCore.modeling.registry import network_package
from MaskSAMCore.training.export import export_run
from MaskSAMCore.training.fit import FitOptions, fit
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.losses import find_loss
from MaskSAMCore.training.preset import Preset
from MaskSAMCore.training.run_folder import TrainingRecord
from Testing.helpers.generated import write_dataset

FOLDER = Path(__file__).parent.parent / "helpers/new_network"


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Add the folder of the network ``toy`` to the package path of MaskSAMCore.research."""
    paths = [*MaskSAMCore.research.__path__, str(FOLDER)]
    monkeypatch.setattr(MaskSAMCore.research, "__path__", paths)
    yield "toy"
    for name in [name for name in sys.modules if name.startswith("MaskSAMCore.research.toy")]:
        del sys.modules[name]
    del MaskSAMCore.research.toy


def test_a_network_is_found_by_the_name_of_its_folder(toy: str) -> None:
    config = read_config({"network": toy, "num_classes": 2, "window": [2, 8, 8], "kernel": 1})
    assert config.window == (2, 8, 8) and config.to_dict()["network"] == toy
    model = build_model(config)
    assert model.sam is None and model.kept_names() == ["convolution.weight", "convolution.bias"]


def test_a_new_network_is_trained_exported_and_used(toy: str, tmp_path: Path) -> None:
    loss = find_loss(toy).LossSettings(weight=0.5)
    training = TrainSettings(iterations=3, warm_up=0, loss=loss)
    preset = Preset("toy", network_package(toy).Config(num_classes=1), training)
    dataset, run = write_dataset(tmp_path / "data", cases=3), tmp_path / "run"
    fit(FitOptions(dataset, run, preset, device="cpu", workers=0), lambda _: None)
    record = TrainingRecord.load(run)
    assert record.settings == training and record.config.num_classes == 2
    export_run(run, tmp_path / "model")
    volume = read_volume(dataset / "imagesTr/case_00_0000.nii.gz")
    result = Segmenter.from_model(tmp_path / "model", device="cpu").segment(volume)
    assert result.labelmap.shape == volume.array.shape

"""Files of a run: records and weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling import build_model
from MaskSAMCore.training.run_folder import (
    RUN_FILE,
    TrainingRecord,
    load_initial_weights,
    save_weights,
)
from Testing.helpers.networks import small_masksam_config


def test_a_record_survives_saving_and_loading(trained: Path, tmp_path: Path):
    record = TrainingRecord.load(trained)
    record.save(tmp_path)
    assert TrainingRecord.load(tmp_path) == record


def test_a_damaged_record_is_refused(tmp_path: Path):
    (tmp_path / RUN_FILE).write_text('{"classes": ["One"]}', encoding="utf-8")
    with pytest.raises(MaskSAMError, match=r"run\.json is damaged"):
        TrainingRecord.load(tmp_path)


def test_a_folder_without_weights_is_no_start_of_a_training(tmp_path: Path):
    with pytest.raises(MaskSAMError, match="holds no weights to start from"):
        load_initial_weights(build_model(small_masksam_config()), tmp_path)


def test_weights_of_another_network_are_refused(tmp_path: Path):
    save_weights(build_model(small_masksam_config()), tmp_path / "best.safetensors", {})
    wider = build_model(small_masksam_config(head_channels=24))
    with pytest.raises(MaskSAMError, match=r"weights of another network: generator\.box_head"):
        load_initial_weights(wider, tmp_path)


def test_a_damaged_file_of_weights_is_refused(tmp_path: Path):
    (tmp_path / "weights.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(MaskSAMError, match=r"weights\.safetensors cannot be read"):
        load_initial_weights(build_model(small_masksam_config()), tmp_path)

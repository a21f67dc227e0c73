"""Files of a run: records and weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling import build_model
from MaskSAMCore.training.run_folder import (
    BEST,
    RUN_FILE,
    TrainingRecord,
    load_weights,
    save_weights,
)
from Testing.helpers.json_documents import changed, read_or_refuse
from Testing.helpers.networks import small_masksam_config


def test_a_record_survives_saving_and_loading(trained: Path, tmp_path: Path):
    record = TrainingRecord.load(trained)
    record.save(tmp_path)
    assert TrainingRecord.load(tmp_path) == record


def test_a_damaged_record_is_refused(tmp_path: Path):
    (tmp_path / RUN_FILE).write_text('{"classes": ["One"]}', encoding="utf-8")
    with pytest.raises(MaskSAMError, match=r"run\.json is damaged"):
        TrainingRecord.load(tmp_path)


def test_half_written_weights_are_refused(trained: Path, tmp_path: Path):
    record = TrainingRecord.load(trained)
    content = (trained / BEST).read_bytes()
    (tmp_path / BEST).write_bytes(content[: len(content) // 2])
    with pytest.raises(MaskSAMError, match=r"best\.safetensors cannot be read: it is damaged"):
        load_weights(record, tmp_path / BEST)
    save_weights(build_model(small_masksam_config(head_channels=24)), tmp_path / BEST, {})
    with pytest.raises(MaskSAMError, match="does not fit the run's network"):
        load_weights(record, tmp_path / BEST)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_record_is_read_or_refused(
    data: st.DataObject, trained: Path, tmp_path_factory: pytest.TempPathFactory
):
    document = data.draw(changed(json.loads((trained / RUN_FILE).read_text(encoding="utf-8"))))
    folder = tmp_path_factory.getbasetemp() / "any-run"
    folder.mkdir(exist_ok=True)
    read_or_refuse(document, folder / RUN_FILE, lambda path: TrainingRecord.load(path.parent))

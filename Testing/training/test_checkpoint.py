"""Checkpoints that a training continues from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.training.checkpoint import (
    CHECKPOINTS,
    Checkpoint,
    checkpoint_path,
    is_stopped,
    newest_checkpoint,
    next_restart,
    resumed_checkpoint,
)

STATE = {"global_step": 7, "masksam": {"minutes": 1.5, "restarts": 2, "averaged": torch.ones(3)}}


def test_a_checkpoint_tells_how_far_a_training_came(tmp_path: Path):
    path = tmp_path / CHECKPOINTS[1]
    torch.save({**STATE, "masksam": {**STATE["masksam"], "stopped": True}}, path)
    found = newest_checkpoint(tmp_path)
    assert found == Checkpoint(path, iteration=7, minutes=1.5, restarts=2, stopped=True)
    assert next_restart(found) == 3 and checkpoint_path(found) == path and is_stopped(tmp_path)


def test_a_training_without_a_checkpoint_begins(tmp_path: Path):
    assert newest_checkpoint(tmp_path) is None and not is_stopped(tmp_path)
    assert next_restart(None) == 0 and checkpoint_path(None) is None


def test_the_older_checkpoint_is_taken_if_the_newer_one_is_damaged(tmp_path: Path):
    older, newer = (tmp_path / name for name in CHECKPOINTS)
    torch.save(STATE, older)
    newer.write_bytes(older.read_bytes()[:200])
    os.utime(older, (1, 1))
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.path == older and not found.stopped
    assert resumed_checkpoint(tmp_path) == found
    older.write_bytes(b"")
    assert newest_checkpoint(tmp_path) is None


def test_the_newest_checkpoint_of_a_copied_run_is_found(tmp_path: Path):
    """Copies of files have times in the order in which they were copied."""
    newer, older = (tmp_path / name for name in CHECKPOINTS)
    torch.save({**STATE, "global_step": 9}, newer)
    torch.save(STATE, older)
    os.utime(newer, (1, 1))
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.path == newer and found.iteration == 9
    # A resumed part is newer than all iterations of the earlier parts.
    torch.save({**STATE, "masksam": {**STATE["masksam"], "restarts": 3}}, older)
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.path == older


def test_a_training_does_not_begin_again_by_itself_where_its_checkpoints_are_damaged(
    tmp_path: Path,
):
    assert resumed_checkpoint(tmp_path) is None
    for name in CHECKPOINTS:
        (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(MaskSAMError, match=" and ".join(CHECKPOINTS)):
        resumed_checkpoint(tmp_path)

"""Embeddings in memory, and in files beyond the memory limit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from MaskSAMCore.inference import embedding_cache as embeddings
from MaskSAMCore.inference.embedding_cache import (
    EmbeddingCache,
    copy_window,
    map_tensors,
    size_in_bytes,
)
from MaskSAMCore.modeling import BoxPrompts
from MaskSAMCore.modeling.masksam.network import MaskSAMEmbedding
from MaskSAMCore.modeling.masksam.prompt_generator import Proposals
from Testing.helpers.paths import ROOT

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch) -> None:
    """Make ``tmp_path`` the temporary folder of the process."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def some_embedding() -> MaskSAMEmbedding:
    proposals = Proposals(torch.rand(1, 3), torch.rand(1, 4), torch.zeros(0, 2))
    return MaskSAMEmbedding([torch.rand(1, 7, 5), torch.arange(4)[None]], proposals)


def assert_equal(one: MaskSAMEmbedding, other: MaskSAMEmbedding) -> None:
    for a, b in zip(one.features, other.features, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    for name in ("masks", "boxes", "class_tokens"):
        assert torch.equal(getattr(one.proposals, name), getattr(other.proposals, name))


def test_embeddings_beyond_the_limit_are_read_back_unchanged(tmp_path: Path):
    cache = EmbeddingCache(limit=300)
    stored = [some_embedding() for _ in range(3)]
    for key, embedding in enumerate(stored):
        cache.put(key, embedding)
    assert 0 < cache.used <= 300 and cache.spilled == 2 * cache.used
    assert len(list(tmp_path.rglob("*.npy"))) == 2 * 5
    for key, embedding in enumerate(stored):
        assert_equal(cache.get(key, CPU), embedding)
    cache.get(1, CPU).features[0].zero_()  # changing a copy does not change the file
    assert_equal(cache.get(1, CPU), stored[1])
    cache.clear()
    assert cache.used == cache.spilled == len(cache) == 0
    assert list(tmp_path.iterdir()) == []


def test_the_files_are_private_and_contain_no_pickle(tmp_path: Path):
    cache = EmbeddingCache(limit=1)
    cache.put(0, some_embedding())
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or path.suffix == ".npy"
        assert not path.is_file() or b"pickle" not in path.read_bytes()
    if sys.platform != "win32":
        (folder,) = tmp_path.iterdir()
        assert folder.stat().st_mode & 0o077 == 0


def test_a_limit_of_zero_keeps_nothing(tmp_path: Path):
    cache = EmbeddingCache(limit=0)
    cache.put(0, some_embedding())
    assert cache.get(0, CPU) is None
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_to_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(embeddings.shutil, "disk_usage", lambda _: usage(0, 0, 1 << 30))
    cache = EmbeddingCache(limit=1)
    cache.put(0, some_embedding())
    assert cache.get(0, CPU) is None and len(cache) == 0


@pytest.mark.parametrize(("most", "kept"), [(2, 2), (None, 3)])
def test_the_size_of_all_files_may_be_limited(tmp_path: Path, most: int | None, kept: int):
    size = size_in_bytes(some_embedding())
    cache = EmbeddingCache(limit=1, spill_limit=None if most is None else most * size)
    for key in range(3):
        cache.put(key, some_embedding())
    assert [cache.get(key, CPU) is not None for key in range(3)] == [True, True, kept == 3]
    assert cache.spilled == kept * size


def test_a_missing_folder_or_a_deleted_file_counts_as_no_embedding(tmp_path: Path, monkeypatch):
    with monkeypatch.context() as changed:
        changed.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
        missing = EmbeddingCache(limit=1)
        missing.put(0, some_embedding())
        assert missing.get(0, CPU) is None
    cache = EmbeddingCache(limit=1)
    cache.put(0, some_embedding())
    (folder,) = tmp_path.iterdir()
    shutil.rmtree(folder)
    assert cache.get(0, CPU) is None and len(cache) == 0


ENDINGS = """
import os, sys, tempfile
from pathlib import Path
import torch
from MaskSAMCore.inference.embedding_cache import EmbeddingCache

tempfile.tempdir = sys.argv[1]
for ending in ("pass", "raise SystemExit(3)", "1 / 0"):
    if os.fork() == 0:
        cache = EmbeddingCache(1)
        cache.put(0, torch.ones(9))
        assert list(Path(sys.argv[1]).rglob("*.npy"))
        print(ending, flush=True)
        exec(ending)
        break
    os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_a_process_that_ends_without_clearing_leaves_no_file(tmp_path: Path):
    """The process ends normally, exits, or fails."""
    command = [sys.executable, "-c", ENDINGS, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["pass", "raise SystemExit(3)", "1 / 0"]
    assert list(tmp_path.iterdir()) == []


def embedding_of(batch):
    features = [torch.rand(batch, 3), torch.rand(batch, 2)]
    proposals = Proposals(torch.rand(batch, 1), torch.rand(batch, 4), torch.rand(batch, 5))
    return MaskSAMEmbedding(features, proposals)


def test_one_window_of_a_batch_is_copied_whatever_the_structure():
    whole = embedding_of(3)
    one = copy_window(whole, 1)
    assert isinstance(one, MaskSAMEmbedding)
    torch.testing.assert_close(one.features[1], whole.features[1][1:2])
    torch.testing.assert_close(one.proposals.boxes, whole.proposals.boxes[1:2])
    whole.proposals.boxes.zero_()
    assert one.proposals.boxes.any()
    assert size_in_bytes(one) == 4 * (3 + 2 + 1 + 4 + 5)


def test_tensors_in_named_tuples_and_mappings_are_mapped():
    prompts = BoxPrompts(torch.ones(1, 2), torch.ones(1), torch.ones(1))
    doubled = map_tensors({"a": prompts, "b": (None, "text", 3)}, lambda t: 2 * t)
    assert isinstance(doubled["a"], BoxPrompts)
    assert doubled["a"].boxes.sum() == 4
    assert doubled["b"] == (None, "text", 3)

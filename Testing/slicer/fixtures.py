"""Fixtures of the module's tests: a person's models, the logic over real worker processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from Testing.helpers.paths import KNOWN_WORKER
from Testing.helpers.small_bundle import small_bundle
from Testing.helpers.threshold_model import LABELS, SIDES
from Testing.slicer import module_tools  # noqa: F401  (puts the module's library on the path)


@pytest.fixture(scope="session")
def models_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person's own folder of models, with the small one in it; a name with an umlaut."""
    home = tmp_path_factory.mktemp("hömé")
    small_bundle(home / "models" / "small")
    names = ("threshold", "sided", "coarse", "echo", "slow", "lazy", "deaf", "deadly", "greedy")
    for name in names:
        folder = home / "models" / name
        folder.mkdir()
        labels = [label.to_json() for label in (SIDES if name == "sided" else LABELS)]
        described = {"name": name, "title": name.title(), "labels": labels}
        (folder / "masksam.json").write_text(json.dumps(described))
    # Of boxes alone; the worker of the tests has a small SAM in its place.
    checkpoint = home / "checkpoints" / "anything"
    checkpoint.mkdir(parents=True)
    (checkpoint / "checkpoint.pth").write_bytes(b"not read")
    described = {"name": "anything", "title": "Anything", "licence": "none", "sha256": "0" * 64}
    described |= {"format_version": 1, "architecture": "vit_b", "preparation": "sam", "page": ""}
    (checkpoint / "checkpoint.json").write_text(json.dumps(described))
    return home


@pytest.fixture
def logic(application, scene, models_home, monkeypatch):
    """The module's logic over a real worker."""
    monkeypatch.setenv("MASKSAM_HOME", str(models_home))
    from MaskSAMSlicerLib.logic import SegmentationLogic

    logic = SegmentationLogic()
    yield logic
    logic.close()


@pytest.fixture
def known(logic):
    """The same over a real worker with networks whose answers are known."""
    from MaskSAMSlicerLib.worker.client import WorkerClient

    # It imports PyTorch before it greets, which on a loaded machine takes long.
    logic._client = WorkerClient(command=KNOWN_WORKER, hang_seconds=300.0)
    return logic

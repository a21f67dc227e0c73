"""Workers that all tests of this folder share, because each start imports PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from Testing.helpers.paths import KNOWN_WORKER, ROOT
from Testing.helpers.small_bundle import small_bundle
from Testing.helpers.worker_tools import UNICODE_NAMES, WorkerClient, known_model


@pytest.fixture(scope="session")
def client() -> Iterator[WorkerClient]:
    """Client of the shipped worker."""
    one = WorkerClient(core_folder=ROOT)
    yield one
    one.close()


@pytest.fixture(scope="session")
def known() -> Iterator[WorkerClient]:
    """Client of a worker that has models with known results."""
    one = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER)
    yield one
    one.close()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundle of a small random network, with a path and class names outside ASCII."""
    return small_bundle(
        tmp_path_factory.mktemp("mödels 模型") / "klein ü 小", class_names=UNICODE_NAMES
    )


@pytest.fixture
def threshold(tmp_path: Path) -> Path:
    """Folder of a known model without special behaviour."""
    return known_model(tmp_path, "threshold")

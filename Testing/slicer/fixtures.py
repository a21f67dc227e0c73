"""Fixtures for tests of the module: the user's models, and logic with real worker processes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from Testing.helpers.paths import KNOWN_WORKER, LAUNCHER, ROOT
from Testing.helpers.time_limits import LONG
from Testing.slicer import helpers  # noqa: F401  (puts the module's library on the path)
from Testing.slicer.models import write_models

# The worker starts through a launcher, as in Slicer.
LAUNCHED_WORKER = (*LAUNCHER, *KNOWN_WORKER)
LEARNING_WORKER = (*LAUNCHED_WORKER, "--low-priority")


@pytest.fixture(scope="session")
def models_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the user's folder of models, whose name has umlauts; see ``write_models``."""
    home = tmp_path_factory.mktemp("hömé")
    write_models(home)
    return home


@pytest.fixture(scope="session")
def known_client(application, models_home: Path) -> Iterator:
    """Yield a client, shared by all tests, of a worker that has models with known results."""
    from Testing.slicer.shared_client import SharedClient

    client = SharedClient(models_home, command=LAUNCHED_WORKER)
    yield client
    client.end()


@pytest.fixture(scope="session")
def learning_client(application, models_home: Path) -> Iterator:
    """Yield a client, shared by all tests, of a worker in which learning has known results."""
    from Testing.slicer.shared_client import SharedClient

    client = SharedClient(models_home, command=LEARNING_WORKER, cancel_seconds=3.0)
    yield client
    client.end()


@pytest.fixture
def learnt_models(models_home: Path) -> Iterator[Path]:
    """Yield the folder of the user's models; then remove the models that the test added."""
    folder = models_home / "models"
    before = set(folder.iterdir())
    yield folder
    for path in set(folder.iterdir()) - before:
        shutil.rmtree(path)


@pytest.fixture(scope="session")
def real_client(application, models_home: Path) -> Iterator:
    """Yield a client, shared by all tests, of a worker as it ships."""
    from Testing.slicer.shared_client import SharedClient

    client = SharedClient(models_home, python=sys.executable, core_folder=ROOT)
    yield client
    client.end()


@pytest.fixture
def own_client(application, models_home: Path):
    """Return a function that makes a factory of clients for one test.

    The function takes options of ``WorkerClient``, and the largest size of a file in bytes that the
    disk has space for.
    """
    from MaskSAMSlicerLib.worker.client import WorkerClient

    def factory_for(largest_file: int | None = None, **options: object):
        limit = () if largest_file is None else ("--largest-file", str(largest_file))
        return lambda on_log: WorkerClient(
            command=(*LAUNCHED_WORKER, *limit), on_log=on_log, hang_seconds=LONG, **options
        )

    return factory_for


@pytest.fixture
def logic(scene, models_home: Path, real_client, monkeypatch):
    """Yield the module's logic with a worker as it ships."""
    yield from _logic(real_client, models_home, monkeypatch)


@pytest.fixture
def known(scene, models_home: Path, known_client, monkeypatch):
    """Yield the module's logic with a worker that has models with known results."""
    yield from _logic(known_client, models_home, monkeypatch)


def _logic(client, models_home: Path, monkeypatch):
    from MaskSAMSlicerLib.logic import SegmentationLogic

    monkeypatch.setenv("MASKSAM_HOME", str(models_home))
    logic = SegmentationLogic(client.for_logic)
    yield logic
    logic.close()

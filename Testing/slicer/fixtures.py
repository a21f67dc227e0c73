"""Fixtures for tests of the module: the user's models, and logic with real worker processes."""

from __future__ import annotations

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


@pytest.fixture(scope="session")
def models_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's folder of models, with umlauts in its name; see ``write_models``."""
    home = tmp_path_factory.mktemp("hömé")
    write_models(home)
    return home


@pytest.fixture(scope="session")
def known_client(application, models_home: Path) -> Iterator:
    """Client of a worker that has models with known results; all tests share it."""
    from Testing.slicer.shared_client import SharedClient

    client = SharedClient(models_home, command=LAUNCHED_WORKER)
    yield client
    client.end()


@pytest.fixture(scope="session")
def real_client(application, models_home: Path) -> Iterator:
    """Client of a worker as it ships; all tests share it."""
    from Testing.slicer.shared_client import SharedClient

    client = SharedClient(models_home, python=sys.executable, core_folder=ROOT)
    yield client
    client.end()


@pytest.fixture
def own_client(application, models_home: Path):
    """Factory of clients that one test uses; takes options of ``WorkerClient``."""
    from MaskSAMSlicerLib.worker.client import WorkerClient

    def factory_for(**options: object):
        return lambda on_log: WorkerClient(
            command=LAUNCHED_WORKER, on_log=on_log, hang_seconds=LONG, **options
        )

    return factory_for


@pytest.fixture
def logic(scene, models_home: Path, real_client, monkeypatch):
    """The module's logic with a worker as it ships."""
    yield from _logic(real_client, models_home, monkeypatch)


@pytest.fixture
def known(scene, models_home: Path, known_client, monkeypatch):
    """The module's logic with a worker that has models with known results."""
    yield from _logic(known_client, models_home, monkeypatch)


def _logic(client, models_home: Path, monkeypatch):
    from MaskSAMSlicerLib.logic import SegmentationLogic

    monkeypatch.setenv("MASKSAM_HOME", str(models_home))
    logic = SegmentationLogic(client.for_logic)
    yield logic
    logic.close()

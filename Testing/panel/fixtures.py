"""Fixtures of the real panel, opened as in the application, and of its simulated user."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from Testing import host
from Testing.panel.helpers import User
from Testing.slicer.helpers import MODULE


@pytest.fixture
def open_panel(
    application, scene, models_home: Path, monkeypatch
) -> Iterator[Callable[[Callable], User]]:
    """Function that opens the panel with given client factories and returns its simulated user."""
    monkeypatch.setenv("MASKSAM_HOME", str(models_home))

    def open_over(client_factory: Callable, learning_factory: Callable | None = None) -> User:
        from MaskSAMSlicerLib.learning import LearningLogic
        from MaskSAMSlicerLib.logic import SegmentationLogic

        host.load_module(MODULE)
        module = sys.modules["MaskSAMSlicer"]
        learning = None if learning_factory is None else LearningLogic(learning_factory)
        logic = partial(module.MaskSAMSlicerLogic, SegmentationLogic(client_factory), learning)
        monkeypatch.setattr(module, "MaskSAMSlicerLogic", logic)
        return User(host.select_module("MaskSAMSlicer"))

    yield open_over
    if application.moduleManager().isLoaded("MaskSAMSlicer"):
        host.unload_module("MaskSAMSlicer")


@pytest.fixture
def user(open_panel, known_client) -> User:
    """User of a panel whose worker has models with known results."""
    return open_panel(known_client.for_logic)


@pytest.fixture
def user_of_real_models(open_panel, real_client) -> User:
    """User of a panel with the shipped worker."""
    return open_panel(real_client.for_logic)


@pytest.fixture
def views(scene) -> Iterator[dict]:
    """Slice views and a 3D view, by name."""
    yield host.open_views()
    host.close_views()

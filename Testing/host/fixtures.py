"""Fixtures for pytest; a conftest.py imports them::

from Testing.host.fixtures import application, scene  # noqa: F401
from Testing.host.fixtures import ignored_without_slicer

collect_ignore_glob = ignored_without_slicer()
"""

from __future__ import annotations

import importlib.util

import pytest

from Testing import host

host.prepare_environment()


def ignored_without_slicer() -> list[str]:
    """The tests that cannot run here: all of a folder's, where slicer-core or PySide6 is absent."""
    absent = any(importlib.util.find_spec(name) is None for name in ("slicer_core", "PySide6"))
    return ["test_*.py"] if absent else []


@pytest.fixture(scope="session")
def application():
    """``slicer.app``, one for all tests of the process; it quits after the last of them."""
    yield host.start()
    host.quit_application()


@pytest.fixture
def scene(application):
    """``slicer.mrmlScene``, empty; afterwards no slot, timer or observer may have raised.

    A test that provokes such an error takes it out of ``host.errors`` itself.
    """
    import slicer

    host.close_scene()
    host.messages.clear()
    host.errors.clear()
    yield slicer.mrmlScene
    application.processEvents()
    host.close_scene()
    host.messages.clear()
    errors, host.errors[:] = list(host.errors), []
    assert not errors, f"raised outside the test's own calls: {errors!r}"

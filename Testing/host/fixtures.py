"""pytest fixtures of the application and its scene; a conftest.py imports them.

::

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
    """Return the pattern of tests to ignore: all of them if slicer-core or PySide6 is missing."""
    absent = any(importlib.util.find_spec(name) is None for name in ("slicer_core", "PySide6"))
    return ["test_*.py"] if absent else []


@pytest.fixture(scope="session")
def application():
    """Start ``slicer.app`` for all tests of the process; it quits after the last of them."""
    yield host.start()
    host.quit_application()


@pytest.fixture
def scene(application):
    """Return the empty ``slicer.mrmlScene``; fail if a slot, timer or observer raised.

    A test that expects such an error removes it from ``host.errors``.
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
    assert not errors, f"a slot, timer or observer raised {errors!r}"

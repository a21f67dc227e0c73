"""Settings of every test run: a folder for temporary files and caches, and data made only once."""

from __future__ import annotations

import locale
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

_VARIABLE = "MASKSAM_TEST_TEMPORARY"
# Subfolder for the caches of libraries, whose files do not count as left behind.
_CACHES = "caches"
_LOCALE = locale.setlocale(locale.LC_ALL)


def pytest_configure(config: pytest.Config) -> None:
    """Create the temporary folder of this run, and set it for this process and its children."""
    if _VARIABLE in os.environ:  # pytest-xdist has started this process
        return
    # The folders of tmp_path stay in the system's temporary folder, where pytest keeps recent runs.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix="masksam-tests-"))
    (folder / _CACHES).mkdir()
    os.environ[_VARIABLE] = str(folder)
    for name in ("TMPDIR", "TEMP", "TMP"):
        os.environ[name] = str(folder)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / _CACHES / "torchinductor")
    tempfile.tempdir = None
    config.stash[_RUN_FOLDER] = folder


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Restore the locale: Slicer's DICOM readers set "C", in which Python reads text as ASCII."""
    locale.setlocale(locale.LC_ALL, _LOCALE)


_RUN_FOLDER = pytest.StashKey[Path]()
_LEFT_BEHIND = pytest.StashKey[list[str]]()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if a test left a file or a folder in the temporary folder."""
    folder = session.config.stash.get(_RUN_FOLDER, None)
    if folder is None:
        return
    left = sorted(path.name for path in folder.iterdir() if path.name != _CACHES)
    session.config.stash[_LEFT_BEHIND] = left
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    left = config.stash.get(_LEFT_BEHIND, [])
    if left:
        terminalreporter.section("left in the temporary folder", red=True)
        for name in left:
            terminalreporter.line(name)


def pytest_unconfigure(config: pytest.Config) -> None:
    folder = config.stash.get(_RUN_FOLDER, None)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that creates a folder by name, which only the first test process fills."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        target, ready = folder / name, folder / f"{name}.ready"
        with FileLock(folder / f"{name}.lock"):
            if not ready.exists():
                target.mkdir()
                fill(target)
                ready.touch()
        return target

    return make

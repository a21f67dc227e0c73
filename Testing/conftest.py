"""Settings of every test run: temporary files and caches live in a folder of the run, and what is
slow to make is made once for all its processes."""

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
# Caches that libraries keep beyond a run; they lie inside the run's folder and count as clean.
_CACHES = "caches"
_LOCALE = locale.setlocale(locale.LC_ALL)


def pytest_configure(config: pytest.Config) -> None:
    """Give this process and the processes that it starts a temporary folder of this run."""
    if _VARIABLE in os.environ:  # pytest-xdist has started this process
        return
    # The folders of tmp_path stay where pytest keeps those of the latest runs.
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
    """Restore the locale: Slicer's DICOM readers leave "C", in which Python reads text as ASCII."""
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
    """Function that returns a folder of a name and fills it in the first test process only."""
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

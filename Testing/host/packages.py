"""Replacement for ``slicer.packaging`` that checks requirements and only records installations.

``requests`` lists the requested installations. A test may queue a function in ``installers``; it is
called with the requirements of the next installation.
"""

from __future__ import annotations

import importlib.metadata
from collections import deque
from pathlib import Path

from packaging.requirements import Requirement

requests: list[tuple[str, list[str]]] = []
installers: deque = deque()


def load_requirements(path):
    """Return the requirements of a requirements.txt file."""
    lines = (line.split("#")[0].strip() for line in Path(path).read_text("utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def pip_check(requirements, **_):
    """Return whether this interpreter meets all requirements."""
    for requirement in _listed(requirements):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            return False
        if not requirement.specifier.contains(version, prereleases=True):
            return False
    return True


def pip_ensure(
    requirements,
    constraints=None,
    skip_packages=None,
    prompt_install=True,
    prompt_restart=True,
    requester=None,
    skip_in_testing=True,
    show_progress=True,
):
    """Record the installation of the missing requirements."""
    if skip_packages:
        raise AssertionError("skip_packages rewrites the metadata of other packages")
    missing = [r for r in _listed(requirements) if not pip_check([r])]
    if missing:
        _install("ensure", missing)


def pip_install(requirements, **_):
    """Record an installation."""
    _install("install", _listed(requirements))


def pip_uninstall(requirements, **_):
    """Record a removal."""
    _install("uninstall", _listed(requirements))


def isPipInstallInProgress():
    """Return False: an installation has ended when its function returns."""
    return False


def _listed(requirements):
    if isinstance(requirements, str):
        requirements = [part for part in requirements.split() if not part.startswith("-")]
    if isinstance(requirements, Requirement):
        requirements = [requirements]
    return [r if isinstance(r, Requirement) else Requirement(r) for r in requirements]


def _install(what, requirements):
    names = [str(requirement) for requirement in requirements]
    requests.append((what, names))
    if installers:
        installers.popleft()(names)

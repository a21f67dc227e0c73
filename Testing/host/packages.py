"""A stand-in for ``slicer.packaging``: checks are real, installations are written down only.

``requests`` lists what a module wanted to install. What an installation would bring is a test's
business: put a function into ``installers``, and it is called with the requirements.
"""

from __future__ import annotations

import importlib.metadata
from collections import deque
from pathlib import Path

from packaging.requirements import Requirement

requests: list[tuple[str, list[str]]] = []
installers: deque = deque()


def load_requirements(path):
    """The requirements in a requirements.txt file."""
    lines = (line.split("#")[0].strip() for line in Path(path).read_text("utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def pip_check(requirements, **_):
    """Whether all requirements are met in this interpreter."""
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


def pip_ensure(requirements, constraints=None, prompt=True, requester=None, skip_packages=None,
               **_):  # fmt: skip
    """Install what is missing."""
    missing = [r for r in _listed(requirements) if not pip_check([r])]
    if missing:
        _install("ensure", missing)


def pip_install(requirements, **_):
    """Install."""
    _install("install", _listed(requirements))


def pip_uninstall(requirements, **_):
    """Uninstall."""
    _install("uninstall", _listed(requirements))


def isPipInstallInProgress():
    """Never: an installation here is over when its function returns."""
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

"""Imports, declared requirements and packaged files of the package as a whole.

Contracts in ``pyproject.toml``, which ``make check`` enforces, state which module may import which.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import MaskSAMCore
from MaskSAMCore.resources import resources
from Testing.helpers.paths import ROOT

_PACKAGE = ROOT / "MaskSAMCore"
_HEAVY = ("torch", "SimpleITK", "scipy", "lightning", "matplotlib", "monai")


def _loaded_packages(program: str) -> set[str]:
    """Return the top-level packages that a new interpreter has loaded after a program."""
    show = "\nimport sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", program + show], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_no_heavy_dependency() -> None:
    program = "from MaskSAMCore import Box, Cancelled, MaskSAMError, Volume, __version__"
    assert _loaded_packages(program).isdisjoint(_HEAVY)


def test_modules_that_the_panel_imports_load_no_heavy_dependency() -> None:
    program = "import MaskSAMCore.models.catalog, MaskSAMCore.volumetry"
    assert _loaded_packages(program).isdisjoint(_HEAVY)


def test_reading_and_writing_files_needs_no_torch() -> None:
    program = "from MaskSAMCore import read_boxes, read_volume, write_labelmap"
    loaded = _loaded_packages(program)
    assert "torch" not in loaded
    assert "SimpleITK" in loaded


def test_the_shell_command_starts_without_torch() -> None:
    assert "torch" not in _loaded_packages("import MaskSAMCore.cli.app")


def test_every_public_name_can_be_imported() -> None:
    for name in MaskSAMCore.__all__:
        assert getattr(MaskSAMCore, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        MaskSAMCore.no_such_name  # noqa: B018


def test_the_version_is_that_of_the_installed_distribution() -> None:
    assert importlib.metadata.version("masksam") == MaskSAMCore.__version__


def _imported_packages(path: Path) -> Iterator[str]:
    """Yield the top-level package of each absolute import that a file executes anywhere."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    type_checking = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in set(ast.walk(tree)) - type_checking:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").split(".")[0]


def _distribution(name: str) -> str:
    return re.split(r"[^\w.-]", name)[0].lower().replace("_", "-")


def _settings() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read pyproject.toml")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_imported_package_is_declared() -> None:
    project = _settings()["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(name for extra in extras for name in extra)]
    declared = {_distribution(requirement) for requirement in requirements}
    found = importlib.metadata.packages_distributions()
    for path in _PACKAGE.rglob("*.py"):
        for top in _imported_packages(path):
            if top in sys.stdlib_module_names or top == "MaskSAMCore":
                continue
            names = {_distribution(name) for name in found.get(top, [top])}
            assert names & declared, f"{path.relative_to(ROOT)} imports {top}: declare it"


def test_every_folder_of_code_is_packaged() -> None:
    packages = set(_settings()["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for path in _PACKAGE.rglob("*.py")}
    assert packages - {"MaskSAMCore._resources"} == {".".join(folder.parts) for folder in folders}


def test_the_licence_names_those_of_all_models_that_are_packaged() -> None:
    cards = (resources() / "Models").glob("*/masksam.json")
    licences = {json.loads(path.read_text(encoding="utf-8"))["card"]["licence"] for path in cards}
    assert set(_settings()["project"]["license"].split(" AND ")) == {"Apache-2.0", *licences}


def test_the_resources_are_found() -> None:
    assert (resources() / "Models" / "catalog.json").is_file()

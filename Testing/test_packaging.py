"""The package as a whole: what it imports, what it says it needs, what it ships."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import MaskSAMCore
from MaskSAMCore.resources import resources
from Testing.helpers.paths import ROOT

_PACKAGE = ROOT / "MaskSAMCore"
_HEAVY = ("torch", "SimpleITK", "scipy", "lightning", "matplotlib", "monai")


def _loaded_after(program: str) -> set[str]:
    show = "\nimport sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", program + show], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = "from MaskSAMCore import Box, Cancelled, MaskSAMError, Volume, __version__"
    assert _loaded_after(program).isdisjoint(_HEAVY)


def test_reading_and_writing_files_needs_no_torch() -> None:
    program = "from MaskSAMCore import read_boxes, read_volume, write_labelmap"
    loaded = _loaded_after(program)
    assert "torch" not in loaded
    assert "SimpleITK" in loaded


def test_the_shell_command_starts_without_torch() -> None:
    assert "torch" not in _loaded_after("import MaskSAMCore.cli")


def test_every_public_name_is_there() -> None:
    for name in MaskSAMCore.__all__:
        assert getattr(MaskSAMCore, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        MaskSAMCore.nothing_of_ours  # noqa: B018


def test_the_version_is_that_of_the_distribution() -> None:
    assert importlib.metadata.version("masksam") == MaskSAMCore.__version__


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """Level (dots) and module of each import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


def _distribution(name: str) -> str:
    return re.split(r"[^\w.-]", name)[0].lower().replace("_", "-")


def test_every_package_that_is_imported_is_declared() -> None:
    requirements = importlib.metadata.requires("masksam") or []
    declared = {_distribution(requirement) for requirement in requirements}
    found = importlib.metadata.packages_distributions()
    for path in _PACKAGE.rglob("*.py"):
        for level, module in _imports(path):
            top = module.split(".")[0]
            if level or top in sys.stdlib_module_names or top == "MaskSAMCore":
                continue
            names = {_distribution(name) for name in found.get(top, [top])}
            assert names & declared, f"{path.relative_to(ROOT)} imports {top}: declare it"


def test_nothing_of_slicer_is_imported() -> None:
    for path in _PACKAGE.rglob("*.py"):
        tops = {module.split(".")[0] for level, module in _imports(path) if not level}
        assert tops.isdisjoint({"slicer", "qt", "ctk", "vtk"}), path


def test_the_networks_stand_on_torch_alone() -> None:
    for path in (_PACKAGE / "modeling").rglob("*.py"):
        for level, module in _imports(path):
            assert level < 2, f"{path.name} imports {module}"
            assert module.split(".")[0] != "MaskSAMCore"


def test_every_folder_of_code_is_packaged() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read pyproject.toml")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    packages = set(settings["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for path in _PACKAGE.rglob("*.py")}
    assert packages - {"MaskSAMCore._resources"} == {".".join(folder.parts) for folder in folders}


def test_the_resources_are_found() -> None:
    assert (resources() / "Models" / "catalog.json").is_file()


def test_files_are_short() -> None:
    for path in _PACKAGE.rglob("*.py"):
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines <= 320, f"{path.relative_to(ROOT)} has {lines} lines: it holds two ideas"

"""Files of the packed extension, configured with CMake against a stand-in for Slicer."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from Testing.helpers.paths import ROOT

# CMake of the test extra, even if its folder is not on the path.
CMAKE = shutil.which("cmake", path=str(Path(sys.executable).parent)) or "cmake"
SCRIPTS = Path("lib/Slicer-5.12/qt-scripted-modules")


def shipped() -> set[str]:
    """Return the files that the extension must ship, relative to the folder of scripted modules."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = set()
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        top, _, rest = name.partition("/")
        if top == "MaskSAMSlicer" and name.endswith((".py", ".ui", ".png")):
            files.add(rest)
        elif top == "MaskSAMCore" and name.endswith(".py") and not rest.startswith("research/"):
            files.add(name)
        elif name.startswith("Resources/"):
            files.add(f"MaskSAMCore/_resources/{rest}")
    return files


def build_and_install(source: Path, folder: Path) -> tuple[Path, Path]:
    """Configure a CMake project against the stand-in for Slicer and install the packed files.

    Returns:
        Build tree and installed tree.
    """
    build, target = folder / "build", folder / "installed"
    # The extension compiles nothing, so the test needs no compiler.
    compilers = [
        f"-DCMAKE_{language}_COMPILER{setting}"
        for language in ("C", "CXX")
        for setting in (f"={sys.executable}", "_ID_RUN=1", "_FORCED=1", "_WORKS=1")
    ]
    configure = [
        CMAKE,
        "-S",
        str(source),
        "-B",
        str(build),
        f"-DSlicer_DIR={ROOT / 'Testing' / 'extension' / 'cmake'}",
        "-DBUILD_TESTING=ON",
        f"-DPYTHON_EXECUTABLE={sys.executable}",  # Slicer's own Python in the application
        *compilers,
    ]
    subprocess.run(configure, check=True, capture_output=True, text=True)
    install = [CMAKE, "--install", str(build), "--prefix", str(target)]
    install += ["--component", "RuntimeLibraries"]
    subprocess.run(install, check=True, capture_output=True, text=True)
    return build, target


def files_below(folder: Path) -> set[str]:
    """Return the files below a folder, without Python's byte code."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(folder).as_posix() for path in files}


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the build tree and the installed tree of the extension."""
    return build_and_install(ROOT, tmp_path_factory.mktemp("extension"))


@pytest.fixture(scope="module")
def installed(trees: tuple[Path, Path]) -> Path:
    return trees[1]


@pytest.fixture(scope="module")
def described(trees: tuple[Path, Path]) -> dict[str, str]:
    """Return the extension's metadata in its CMakeLists.txt by field."""
    lines = (trees[0] / "described.txt").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_exactly_the_files_of_the_module_the_core_and_the_models_ship(trees: tuple[Path, Path]):
    expected = shipped()
    assert {
        "MaskSAMSlicer.py",
        "MaskSAMSlicerLib/panel/panel.py",
        "Resources/UI/MaskSAMSlicer.ui",
        "MaskSAMCore/geometry.py",
        "MaskSAMCore/_resources/Models/hippocampus/weights.safetensors",
        "MaskSAMCore/_resources/Terminologies/SegmentationCategoryTypeModifier-MaskSAM.term.json",
    } <= expected
    for tree in trees:
        assert files_below(tree / SCRIPTS) == expected


def test_both_packages_ship_with_byte_code_that_stays_valid_when_times_change(installed: Path):
    for package in ("MaskSAMCore", "MaskSAMSlicerLib"):
        sources = list((installed / SCRIPTS / package).rglob("*.py"))
        assert sources
        for source in sources:
            code = Path(importlib.util.cache_from_source(source)).read_bytes()
            assert code[:4] == importlib.util.MAGIC_NUMBER
            assert code[4] == 0b11, source  # checked by the hash of the source


def test_a_custom_application_that_bundles_the_extension_ships_the_same_files(tmp_path: Path):
    """Build the extension inside another project, as SlicerCustomAppTemplate does."""
    source = tmp_path / "application"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16.3)\n"
        "project(CustomApplication)\n"
        f'add_subdirectory("{ROOT.as_posix()}" MaskSAM)\n'
    )
    for tree in build_and_install(source, tmp_path):
        assert files_below(tree / SCRIPTS) == shipped()


@pytest.fixture
def isolated(tmp_path: Path) -> Path:
    """Return a folder for PYTHONPATH that hides an editable installation of the package.

    An editable installation has parts of the package that the extension does not ship.
    """
    folder = tmp_path / "isolated"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys\nsys.meta_path = [f for f in sys.meta_path if 'editable' not in f.__module__]\n"
    )
    return folder


def test_the_installed_core_segments_without_the_repository(
    installed: Path, isolated: Path, tmp_path: Path
):
    voxels = np.random.default_rng(0).normal(300, 30, (36, 52, 38)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / "image.nii.gz"))
    code = (
        "import MaskSAMCore, sys; from MaskSAMCore import Segmenter, read_volume;"
        "result = Segmenter.from_model('hippocampus').segment(read_volume(sys.argv[1]));"
        "import importlib.util, MaskSAMCore.cli.app;"
        "print(importlib.util.find_spec('MaskSAMCore.research'));"
        "print(MaskSAMCore.__file__, *result.labelmap.shape)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "image.nii.gz")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(isolated), str(installed / SCRIPTS)]),
        },
    )
    research, file, *shape = run.stdout.split()
    assert research == "None"
    assert Path(file) == installed / SCRIPTS / "MaskSAMCore" / "__init__.py"
    assert shape == ["36", "52", "38"]


def test_the_installed_module_segments_without_the_repository(
    installed: Path, isolated: Path, tmp_path: Path
):
    """Use the panel, library, worker and core of the installed tree."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from Testing import host; host.start();"
        "sys.path.remove(sys.argv[2]); import numpy as np, slicer;"
        "host.load_module(sys.argv[1] + '/MaskSAMSlicer.py'); host.select_module('MaskSAMSlicer');"
        "voxels = np.random.default_rng(0).normal(300, 30, (36, 52, 38)).astype(np.float32);"
        "volume = slicer.util.addVolumeFromArray(voxels, np.eye(4), 'generated');"
        "logic = slicer.util.getModuleLogic('MaskSAMSlicer'); node = logic.segment(volume);"
        "import MaskSAMSlicerLib, MaskSAMCore;"
        "print(MaskSAMSlicerLib.__file__, MaskSAMCore.__file__, node.GetClassName(), sep='\\n');"
        "logic.close()"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(installed / SCRIPTS), str(ROOT)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(isolated)},
    )
    lines = run.stdout.splitlines()[-3:]
    assert run.returncode == 0, run.stderr[-3000:]
    assert lines == [
        str(installed / SCRIPTS / "MaskSAMSlicerLib" / "__init__.py"),
        str(installed / SCRIPTS / "MaskSAMCore" / "__init__.py"),
        "vtkMRMLSegmentationNode",
    ]


def test_the_catalogue_entry_and_cmake_agree(described: dict[str, str]):
    entry = json.loads((ROOT / "MaskSAM.json").read_text(encoding="utf-8"))
    assert described["name"] == "MaskSAM"  # the entry's file has this name
    assert entry["category"] == "Segmentation"
    assert entry["scm_url"] == described["HOMEPAGE"] + ".git"
    assert entry["build_dependencies"] == described["DEPENDS"].split()
    # A dicom_support_rule would suggest the extension to every user who imports an MR.
    allowed = {
        "$schema",
        "build_dependencies",
        "category",
        "scm_revision",
        "scm_url",
        "tier",
    }
    assert set(entry) <= allowed
    assert 1 <= entry["tier"] <= 5


def test_the_pictures_of_the_catalogue_are_in_the_repository(described: dict[str, str]):
    addresses = [described["ICONURL"], *described["SCREENSHOTURLS"].split()]
    assert len(addresses) >= 2
    for address in addresses:
        path = ROOT / address.split("/main/", 1)[1]
        assert path.read_bytes().startswith(b"\x89PNG"), path

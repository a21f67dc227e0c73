"""What the Extension Manager would install: configured with CMake against a stand-in for Slicer."""

from __future__ import annotations

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

# The one of the test extra, whether or not its folder is on the path.
CMAKE = shutil.which("cmake", path=str(Path(sys.executable).parent)) or "cmake"
SCRIPTS = Path("lib/Slicer-5.12/qt-scripted-modules")


def tracked(*folders: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of the packed component."""
    build, target = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("installed")
    # The extension compiles nothing: no compiler is needed to see what it installs.
    compilers = [
        f"-DCMAKE_{language}_COMPILER{setting}"
        for language in ("C", "CXX")
        for setting in (f"={sys.executable}", "_ID_RUN=1", "_FORCED=1", "_WORKS=1")
    ]
    configure = [
        CMAKE,
        "-S",
        str(ROOT),
        "-B",
        str(build),
        f"-DSlicer_DIR={ROOT / 'Testing' / 'extension' / 'cmake'}",
        "-DBUILD_TESTING=ON",
        *compilers,
    ]
    subprocess.run(configure, check=True, capture_output=True, text=True)
    install = [CMAKE, "--install", str(build), "--prefix", str(target)]
    install += ["--component", "RuntimeLibraries"]
    subprocess.run(install, check=True, capture_output=True, text=True)
    (target / "described.txt").write_text((build / "described.txt").read_text())
    return target


def test_every_module_file_is_installed(installed: Path):
    wanted = {
        Path(name).relative_to("MaskSAMSlicer")
        for name in tracked("MaskSAMSlicer")
        if name.endswith((".py", ".ui", ".png"))
    }
    assert Path("MaskSAMSlicer.py") in wanted
    missing = [str(name) for name in wanted if not (installed / SCRIPTS / name).is_file()]
    assert missing == []


def test_every_core_file_and_model_is_installed(installed: Path):
    core = [name for name in tracked("MaskSAMCore") if name.endswith(".py")]
    resources = tracked("Resources/Models", "Resources/SampleData")
    assert "MaskSAMCore/geometry.py" in core
    assert "Resources/Models/hippocampus/weights.safetensors" in resources
    wanted = [*core, *(n.replace("Resources/", "MaskSAMCore/_resources/", 1) for n in resources)]
    assert [name for name in wanted if not (installed / SCRIPTS / name).is_file()] == []


def test_no_test_and_nothing_else_of_the_repository_is_installed(installed: Path):
    top = {path.name for path in (installed / SCRIPTS).iterdir()}
    assert top == {"MaskSAMSlicer.py", "MaskSAMSlicerLib", "Resources", "MaskSAMCore"}


def test_the_installed_tree_segments_by_itself(installed: Path, tmp_path: Path):
    voxels = np.random.default_rng(0).normal(300, 30, (36, 52, 38)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / "image.nii.gz"))
    code = (
        "import MaskSAMCore, sys; from MaskSAMCore import Segmenter, read_volume;"
        "result = Segmenter.from_model('hippocampus').segment(read_volume(sys.argv[1]));"
        "print(MaskSAMCore.__file__, *result.labelmap.shape)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "image.nii.gz")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed / SCRIPTS)},
    )
    file, *shape = run.stdout.split()
    assert Path(file) == installed / SCRIPTS / "MaskSAMCore" / "__init__.py"
    assert shape == ["36", "52", "38"]


def test_the_installed_module_segments_by_itself(installed: Path, tmp_path: Path):
    """Panel, library, worker and core, all from the installed tree."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from Testing import host; host.start();"
        "sys.path.remove(sys.argv[2]); import numpy as np, slicer;"
        "host.load_module(sys.argv[1] + '/MaskSAMSlicer.py'); host.select_module('MaskSAMSlicer');"
        "voxels = np.random.default_rng(0).normal(300, 30, (36, 52, 38)).astype(np.float32);"
        "volume = slicer.util.addVolumeFromArray(voxels, np.eye(4), 'made-up');"
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
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    lines = run.stdout.splitlines()[-3:]
    assert run.returncode == 0, run.stderr[-3000:]
    assert lines == [
        str(installed / SCRIPTS / "MaskSAMSlicerLib" / "__init__.py"),
        str(installed / SCRIPTS / "MaskSAMCore" / "__init__.py"),
        "vtkMRMLSegmentationNode",
    ]


def test_the_catalogue_entry_and_cmake_agree(installed: Path):
    lines = (installed / "described.txt").read_text().splitlines()
    described = dict(line.split("=", 1) for line in lines)
    entry = json.loads((ROOT / "MaskSAM.json").read_text(encoding="utf-8"))
    assert described["name"] == "MaskSAM"  # the name of the file
    assert entry["category"] == "Segmentation"
    assert entry["scm_url"] == described["HOMEPAGE"] + ".git"
    assert entry["build_dependencies"] == described["DEPENDS"].split()
    allowed = {
        "$schema",
        "build_dependencies",
        "category",
        "dicom_support_rule",
        "scm_revision",
        "scm_url",
        "tier",
    }
    assert set(entry) <= allowed
    assert 1 <= entry["tier"] <= 5


def test_the_pictures_of_the_catalogue_are_in_the_repository(installed: Path):
    lines = (installed / "described.txt").read_text().splitlines()
    described = dict(line.split("=", 1) for line in lines)
    addresses = [described["ICONURL"], *described["SCREENSHOTURLS"].split()]
    assert len(addresses) >= 2
    for address in addresses:
        path = ROOT / address.split("/main/", 1)[1]
        assert path.read_bytes().startswith(b"\x89PNG"), path

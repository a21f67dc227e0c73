"""``masksam compare`` where the research code is absent."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from Testing.cli.helpers import error_of


def test_compare_names_the_package_to_install_where_the_research_code_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """The 3D Slicer extension does not include it."""
    monkeypatch.setitem(sys.modules, "MaskSAMCore.research.comparison.compare", None)
    error = error_of(capfd, ["compare", str(tmp_path), "-o", str(tmp_path / "out")])
    assert "not part of the 3D Slicer extension: install the Python package masksam[train]" in error
    assert not (tmp_path / "out").exists()

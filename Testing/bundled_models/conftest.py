"""Results of the demo, shared by the tests of bundled models."""

from __future__ import annotations

from pathlib import Path

import pytest

from MaskSAMCore.cli import main


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run ``masksam demo`` once and return the folder of its results."""
    folder = tmp_path_factory.mktemp("demo")
    assert main(["demo", "-o", str(folder), "--device", "cpu"]) == 0
    return folder

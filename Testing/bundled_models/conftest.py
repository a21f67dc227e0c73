"""Results of the demo, shared by the tests of bundled models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from MaskSAMCore.cli import main


@pytest.fixture(scope="session")
def demo(made_once: Callable[..., Path]) -> Path:
    """Run ``masksam demo`` once and return the folder of its results."""

    def fill(folder: Path) -> None:
        assert main(["demo", "-o", str(folder), "--device", "cpu"]) == 0

    return made_once("demo", fill)

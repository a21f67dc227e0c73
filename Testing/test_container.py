"""The steps of the Containerfile, in a new virtual environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "Utilities" / "container_check.py"


@pytest.mark.skipif(
    "MASKSAM_CONTAINER_TEST" not in os.environ,
    reason="installs everything anew, for minutes: set MASKSAM_CONTAINER_TEST=1 to run it",
)
def test_what_the_container_installs_segments_without_network(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "image")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "all steps succeeded" in done.stdout

"""``masksam benchmark``: the time of a segmentation."""

from __future__ import annotations

import pytest

from MaskSAMCore.cli import main


def test_benchmark_prints_the_median_time(model: str, capfd: pytest.CaptureFixture[str]):
    arguments = ["benchmark", "-m", model, "--shape", "4x16x20", "--repeats", "2"]
    assert main([*arguments, "--device", "cpu"]) == 0
    assert "median of 2" in capfd.readouterr().out

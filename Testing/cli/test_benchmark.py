"""``masksam benchmark``: the time of a segmentation."""

from __future__ import annotations

import pytest

from MaskSAMCore.cli import main
from Testing.cli.helpers import error_of


def test_benchmark_prints_the_median_time(model: str, capfd: pytest.CaptureFixture[str]):
    arguments = ["benchmark", "-m", model, "--shape", "4x16x20", "--repeats", "2"]
    assert main([*arguments, "--device", "cpu"]) == 0
    assert "median of 2" in capfd.readouterr().out


@pytest.mark.parametrize("shape", ["-3x10x10", "0x10x10", "10x10", "x"])
def test_a_shape_that_no_volume_has_is_refused(shape: str, capfd: pytest.CaptureFixture[str]):
    assert "must look like 36x50x35" in error_of(capfd, ["benchmark", f"--shape={shape}"])

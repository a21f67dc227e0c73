"""Folders with a DICOM series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io import read_volume
from Testing.helpers.dicom import write_series


def write_constant_slices(
    folder: Path, positions: list[tuple[float, float, float]], uid: str = "1.2.9"
) -> None:
    """Write a series of axial slices at the given positions (LPS mm); slice n has intensity n."""
    array = np.arange(1, len(positions) + 1, dtype=np.int16)[:, None, None]
    write_series(folder, array.repeat(5, 1).repeat(7, 2), positions, (0.7, 0.8, 2), uid=uid)


def test_a_series_is_read_as_a_volume(tmp_path: Path) -> None:
    write_constant_slices(tmp_path / "head", [(1, 2, 10 + 2 * k) for k in range(6)])
    volume = read_volume(tmp_path / "head")
    assert volume.shape == (6, 5, 7)
    assert np.allclose(volume.spacing, (0.7, 0.8, 2))
    assert np.allclose(volume.ijk_to_ras[:3, 3], (-1, -2, 10))
    assert volume.array[:, 0, 0].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "positions",
    [[(0, 0, z) for z in (0, 2, 4, 8, 10)], [(0, z / 2, z) for z in (0, 2, 4, 6)]],
    ids=["missing", "tilted"],
)
def test_a_series_with_missing_or_tilted_slices_is_refused(
    tmp_path: Path, positions: list[tuple[float, float, float]], capfd: pytest.CaptureFixture[str]
) -> None:
    write_constant_slices(tmp_path / "head", positions)
    with pytest.raises(MaskSAMError, match="missing, unevenly spaced or tilted"):
        read_volume(tmp_path / "head")
    assert capfd.readouterr() == ("", "")


def test_several_series_in_a_folder_are_refused(tmp_path: Path) -> None:
    for uid in ("1.2.9", "1.2.10"):
        write_constant_slices(tmp_path / "head", [(0, 0, 2 * k) for k in range(3)], uid)
    with pytest.raises(MaskSAMError, match="2 DICOM series"):
        read_volume(tmp_path / "head")

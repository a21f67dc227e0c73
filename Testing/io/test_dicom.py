"""Folders with a DICOM series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io import read_volume


def write_series(
    folder: Path, positions: list[tuple[float, float, float]], uid: str = "1.2.9"
) -> None:
    """Write a series of constant slices at the given positions (LPS mm)."""
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, position in enumerate(positions, 1):
        image = sitk.GetImageFromArray(np.full((1, 5, 7), number, dtype=np.int16))
        image.SetSpacing((0.7, 0.8, 2))
        tags = {
            "0008|0060": "MR",
            "0008|0018": f"{uid}.{number}",
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0020|0013": str(number),
            "0020|0032": "\\".join(str(v) for v in position),
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid}-{number}.dcm"))
        writer.Execute(image)


def test_a_series_is_read_as_a_volume(tmp_path: Path) -> None:
    write_series(tmp_path / "head", [(1, 2, 10 + 2 * k) for k in range(6)])
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
    write_series(tmp_path / "head", positions)
    with pytest.raises(MaskSAMError, match="missing, unevenly spaced or tilted"):
        read_volume(tmp_path / "head")
    assert capfd.readouterr() == ("", "")


def test_several_series_in_a_folder_are_refused(tmp_path: Path) -> None:
    for uid in ("1.2.9", "1.2.10"):
        write_series(tmp_path / "head", [(0, 0, 2 * k) for k in range(3)], uid)
    with pytest.raises(MaskSAMError, match="2 DICOM series"):
        read_volume(tmp_path / "head")

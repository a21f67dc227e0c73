"""A folder with one DICOM series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError

# Positions of slices are written with few digits; what is left out or tilted is off by far more.
POSITION_TOLERANCE = 0.1  # of the distance of two slices


def read_series(folder: Path) -> sitk.Image:
    """The image of the only DICOM series in ``folder``.

    Raises:
        MaskSAMError: no series or several, slices missing or unevenly spaced, a tilted gantry.
    """
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise MaskSAMError(f"{folder} holds no DICOM series and no image file")
    if len(series) > 1:
        raise MaskSAMError(
            f"{folder} holds {len(series)} DICOM series: put the one to segment in its own folder"
        )
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    if len(names) == 1:  # a multi-frame file holds its own geometry
        return sitk.ReadImage(names[0])
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    image = reader.Execute()
    # SimpleITK takes even spacing along the normal for granted; it would put voxels elsewhere.
    _check_positions(folder, image, np.array([_position(name) for name in names]))
    return image


def _position(name: str) -> tuple[float, ...]:
    reader = sitk.ImageFileReader()
    reader.SetFileName(name)
    reader.ReadImageInformation()
    return tuple(reader.GetOrigin())


def _check_positions(folder: Path, image: sitk.Image, positions: NDArray[np.float64]) -> None:
    """``positions``: (slices, 3), LPS mm of each slice's first voxel."""
    spacing = image.GetSpacing()[2]
    normal = np.array(image.GetDirection()).reshape(3, 3)[:, 2]
    expected = positions[0] + np.arange(len(positions))[:, None] * spacing * normal
    wrong = np.abs(positions - expected).max(axis=1) > POSITION_TOLERANCE * spacing
    if wrong.any():
        raise MaskSAMError(
            f"{folder} holds a DICOM series with slices missing, unevenly spaced or tilted: load it"
            " in 3D Slicer, which evens it out, and save it as .nrrd"
        )

"""Reading of a folder that holds one DICOM series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError

# Tolerance of slice positions, as a fraction of the slice distance: positions are stored with few
# digits, while missing or tilted slices are off by far more.
POSITION_TOLERANCE = 0.1


def read_series(folder: Path) -> sitk.Image:
    """Return the image of the only DICOM series in a folder.

    Raises:
        MaskSAMError: the folder holds no series or several, or the slices of the series are
            missing, unevenly spaced or tilted.
    """
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise MaskSAMError(f"{folder} holds no DICOM series and no image file")
    if len(series) > 1:
        raise MaskSAMError(
            f"{folder} holds {len(series)} DICOM series: put the one to segment into its own folder"
        )
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    if len(names) == 1:  # a multi-frame file has its own geometry
        return sitk.ReadImage(names[0])
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    image = reader.Execute()
    # SimpleITK assumes even spacing along the normal and would misplace the slices otherwise.
    _check_positions(folder, image, np.array([_position(name) for name in names]))
    return image


def _position(name: str) -> tuple[float, ...]:
    reader = sitk.ImageFileReader()
    reader.SetFileName(name)
    reader.ReadImageInformation()
    return tuple(reader.GetOrigin())


def _check_positions(folder: Path, image: sitk.Image, positions: NDArray[np.float64]) -> None:
    """Check that the slices of a series are evenly spaced along its normal.

    Args:
        folder: folder of the series, for the message.
        image: image that SimpleITK read from the series.
        positions: (slices, 3), first voxel of each slice in LPS mm.

    Raises:
        MaskSAMError: a slice lies at another position than in the image.
    """
    spacing = image.GetSpacing()[2]
    normal = np.array(image.GetDirection()).reshape(3, 3)[:, 2]
    expected = positions[0] + np.arange(len(positions))[:, None] * spacing * normal
    wrong = np.abs(positions - expected).max(axis=1) > POSITION_TOLERANCE * spacing
    if wrong.any():
        raise MaskSAMError(
            f"{folder} holds a DICOM series with slices missing, unevenly spaced or tilted: load it"
            " in 3D Slicer, which resamples it, and save it as .nrrd"
        )

"""DICOM series for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk


def write_series(
    folder: Path,
    array: np.ndarray,
    positions: Sequence[Sequence[float]],
    spacing: Sequence[float],
    axes: np.ndarray | None = None,
    uid: str = "1.2.9",
) -> list[str]:
    """Write a series with one slice per file, as scanners do; return the files in order.

    Args:
        folder: folder of the files; created if it does not exist.
        array: intensities (slices, rows, columns).
        positions: centre of the first pixel of each slice, LPS in mm.
        spacing: mm between columns, rows and slices.
        axes: (3, 2 or 3), LPS unit vectors along a row and a column; None for axial slices.
        uid: UID of the series.
    """
    axes = np.eye(3) if axes is None else axes
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    names = []
    for number, (plane, position) in enumerate(zip(array, positions, strict=True), 1):
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing([float(step) for step in spacing])
        tags = {
            "0008|0060": "MR",
            "0008|0018": f"{uid}.{number}",
            "0018|0050": f"{spacing[2]:.6f}",
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0020|0013": str(number),
            "0020|0032": "\\".join(f"{value:.6f}" for value in position),
            "0020|0037": "\\".join(f"{value:.9f}" for value in (*axes[:, 0], *axes[:, 1])),
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        names.append(str(folder / f"{uid}-{number:03}.dcm"))
        writer.SetFileName(names[-1])
        writer.Execute(image)
    return names

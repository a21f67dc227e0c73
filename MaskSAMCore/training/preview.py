"""Contact sheet of training windows with the outlines of their classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.io import atomic_file
from MaskSAMCore.labels import default_colors

# Pixels of the sheet for each voxel.
ZOOM = 2
# Pixels between two tiles.
GAP = 6

Picture = NDArray[np.uint8]


def contact_sheet(
    windows: Iterable[tuple[Tensor, Tensor]],
    count: int,
    classes: int,
    orientation: str,
    path: Path,
    across: int = 4,
) -> None:
    """Write a picture of windows, each with its three middle slices without and with outlines.

    Superior and anterior point up; the patient's right is on the left.

    Args:
        windows: pairs of an image (C, T, H, W), whose first channel is drawn, and class indices
            (T, H, W).
        count: number of windows to draw.
        classes: number of classes K, background not counted.
        orientation: three letters for the directions of depth, rows and columns, such as "SAR".
        path: PNG file to write; it is complete or absent.
        across: number of windows in a row.
    """
    tiles = [
        window_tile(image[0].cpu().numpy(), labels.cpu().numpy(), classes, orientation)
        for image, labels in islice(windows, count)
    ]
    rows = [_join(tiles[i : i + across], 1) for i in range(0, len(tiles), across)]
    sheet = _join(rows, 0)
    with atomic_file(path) as temporary:
        sitk.WriteImage(sitk.GetImageFromArray(sheet, isVector=True), str(temporary))


def window_tile(
    image: NDArray[np.floating], labels: NDArray[np.integer], classes: int, orientation: str
) -> Picture:
    """Draw the three middle slices of a window, one below another, plain and outlined."""
    low, high = np.percentile(image, (1, 99.5))
    grey = (np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    plain, outlined = [], []
    for axis in range(3):
        middle = labels.shape[axis] // 2
        row_code, column_code = (code for other, code in enumerate(orientation) if other != axis)
        flips = (
            slice(None, None, -1 if row_code in "SA" else 1),
            slice(None, None, -1 if column_code in "RA" else 1),
        )
        part = _zoom(np.take(grey, middle, axis)[flips])
        plain.append(np.repeat(part[..., None], 3, -1))
        outlined.append(_outline(plain[-1], _zoom(np.take(labels, middle, axis)[flips]), classes))
    return _join([_join(plain, 0), _join(outlined, 0)], 1)


def class_colors(classes: int) -> Picture:
    """Return distinct colours for K classes, uint8 (K + 1, 3); the background's is black."""
    return np.round(np.array([(0.0, 0.0, 0.0), *default_colors(classes)]) * 255).astype(np.uint8)


def _outline(picture: Picture, labels: NDArray[np.integer], classes: int) -> Picture:
    """Colour the pixels of each class that touch another class or the background."""
    edge = np.zeros(labels.shape, bool)
    for axis in range(2):
        different = np.diff(labels, axis=axis) != 0
        first = tuple(slice(None, -1) if a == axis else slice(None) for a in range(2))
        second = tuple(slice(1, None) if a == axis else slice(None) for a in range(2))
        edge[first] |= different
        edge[second] |= different
    edge &= labels > 0
    result = picture.copy()
    result[edge] = class_colors(classes)[labels[edge]]
    return result


def _zoom(part: NDArray[np.integer]) -> NDArray[np.integer]:
    return part.repeat(ZOOM, 0).repeat(ZOOM, 1)


def _join(pictures: Sequence[Picture], axis: int) -> Picture:
    """Join pictures below (axis 0) or beside (axis 1) each other, on black."""
    other = max(picture.shape[1 - axis] for picture in pictures)
    padded = []
    for number, picture in enumerate(pictures):
        sizes = [(0, 0), (0, 0), (0, 0)]
        sizes[1 - axis] = (0, other - picture.shape[1 - axis])
        sizes[axis] = (0, GAP if number < len(pictures) - 1 else 0)
        padded.append(np.pad(picture, sizes))
    return np.concatenate(padded, axis)

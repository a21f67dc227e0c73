"""What a training would see: a contact sheet of its windows with the outlines of the classes."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.io import atomic_path

# Pixels of the sheet for each voxel, and between tiles.
ZOOM, GAP = 2, 6

Picture = NDArray[np.uint8]


def contact_sheet(
    windows: Iterable[tuple[Tensor, Tensor]],
    count: int,
    classes: int,
    orientation: str,
    path: Path,
    across: int = 4,
) -> None:
    """Draws windows: each as its three middle slices without outlines, and with them beside.

    Args:
        windows: pairs of images (C, T, H, W), of which the first channel is shown, and classes
            (T, H, W).
        count: how many.
        classes: K, for the colours.
        orientation: of the windows, three letters: superior and anterior are shown upwards, right
            on the left.
        path: a PNG file; complete or absent.
        across: windows in a row.
    """
    tiles = [
        window_tile(image[0].cpu().numpy(), labels.cpu().numpy(), classes, orientation)
        for image, labels in islice(windows, count)
    ]
    lines = [_joined(tiles[i : i + across], 1) for i in range(0, len(tiles), across)]
    sheet = _joined(lines, 0)
    with atomic_path(path) as temporary:
        sitk.WriteImage(sitk.GetImageFromArray(sheet, isVector=True), str(temporary))


def window_tile(
    image: NDArray[np.floating], labels: NDArray[np.integer], classes: int, orientation: str
) -> Picture:
    """The three middle slices of a window one below another, and again with outlines beside."""
    low, high = np.percentile(image, (1, 99.5))
    grey = (np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    plain, outlined = [], []
    for axis in range(3):
        middle = labels.shape[axis] // 2
        codes = [code for other, code in enumerate(orientation) if other != axis]
        turned = [codes[0] in "SA", codes[1] in "RA"]
        flips = tuple(slice(None, None, -1 if turn else 1) for turn in turned)
        part = _zoomed(np.take(grey, middle, axis)[flips])
        plain.append(np.repeat(part[..., None], 3, -1))
        outlined.append(
            _outlined(plain[-1], _zoomed(np.take(labels, middle, axis)[flips]), classes)
        )
    return _joined([_joined(plain, 0), _joined(outlined, 0)], 1)


def class_colors(classes: int) -> Picture:
    """(K + 1, 3): colours that neighbours in number do not share; black for the background."""
    # Steps of the golden ratio around the circle of hues.
    hues = [(0.618034 * k) % 1 for k in range(classes)]
    colors = [colorsys.hsv_to_rgb(hue, 0.85, 1.0) for hue in hues]
    return np.round(np.array([(0.0, 0.0, 0.0), *colors]) * 255).astype(np.uint8)


def _outlined(picture: Picture, labels: NDArray[np.integer], classes: int) -> Picture:
    """Pixels of a class beside another class or the background take its colour."""
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


def _zoomed(part: NDArray[np.integer]) -> NDArray[np.integer]:
    return part.repeat(ZOOM, 0).repeat(ZOOM, 1)


def _joined(pictures: Sequence[Picture], axis: int) -> Picture:
    """Pictures beside (1) or below (0) each other, on black."""
    other = max(picture.shape[1 - axis] for picture in pictures)
    padded = []
    for number, picture in enumerate(pictures):
        sizes = [(0, 0), (0, 0), (0, 0)]
        sizes[1 - axis] = (0, other - picture.shape[1 - axis])
        sizes[axis] = (0, GAP if number < len(pictures) - 1 else 0)
        padded.append(np.pad(picture, sizes))
    return np.concatenate(padded, axis)

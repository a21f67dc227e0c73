"""MA-SAM's augmentation: all slices of a window are moved, erased and changed in intensity alike.

Ranges and probabilities are those of the public code. Unlike that code, slices are moved with
linear instead of nearest-neighbour interpolation, and intensities are not rounded to 8 bits between
changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.data.augmentation import cut

# Image (C, T, H, W), 0 to 1, and its labels (T, H, W).
Slices = tuple[Tensor, Tensor]
Change = Callable[[Slices, float], Slices]

# Probability of each of the first four changes.
_PROBABILITY = 0.5
# Number of further changes of each window.
_FURTHER = 2
_LARGEST_ROTATION = 15
_SMOOTHING = ((1, 1, 1), (1, 5, 1), (1, 1, 1))


class SliceAugmentation:
    """Windows cut from cases and changed as MA-SAM's public code changes its stacks of slices.

    The random numbers are those of NumPy's global generator.

    Args:
        window: (T, H, W) in voxels.
        strength: factor of the probabilities of the first four changes; 0 only cuts windows.
    """

    def __init__(self, window: tuple[int, int, int], strength: float) -> None:
        self.window = window
        self.strength = strength

    def __call__(
        self,
        image: NDArray[np.float32],
        labelmap: NDArray[np.integer],
        centre: Sequence[int],
        lowest: Sequence[float],
    ) -> tuple[Tensor, Tensor]:
        """Return a random window.

        Args:
            image: float32 (C, D, R, W), image of a whole case.
            labelmap: (D, R, W), labelmap of the case.
            centre: voxel of the case at the window's centre.
            lowest: intensity of each channel outside the case.

        Returns:
            The image, float32 (C, T, H, W), and the classes, int64 (T, H, W), 0 outside the case.
        """
        channels = [
            cut(channel, centre, self.window, low)
            for channel, low in zip(image, lowest, strict=True)
        ]
        x = torch.from_numpy(np.stack(channels)).float()
        labels = torch.from_numpy(cut(labelmap, centre, self.window, 0).astype(np.int64))
        if self.strength <= 0:
            return x, labels
        least = x.amin((1, 2, 3), keepdim=True)
        extent = (x.amax((1, 2, 3), keepdim=True) - least).clamp(min=1e-8)
        x, labels = self._changed(((x - least) / extent, labels))
        return x * extent + least, labels

    def _changed(self, slices: Slices) -> Slices:
        """Change slices at random."""
        for change in (turn_and_flip, rotate, change_gamma, erase):
            if np.random.uniform() < _PROBABILITY * self.strength:
                slices = change(slices)
        for index in np.random.choice(len(_CHANGES), _FURTHER, replace=False):
            change, low, high = _CHANGES[index]
            slices = change(slices, float(np.random.uniform(low, high)))
        return slices


def turn_and_flip(slices: Slices) -> Slices:
    """Turn slices by a multiple of 90 degrees, and flip rows or columns. Slices that are not square
    are turned by 0 or 180 degrees."""
    x, labels = slices
    quarters, axis = int(np.random.randint(4)), int(np.random.randint(-2, 0))
    if labels.shape[1] != labels.shape[2]:
        quarters -= quarters % 2
    x, labels = (torch.rot90(part, quarters, (-2, -1)).flip(axis) for part in (x, labels))
    return x, labels


def rotate(slices: Slices) -> Slices:
    """Rotate slices about their centre by at most 15 degrees."""
    angle = np.deg2rad(np.random.randint(-_LARGEST_ROTATION, _LARGEST_ROTATION))
    rows, columns = slices[1].shape[1:]
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    return move(
        slices,
        (cosine, -sine, columns / 2 - cosine * columns / 2 + sine * rows / 2),
        (sine, cosine, rows / 2 - sine * columns / 2 - cosine * rows / 2),
    )


def change_gamma(slices: Slices) -> Slices:
    """Raise intensities to the power of 1 / 3.5 to 2."""
    return slices[0].clamp(min=0) ** (1 / (np.random.uniform() * 3 + 0.5)), slices[1]


def erase(slices: Slices) -> Slices:
    """Fill a rectangle of 2 to 5 % of the slices with noise, and label it as background."""
    x, labels = slices[0].clone(), slices[1].clone()
    rows, columns = labels.shape[1:]
    area = np.random.uniform(0.02, 0.05) * rows * columns
    ratio = np.random.uniform(0.3, 3.3)
    width = min(columns, max(1, int(np.sqrt(area * ratio))))
    height = min(rows, max(1, int(np.sqrt(area / ratio))))
    top = int(np.random.randint(rows - height + 1))
    left = int(np.random.randint(columns - width + 1))
    noise = torch.from_numpy(np.random.uniform(size=(height, width))).float()
    x[..., top : top + height, left : left + width] = noise
    labels[:, top : top + height, left : left + width] = 0
    return x, labels


def move(
    slices: Slices, to_column: tuple[float, float, float], to_row: tuple[float, float, float]
) -> Slices:
    """Move slices; pixels from outside are 0 and background.

    Args:
        slices: image and labels.
        to_column: factors of column and row, and a shift, that give the source column in pixel
            edges.
        to_row: factors of column and row, and a shift, that give the source row in pixel edges.
    """
    x, labels = slices
    rows, columns = labels.shape[1:]
    row, column = torch.meshgrid(
        torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij"
    )
    source = [a * column + b * row + c for a, b, c in (to_column, to_row)]
    grid = torch.stack([2 * source[0] / columns - 1, 2 * source[1] / rows - 1], -1)[None]
    flat = x.flatten(0, 1)[None]
    moved = F.grid_sample(flat, grid, "bilinear", "zeros", align_corners=False)
    classes = F.grid_sample(labels[None].float(), grid, "nearest", "zeros", align_corners=False)
    return moved[0].reshape(x.shape), classes[0].long()


def shear_columns(slices: Slices, value: float) -> Slices:
    """Shear slices along columns, about the middle row."""
    return move(slices, (1, value, -value * slices[1].shape[1] / 2), (0, 1, 0))


def shear_rows(slices: Slices, value: float) -> Slices:
    """Shear slices along rows, about the middle column."""
    return move(slices, (1, 0, 0), (value, 1, -value * slices[1].shape[2] / 2))


def scale(slices: Slices, value: float) -> Slices:
    """Scale slices from their first corner, as the public code does."""
    return move(slices, (value, 0, 0), (0, value, 0))


def shift_columns(slices: Slices, value: float) -> Slices:
    """Shift slices by a share of their columns."""
    return move(slices, (1, 0, value * slices[1].shape[2]), (0, 1, 0))


def shift_rows(slices: Slices, value: float) -> Slices:
    """Shift slices by a share of their rows."""
    return move(slices, (1, 0, 0), (0, 1, value * slices[1].shape[1]))


def posterise(slices: Slices, value: float) -> Slices:
    """Keep the highest 4 to 8 of 8 bits."""
    step = 2 ** (8 - int(value))
    levels = (slices[0].clamp(0, 1) * 255).floor()
    return (levels / step).floor() * step / 255, slices[1]


def change_contrast(slices: Slices, value: float) -> Slices:
    """Change the distance of intensities from the mean of their slice."""
    mean = slices[0].mean((-2, -1), keepdim=True)
    return (mean + value * (slices[0] - mean)).clamp(0, 1), slices[1]


def change_brightness(slices: Slices, value: float) -> Slices:
    """Multiply intensities."""
    return (value * slices[0]).clamp(0, 1), slices[1]


def change_sharpness(slices: Slices, value: float) -> Slices:
    """Change the distance of intensities from smoothed intensities, except at the border."""
    x = slices[0]
    kernel = torch.tensor(_SMOOTHING, dtype=x.dtype)[None, None] / 13
    smooth = x.clone()
    flat = x.flatten(0, 1)[:, None]
    smooth[..., 1:-1, 1:-1] = F.conv2d(flat, kernel)[:, 0].unflatten(0, x.shape[:2])
    return (smooth + value * (x - smooth)).clamp(0, 1), slices[1]


def keep(slices: Slices, value: float) -> Slices:
    """Return slices as they are."""
    return slices


_CHANGES: tuple[tuple[Change, float, float], ...] = (
    (shear_columns, -0.3, 0.3),
    (shear_rows, -0.3, 0.3),
    (scale, 0.8, 1.2),
    (shift_columns, -0.2, 0.2),
    (shift_rows, -0.2, 0.2),
    (posterise, 4, 8.99),
    (change_contrast, 0.7, 1.3),
    (change_brightness, 0.7, 1.3),
    (change_sharpness, 0.1, 1.9),
    (keep, 0, 1),
)

"""Conversion of slices to SAM's input, and of SAM's masks to slices.

Intensities are mapped to 8-bit grey values as for MedSAM: CT in a named window, other images
between the percentiles 0.5 and 99.5 of their voxels that are not 0. Resizing follows SAM or MedSAM.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from MaskSAMCore.intensities import sample

# Level and width in Hounsfield units, those of MedSAM's training images.
CT_WINDOWS = {"soft tissue": (40, 400), "lung": (-160, 1500), "bone": (300, 1800)}
# Median HU in a box: below the first it gets the lung window, above the second the bone window.
_LUNG_BELOW, _BONE_ABOVE = -400, 200
# Percentiles are computed from this many voxels, because using all would need a copy of them.
_SAMPLE_VOXELS = 1 << 21
# Mean and standard deviation of the 0 to 255 values of SAM's training images.
_PIXEL_MEAN = (123.675, 116.28, 103.53)
_PIXEL_STD = (58.395, 57.12, 57.375)
# Pillow's resampling weights are integer multiples of 1 / this.
_WEIGHT_UNITS = 1 << 22
# Probabilities nearer to 0 or 1 than this have no finite logit in float32.
_LOGIT_EPS = 1e-6

# Intensities shown as black and as white.
Limits = tuple[float, float]
Shape2D = tuple[int, int]


def percentile_limits(array: NDArray[Any]) -> Limits:
    """Return the percentiles 0.5 and 99.5 of the voxels that are not 0, from a regular sample."""
    voxels = sample(array, _SAMPLE_VOXELS)
    shown = voxels[voxels != 0]
    if shown.size == 0 or shown.dtype.kind == "b":
        return 0.0, 1.0
    low, high = np.percentile(shown, (0.5, 99.5))
    return float(low), float(high)


def ct_limits(inside: NDArray[Any]) -> Limits:
    """Return the limits of the CT window that suits the content of a box.

    Args:
        inside: voxels in the box, in Hounsfield units.
    """
    median = float(np.median(sample(inside, _SAMPLE_VOXELS)))
    name = "lung" if median < _LUNG_BELOW else "bone" if median > _BONE_ABOVE else "soft tissue"
    level, width = CT_WINDOWS[name]
    return level - width / 2, level + width / 2


def to_grey(plane: NDArray[Any], limits: Limits) -> NDArray[np.uint8]:
    """Map the intensities of a slice linearly to 0 (lower limit) to 255 (upper limit)."""
    low, high = limits
    scaled = (plane.astype(np.float64) - low) * (255 / max(high - low, 1e-12))
    return np.clip(scaled, 0, 255).astype(np.uint8)


class Preparation(Protocol):
    """Preprocessing of slices that a checkpoint was trained with."""

    def image(self, grey: NDArray[np.uint8], size: int) -> Tensor:
        """Return SAM's input (1, 3, size, size), float32, for a slice (rows, columns)."""
        ...

    def boxes(self, boxes: NDArray[np.float64], shape: Shape2D, size: int) -> Tensor:
        """Scale boxes to pixels of SAM's input.

        Args:
            boxes: (N, 4), x1 y1 x2 y2 in pixels of the slice.
            shape: (rows, columns) of the slice.
            size: rows and columns of SAM's input.

        Returns:
            (N, 4), x1 y1 x2 y2 in pixels of SAM's input, float32.
        """
        ...

    def logits(self, masks: Tensor, shape: Shape2D, size: int) -> Tensor:
        """Interpolate mask logits to the pixels of a slice.

        Args:
            masks: (N, h, w) of the mask decoder.
            shape: (rows, columns) of the slice.
            size: rows and columns of SAM's input.

        Returns:
            (N, rows, columns).
        """
        ...


class SamPreparation:
    """Preprocessing of SAM: the longest side is resized to `size` as by Pillow, the image is
    normalised and padded at right and bottom, and logits are interpolated twice."""

    def image(self, grey: NDArray[np.uint8], size: int) -> Tensor:
        """See :meth:`Preparation.image`."""
        rows, columns = resized_shape(grey.shape, size)
        resized = torch.from_numpy(resize_bilinear(grey, (rows, columns))).float()
        mean, std = (torch.tensor(v)[:, None, None] for v in (_PIXEL_MEAN, _PIXEL_STD))
        normalised = (resized - mean) / std
        return F.pad(normalised, (0, size - columns, 0, size - rows))[None]

    def boxes(self, boxes: NDArray[np.float64], shape: Shape2D, size: int) -> Tensor:
        """See :meth:`Preparation.boxes`."""
        rows, columns = resized_shape(shape, size)
        scale = np.array([columns / shape[1], rows / shape[0]] * 2)
        return torch.from_numpy(boxes * scale).float()

    def logits(self, masks: Tensor, shape: Shape2D, size: int) -> Tensor:
        """See :meth:`Preparation.logits`."""
        rows, columns = resized_shape(shape, size)
        return _interpolate(_interpolate(masks, (size, size))[:, :rows, :columns], shape)


class MedSamPreparation:
    """Preprocessing of MedSAM: both sides are resized to `size` by splines as by scikit-image,
    values are stretched to 0 to 1, and probabilities are interpolated once."""

    def image(self, grey: NDArray[np.uint8], size: int) -> Tensor:
        """See :meth:`Preparation.image`."""
        resized = resize_cubic(grey, (size, size)).astype(np.uint8).astype(np.float64)
        low, high = resized.min(), resized.max()
        stretched = torch.from_numpy((resized - low) / max(high - low, 1e-8)).float()
        return stretched.expand(1, 3, -1, -1)

    def boxes(self, boxes: NDArray[np.float64], shape: Shape2D, size: int) -> Tensor:
        """See :meth:`Preparation.boxes`."""
        return torch.from_numpy(boxes / np.array([shape[1], shape[0]] * 2) * size).float()

    def logits(self, masks: Tensor, shape: Shape2D, size: int) -> Tensor:
        """See :meth:`Preparation.logits`."""
        return _interpolate(masks.sigmoid(), shape).logit(_LOGIT_EPS)


PREPARATIONS: Mapping[str, Preparation] = {"sam": SamPreparation(), "medsam": MedSamPreparation()}


def resize_bilinear(grey: NDArray[np.uint8], shape: Shape2D) -> NDArray[np.uint8]:
    """Resize an image as Pillow does, and with it torchvision and SAM.

    The triangular filters widen when the image shrinks. Columns are resized first and rounded, then
    rows. Recent versions of Pillow begin with the rows if that is faster, which may change a grey
    value by 1.
    """
    across = _resize_rows(grey.T, shape[1]).T
    return _resize_rows(across, shape[0])


def _resize_rows(grey: NDArray[np.uint8], rows: int) -> NDArray[np.uint8]:
    if rows == len(grey):
        return grey
    scale = len(grey) / rows
    reach = max(scale, 1.0)
    centres = (np.arange(rows) + 0.5)[:, None] * scale
    pixels = np.arange(len(grey)) + 0.5
    weights = np.maximum(1 - abs(pixels - centres) / reach, 0)
    weights /= weights.sum(1, keepdims=True)
    units = np.floor(weights * _WEIGHT_UNITS + 0.5)
    # The sums are integers below 2**53, so that float64, which has the fast kernels, is exact.
    summed = units @ grey.astype(np.float64)
    values = np.floor((summed + _WEIGHT_UNITS / 2) / _WEIGHT_UNITS)
    return np.clip(values, 0, 255).astype(np.uint8)


def resize_cubic(grey: NDArray[np.uint8], shape: Shape2D) -> NDArray[np.float64]:
    """Resize an image by cubic splines as scikit-image does with anti-aliasing, within its range of
    values."""
    factors = np.array(grey.shape) / np.array(shape)
    sigmas = np.maximum(0, (factors - 1) / 2)
    image = grey.astype(np.float64)
    if sigmas.any():
        image = ndimage.gaussian_filter(image, sigmas, mode="mirror")
    resized = ndimage.zoom(image, 1 / factors, order=3, mode="mirror", grid_mode=True)
    clipped: NDArray[np.float64] = np.clip(resized, grey.min(), grey.max())
    return clipped


def resized_shape(shape: tuple[int, ...], size: int) -> Shape2D:
    """Return the shape of a slice whose longest side is resized to `size`."""
    scale = size / max(shape)
    return int(shape[0] * scale + 0.5), int(shape[1] * scale + 0.5)


def _interpolate(masks: Tensor, shape: Shape2D) -> Tensor:
    """Interpolate masks (N, h, w) bilinearly to (N, *shape)."""
    return F.interpolate(masks[:, None], shape, mode="bilinear", align_corners=False)[:, 0]

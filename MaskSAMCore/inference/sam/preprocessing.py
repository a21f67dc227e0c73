"""How a slice becomes SAM's input and its masks the slice's again: SAM's own way and MedSAM's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

# Of the 0 to 255 values that SAM was trained on.
_PIXEL_MEAN = (123.675, 116.28, 103.53)
_PIXEL_STD = (58.395, 57.12, 57.375)
# Pillow's resampling weights are whole numbers of this fraction.
_WEIGHT_UNITS = 1 << 22
# Probabilities nearer to 0 or 1 than this have no finite logit in float32.
_SURE = 1e-6

Shape2D = tuple[int, int]


class Preparation(Protocol):
    """A checkpoint's own way with slices."""

    def image(self, grey: NDArray[np.uint8], size: int) -> Tensor:
        """A slice (rows, columns) as (1, 3, size, size) float32."""
        ...

    def boxes(self, boxes: NDArray[np.float64], shape: Shape2D, size: int) -> Tensor:
        """(N, 4) x1 y1 x2 y2 in pixels of a slice of ``shape``, in pixels of SAM's input."""
        ...

    def logits(self, masks: Tensor, shape: Shape2D, size: int) -> Tensor:
        """The decoder's (N, h, w) logits on the slice's pixels, (N, rows, columns)."""
        ...


class SamPreparation:
    """SAM's: the longest side resized to ``size`` as Pillow does, normalised, padded at right and
    bottom; logits are interpolated twice."""

    def image(self, grey: NDArray[np.uint8], size: int) -> Tensor:
        """See :class:`Preparation`."""
        rows, columns = _resized_shape(grey.shape, size)
        resized = torch.from_numpy(resize_bilinear(grey, (rows, columns))).float()
        mean, std = (torch.tensor(v)[:, None, None] for v in (_PIXEL_MEAN, _PIXEL_STD))
        normalised = (resized - mean) / std
        return F.pad(normalised, (0, size - columns, 0, size - rows))[None]

    def boxes(self, boxes: NDArray[np.float64], shape: Shape2D, size: int) -> Tensor:
        """See :class:`Preparation`."""
        rows, columns = _resized_shape(shape, size)
        scale = np.array([columns / shape[1], rows / shape[0]] * 2)
        return torch.from_numpy(boxes * scale).float()

    def logits(self, masks: Tensor, shape: Shape2D, size: int) -> Tensor:
        """See :class:`Preparation`."""
        rows, columns = _resized_shape(shape, size)
        return _interpolate(_interpolate(masks, (size, size))[:, :rows, :columns], shape)


class MedSamPreparation:
    """MedSAM's: both sides resized to ``size`` by splines, as scikit-image does, and stretched to
    0..1; probabilities are interpolated once."""

    def image(self, grey: NDArray[np.uint8], size: int) -> Tensor:
        """See :class:`Preparation`."""
        resized = resize_cubic(grey, (size, size)).astype(np.uint8).astype(np.float64)
        low, high = resized.min(), resized.max()
        stretched = torch.from_numpy((resized - low) / max(high - low, 1e-8)).float()
        return stretched.expand(1, 3, -1, -1)

    def boxes(self, boxes: NDArray[np.float64], shape: Shape2D, size: int) -> Tensor:
        """See :class:`Preparation`."""
        return torch.from_numpy(boxes / np.array([shape[1], shape[0]] * 2) * size).float()

    def logits(self, masks: Tensor, shape: Shape2D, size: int) -> Tensor:
        """See :class:`Preparation`."""
        return _interpolate(masks.sigmoid(), shape).logit(_SURE)


PREPARATIONS: Mapping[str, Preparation] = {"sam": SamPreparation(), "medsam": MedSamPreparation()}


def resize_bilinear(grey: NDArray[np.uint8], shape: Shape2D) -> NDArray[np.uint8]:
    """An image resized as Pillow does it, and so torchvision and SAM.

    Triangles that widen when the image shrinks; columns first, rounded, then rows. Newer Pillow
    takes rows first where that is cheaper, which may change a grey value by 1.
    """
    across = _resize_rows(grey.T, shape[1]).T
    return _resize_rows(across, shape[0])


def _resize_rows(grey: NDArray[np.uint8], rows: int) -> NDArray[np.uint8]:
    if rows == len(grey):
        return grey
    scale = len(grey) / rows
    reach = max(scale, 1.0)
    centres = (np.arange(rows) + 0.5)[:, None] * scale
    places = np.arange(len(grey)) + 0.5
    weights = np.maximum(1 - abs(places - centres) / reach, 0)
    weights /= weights.sum(1, keepdims=True)
    whole = np.floor(weights * _WEIGHT_UNITS + 0.5)
    # Whole numbers below 2**53: the product is exact, and float64 has the fast kernels.
    summed = whole @ grey.astype(np.float64)
    values = np.floor((summed + _WEIGHT_UNITS / 2) / _WEIGHT_UNITS)
    return np.clip(values, 0, 255).astype(np.uint8)


def resize_cubic(grey: NDArray[np.uint8], shape: Shape2D) -> NDArray[np.float64]:
    """An image resized by cubic splines, smoothed before it shrinks, within its range of values."""
    factors = np.array(grey.shape) / np.array(shape)
    smooth = np.maximum(0, (factors - 1) / 2)
    image = grey.astype(np.float64)
    if smooth.any():
        image = ndimage.gaussian_filter(image, smooth, mode="mirror")
    resized = ndimage.zoom(image, 1 / factors, order=3, mode="mirror", grid_mode=True)
    clipped: NDArray[np.float64] = np.clip(resized, grey.min(), grey.max())
    return clipped


def _resized_shape(shape: tuple[int, ...], size: int) -> Shape2D:
    scale = size / max(shape)
    return int(shape[0] * scale + 0.5), int(shape[1] * scale + 0.5)


def _interpolate(masks: Tensor, shape: Shape2D) -> Tensor:
    """(N, h, w) to (N, *shape), bilinear."""
    return F.interpolate(masks[:, None], shape, mode="bilinear", align_corners=False)[:, 0]

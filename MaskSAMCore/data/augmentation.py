"""Augmentation of training windows with ``batchgeneratorsv2``.

Intensities change with nnU-Net's ranges and probabilities. Rotation, scaling and deformation are
as frequent as in nnU-Net or, for trainings that take minutes on few cases, more frequent. Shares of
the windows can get the contrast, the shades and the slice thickness of other scanners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.local.brightness_gradient import (
    BrightnessGradientAdditiveTransform,
)
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.data.planning import coarse_axis

Deformation = Literal["frequent", "nnunet"]
AugmentationKind = Literal["nnunet", "masam"]


# Fewest slices for the blur, which reflects up to three slices at either end of a window.
_BLURRED_SLICES = 4


@dataclass(frozen=True)
class _SpatialRanges:
    """Probabilities and ranges of the spatial changes.

    Attributes:
        rotation: probability of a rotation.
        scaling: probability of a scaling.
        scales: smallest and largest factor of a scaling.
        equal_scales: probability that a 3D scaling has the same factor along all axes.
        deformation: probability of an elastic deformation.
    """

    rotation: float
    scaling: float
    scales: tuple[float, float]
    equal_scales: float
    deformation: float


_SPATIAL_RANGES: dict[Deformation, _SpatialRanges] = {
    "frequent": _SpatialRanges(0.5, 0.4, (0.75, 1.35), 0.5, 0.3),
    "nnunet": _SpatialRanges(0.2, 0.2, (0.7, 1.4), 1.0, 0.0),
}


class Augmentation:
    """Windows cut from cases and rotated, scaled, deformed, mirrored and changed in intensity.

    Random numbers come from the global generators of NumPy and torch, which ``batchgeneratorsv2``
    uses.

    Args:
        window: (T, H, W) in voxels.
        spacing: spacing of the plan in mm; thick slices are transformed in-plane only.
        strength: factor of all probabilities; 0 only cuts windows and does not mirror them.
        mirror: axes of the window that are mirrored at random.
        contrast: probability of another scanner's contrast, independent of the strength.
        deformation: frequency and ranges of rotation, scaling and deformation.
        acquisition: probability of a shade, and probability of thick slices, independent of the
            strength.
    """

    def __init__(
        self,
        window: tuple[int, int, int],
        spacing: tuple[float, float, float],
        strength: float,
        mirror: tuple[int, ...],
        contrast: float = 0.0,
        deformation: Deformation = "frequent",
        acquisition: float = 0.0,
    ) -> None:
        thick_slices = coarse_axis(spacing) == 0
        self.window = window
        ranges = _SPATIAL_RANGES[deformation]
        self._spatial = _spatial_transform(window, thick_slices, strength, ranges)
        intensity = _intensity_transforms(thick_slices) if strength > 0 else []
        transforms = [
            RandomTransform(transform, min(1.0, probability * strength))
            for transform, probability in intensity
        ]
        if contrast > 0:
            transforms.append(RandomTransform(RandomContrastCurve(), contrast))
        if acquisition > 0:
            transforms.append(RandomTransform(_shade(), acquisition))
            transforms.append(RandomTransform(ThickSlices(thick_slices), acquisition))
        if mirror and strength > 0:
            transforms.append(MirrorTransform(mirror))
        self._intensity = ComposeTransforms(transforms)

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
        parameters = self._spatial.get_parameters(image=torch.empty(1, *self.window))
        size: NDArray[np.intp] = np.array(self.window)
        grid = parameters["grid"]
        if grid is not None:
            # The grid's positions are in half windows from the centre, columns first. The cut must
            # cover all of them, because a smaller cut would look as if the case ended at its sides.
            reach = grid.abs().amax(dim=(0, 1, 2)).numpy()[::-1]
            size = size + 2 * np.ceil(np.maximum(reach - 1, 0) * size / 2 + 1).astype(int)
            shrink = (np.array(self.window) / size)[::-1].copy()
            parameters["grid"] = grid * torch.from_numpy(shrink).float()
        parameters["center_location_in_pixels"] = size / 2
        # The library fills the outside with 0, so the lowest intensity is temporarily shifted to 0.
        channels = [
            cut(channel, centre, size, low) - np.float32(low)
            for channel, low in zip(image, lowest, strict=True)
        ]
        labels = cut(labelmap, centre, size, 0).astype(np.int16)
        moved = self._spatial.apply(
            {
                "image": torch.from_numpy(np.stack(channels)),
                "segmentation": torch.from_numpy(labels[None]),
            },
            **parameters,
        )
        moved["image"] += torch.tensor(lowest, dtype=torch.float32)[:, None, None, None]
        result = self._intensity(**moved)
        return result["image"].float(), result["segmentation"][0].long()


class RandomContrastCurve(ImageOnlyTransform):  # type: ignore[misc]
    """Random increasing intensity curve, with a random change of mean and standard deviation.

    It changes the contrast between tissues, as different scanners and sequences do.

    Attributes:
        quantiles: quantiles of the intensities at which the slope of the curve changes.
        slope: standard deviation of the logarithm of each piece's slope.
        shift: standard deviation of the change of the mean, in standard deviations of the image.
        scale: standard deviation of the logarithm of the factor on the image's standard deviation.
    """

    quantiles = (0.0, 0.02, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.98, 1.0)
    slope = 0.8
    shift = 0.3
    scale = 0.25

    def _apply_to_image(self, img: Tensor, **params: Any) -> Tensor:
        """Change each channel of (C, T, H, W) with a separate curve."""
        return torch.stack([self._change(channel) for channel in img])

    def _change(self, x: Tensor) -> Tensor:
        knots = np.quantile(x.numpy(), self.quantiles)
        rises = np.diff(knots) * np.exp(np.random.normal(0, self.slope, len(knots) - 1))
        values = np.concatenate([[0.0], np.cumsum(rises)])
        y = np.interp(x.numpy(), knots, values)
        mean, deviation = float(x.mean()), float(x.std())
        mean += deviation * np.random.normal(0, self.shift)
        deviation *= np.exp(np.random.normal(0, self.scale))
        y = (y - y.mean()) / max(y.std(), 1e-7) * deviation + mean
        return torch.from_numpy(y).to(x.dtype)


class ThinWindowBlur(GaussianBlurTransform):  # type: ignore[misc]
    """Gaussian blur that also works on windows of one to three slices.

    Their last slice is temporarily repeated, because the library reflects more slices than they
    have.
    """

    def _apply_to_image(self, img: Tensor, **params: Any) -> Tensor:
        """Blur some channels of (C, T, H, W)."""
        slices = img.shape[1]
        repeated = (0, 0, 0, 0, 0, max(0, _BLURRED_SLICES - slices))
        enough = F.pad(img[None], repeated, mode="replicate")[0]
        return super()._apply_to_image(enough, **params)[:, :slices]


class ThickSlices(SimulateLowResolutionTransform):  # type: ignore[misc]
    """Change of one axis to voxels of up to four times the size, and back.

    Args:
        within_slices: True for windows with thick slices, of which an axis in the plane is changed.
    """

    def __init__(self, within_slices: bool) -> None:
        super().__init__(
            scale=(0.25, 1), synchronize_channels=True, synchronize_axes=True, ignore_axes=None
        )
        self._axes = (1, 2) if within_slices else (0, 1, 2)

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        """Return the channels and the scales of their axes, 1 except for one random axis."""
        parameters: dict[str, Any] = super().get_parameters(**data_dict)
        changed = np.random.choice(self._axes)
        kept = [axis for axis in range(3) if axis != changed]
        parameters["scales"][:, kept] = 1
        return parameters


def cut(
    array: NDArray[Any],
    centre: Sequence[int],
    size: Sequence[int] | NDArray[np.intp],
    fill: float,
) -> NDArray[Any]:
    """Return the part of an array of a given size around a voxel.

    Args:
        array: any array with 3 axes.
        centre: index of the voxel at the centre.
        size: size of the part along each axis.
        fill: value outside the array.
    """
    result = np.full(tuple(size), fill, dtype=array.dtype)
    source, target = [], []
    for middle, length, extent in zip(centre, size, array.shape, strict=True):
        start = middle - length // 2
        first, last = max(start, 0), min(start + length, extent)
        source.append(slice(first, max(first, last)))
        target.append(slice(first - start, max(first, last) - start))
    result[tuple(target)] = array[tuple(source)]
    return result


def _spatial_transform(
    window: tuple[int, int, int], thick_slices: bool, strength: float, ranges: _SpatialRanges
) -> SpatialTransform:
    """Return the transform that rotates, scales and deforms; ``dim`` 0 in its callbacks is
    depth."""
    largest = np.pi if thick_slices else np.pi / 6

    def rotation(dim: int, **_: Any) -> float:
        # A rotation about axis 0 stays within slices.
        return float(np.random.uniform(-largest, largest)) if dim == 0 or not thick_slices else 0.0

    def scaling(dim: int | None, **_: Any) -> float:
        return 1.0 if dim == 0 and thick_slices else float(np.random.uniform(*ranges.scales))

    def magnitude(dim: int, **_: Any) -> float:
        return 0.0 if dim == 0 and thick_slices else float(np.random.uniform(0.5, 2.5))

    return SpatialTransform(
        window,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_elastic_deform=min(1.0, ranges.deformation * strength),
        elastic_deform_scale=(0.1, 0.25),
        elastic_deform_magnitude=magnitude,
        p_rotation=min(1.0, ranges.rotation * strength),
        rotation=rotation,
        p_scaling=min(1.0, ranges.scaling * strength),
        scaling=scaling,
        p_synchronize_scaling_across_axes=0 if thick_slices else ranges.equal_scales,
        mode_seg="bilinear",
    )


def _shade() -> BrightnessGradientAdditiveTransform:
    """Return the transform that adds a smooth shade to images of standard deviation 1, as the
    sensitivity of a receive coil does."""

    def width(shape: Sequence[int], dim: int) -> float:
        return float(np.random.uniform(0.4, 1.2)) * shape[dim]

    def strength(*_: Any) -> float:
        return float(np.random.uniform(-1.5, 1.5))

    return BrightnessGradientAdditiveTransform(
        width, loc=(-0.5, 1.5), max_strength=strength, same_for_all_channels=False
    )


def _intensity_transforms(thick_slices: bool) -> list[tuple[Any, float]]:
    """Return the transforms of intensities with their probabilities."""

    def gamma(invert: int) -> GammaTransform:
        return GammaTransform(
            BGContrast((0.7, 1.5)),
            p_invert_image=invert,
            synchronize_channels=False,
            p_per_channel=1,
            p_retain_stats=1,
        )

    low_resolution = SimulateLowResolutionTransform(
        scale=(0.5, 1),
        synchronize_channels=False,
        synchronize_axes=True,
        ignore_axes=(0,) if thick_slices else (),
        allowed_channels=None,
        p_per_channel=0.5,
    )
    brightness = MultiplicativeBrightnessTransform(
        BGContrast((0.75, 1.25)), synchronize_channels=False, p_per_channel=1
    )
    contrast = ContrastTransform(
        BGContrast((0.75, 1.25)), preserve_range=True, synchronize_channels=False, p_per_channel=1
    )
    return [
        (GaussianNoiseTransform((0, 0.1), p_per_channel=1, synchronize_channels=True), 0.1),
        (ThinWindowBlur((0.5, 1.0), p_per_channel=0.5, benchmark=False), 0.2),
        (brightness, 0.15),
        (contrast, 0.15),
        (low_resolution, 0.25),
        (gamma(1), 0.1),
        (gamma(0), 0.3),
    ]

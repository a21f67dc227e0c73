"""Augmented windows out of cases, by ``batchgeneratorsv2``.

Intensities change with nnU-Net's ranges and probabilities. Windows are turned, scaled and deformed
more often than nnU-Net's: there are few cases, and they are trained on for minutes, not for days.
A share of the windows gets the contrast of some other scanner, where a model is to work on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.data.planning import coarse_axis


class Augmentation:
    """Takes windows out of cases: turned, scaled, deformed, with other intensities, mirrored.

    It draws from the global generators of NumPy and torch, as its library does.

    Args:
        window: (T, H, W).
        spacing: of the plan; where depth is the coarse axis, nothing moves from slice to slice.
        strength: multiplies probabilities; 0 leaves only the cut, and mirrors nothing.
        mirror: mirrored axes of the window.
        contrast: probability of another contrast, whatever the strength.
    """

    def __init__(
        self,
        window: tuple[int, int, int],
        spacing: tuple[float, float, float],
        strength: float,
        mirror: tuple[int, ...],
        contrast: float = 0.0,
    ) -> None:
        flat = coarse_axis(spacing) == 0
        self.window = window
        self._spatial = _spatial(window, flat, strength)
        transforms = [
            RandomTransform(transform, min(1.0, probability * strength))
            for transform, probability in (_intensity(flat) if strength > 0 else [])
        ]
        if contrast > 0:
            transforms.append(RandomTransform(OtherContrast(), contrast))
        if mirror and strength > 0:
            transforms.append(MirrorTransform(mirror))
        self._others = ComposeTransforms(transforms)

    def __call__(
        self,
        image: NDArray[np.float32],
        label: NDArray[np.integer],
        centre: Sequence[int],
        lowest: Sequence[float],
    ) -> tuple[Tensor, Tensor]:
        """A window.

        Args:
            image: (C, D, R, Cc), a whole case.
            label: (D, R, Cc), its labels.
            centre: the window's middle in the case.
            lowest: intensity of what lies outside the case, for each channel.

        Returns:
            Float32 (C, T, H, W) and int64 (T, H, W); what lies outside the case has label 0.
        """
        parameters = self._spatial.get_parameters(image=torch.empty(1, *self.window))
        size: NDArray[np.intp] = np.array(self.window)
        grid = parameters["grid"]
        if grid is not None:
            # Samples in half windows from the middle, columns first. The cut holds all of them:
            # a smaller one would put the case's border into the middle of windows.
            reach = grid.abs().amax(dim=(0, 1, 2)).numpy()[::-1]
            size = size + 2 * np.ceil(np.maximum(reach - 1, 0) * size / 2 + 1).astype(int)
            shrink = (np.array(self.window) / size)[::-1].copy()
            parameters["grid"] = grid * torch.from_numpy(shrink).float()
        parameters["center_location_in_pixels"] = size / 2
        # The library fills with 0.
        channels = [
            cut(channel, centre, size, low) - np.float32(low)
            for channel, low in zip(image, lowest, strict=True)
        ]
        labels = cut(label, centre, size, 0).astype(np.int16)
        moved = self._spatial.apply(
            {
                "image": torch.from_numpy(np.stack(channels)),
                "segmentation": torch.from_numpy(labels[None]),
            },
            **parameters,
        )
        moved["image"] += torch.tensor(lowest, dtype=torch.float32)[:, None, None, None]
        result = self._others(**moved)
        return result["image"].float(), result["segmentation"][0].long()


class OtherContrast(ImageOnlyTransform):  # type: ignore[misc]
    """Intensities through a random increasing curve, with another mean and spread: some tissues
    come closer and others part, as between two scanners or sequences of one kind."""

    quantiles = (0.0, 0.02, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.98, 1.0)
    # Spread of the logarithm of a piece's slope, and of the mean and spread of all.
    slope, shift, scale = 0.8, 0.3, 0.25

    def _apply_to_image(self, img: Tensor, **params: Any) -> Tensor:
        """(C, T, H, W) to the same, each channel by a curve of its own."""
        return torch.stack([self._changed(channel) for channel in img])

    def _changed(self, x: Tensor) -> Tensor:
        knots = np.quantile(x.numpy(), self.quantiles)
        rises = np.diff(knots) * np.exp(np.random.normal(0, self.slope, len(knots) - 1))
        values = np.concatenate([[0.0], np.cumsum(rises)])
        y = np.interp(x.numpy(), knots, values)
        mean, deviation = float(x.mean()), float(x.std())
        mean += deviation * np.random.normal(0, self.shift)
        deviation *= np.exp(np.random.normal(0, self.scale))
        y = (y - y.mean()) / max(y.std(), 1e-7) * deviation + mean
        return torch.from_numpy(y).to(x.dtype)


def cut(
    array: NDArray[Any],
    centre: Sequence[int],
    size: Sequence[int] | NDArray[np.intp],
    fill: float,
) -> NDArray[Any]:
    """The part of ``array`` of a given size around a voxel, filled where it reaches outside."""
    result = np.full(tuple(size), fill, dtype=array.dtype)
    source, target = [], []
    for middle, length, extent in zip(centre, size, array.shape, strict=True):
        start = middle - length // 2
        first, last = max(start, 0), min(start + length, extent)
        source.append(slice(first, max(first, last)))
        target.append(slice(first - start, max(first, last) - start))
    result[tuple(target)] = array[tuple(source)]
    return result


def _spatial(window: tuple[int, int, int], flat: bool, strength: float) -> SpatialTransform:
    """The library asks for each axis of the window, from depth on."""
    turn = np.pi if flat else np.pi / 6

    def rotation(dim: int, **_: Any) -> float:
        # The first is the turn within slices.
        return float(np.random.uniform(-turn, turn)) if dim == 0 or not flat else 0.0

    def scaling(dim: int | None, **_: Any) -> float:
        return 1.0 if dim == 0 and flat else float(np.random.uniform(0.75, 1.35))

    def magnitude(dim: int, **_: Any) -> float:
        return 0.0 if dim == 0 and flat else float(np.random.uniform(0.5, 2.5))

    return SpatialTransform(
        window,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_elastic_deform=min(1.0, 0.3 * strength),
        elastic_deform_scale=(0.1, 0.25),
        elastic_deform_magnitude=magnitude,
        p_rotation=min(1.0, 0.5 * strength),
        rotation=rotation,
        p_scaling=min(1.0, 0.4 * strength),
        scaling=scaling,
        p_synchronize_scaling_across_axes=0 if flat else 0.5,
        mode_seg="bilinear",
    )


def _intensity(flat: bool) -> list[tuple[Any, float]]:
    """Transforms and their probabilities."""

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
        ignore_axes=(0,) if flat else (),
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
        (GaussianBlurTransform((0.5, 1.0), p_per_channel=0.5, benchmark=False), 0.2),
        (brightness, 0.15),
        (contrast, 0.15),
        (low_resolution, 0.25),
        (gamma(1), 0.1),
        (gamma(0), 0.3),
    ]

"""nnU-Net's augmentations, from ``batchgeneratorsv2``, on windows cut out of cases.

Rotation, scaling, elastic deformation, noise, blur, brightness, contrast, low resolution, gamma,
inverted gamma, mirroring, with nnU-Net's probabilities.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
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

from .planning import ANISOTROPY

# A rotated and scaled window reaches this much further than itself.
REACH = 1.5


def build_augmentation(
    window: tuple[int, int, int],
    spacing: tuple[float, float, float],
    strength: float,
    mirror: tuple[int, ...],
) -> ComposeTransforms:
    """The transforms of a training window.

    Args:
        window: (T, H, W).
        spacing: of the plan; where depth is much coarser, turns stay within slices.
        strength: multiplies probabilities; 0 leaves only the cut and no mirroring.
        mirror: mirrored axes of the window.
    """
    flat = spacing[0] > ANISOTROPY * min(spacing[1:])
    turn = np.pi if flat else np.pi / 6

    def rotation(dim: int = 0, **_: Any) -> float:
        """Batchgenerators asks for each axis: only the first turns within slices."""
        return float(np.random.uniform(-turn, turn)) if dim == 0 or not flat else 0.0

    spatial = SpatialTransform(
        window,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_elastic_deform=0.3 * strength,
        elastic_deform_scale=(0.1, 0.25),
        elastic_deform_magnitude=(0.5, 2.5),
        p_rotation=min(1.0, 0.5 * strength),
        rotation=rotation,
        p_scaling=min(1.0, 0.4 * strength),
        scaling=(0.75, 1.35),
        p_synchronize_scaling_across_axes=0.5,
        bg_style_seg_sampling=False,
        mode_seg="nearest",
    )
    transforms: list[Any] = [spatial]
    if strength > 0:
        for transform, probability in _intensity():
            transforms.append(RandomTransform(transform, min(1.0, probability * strength)))
        if mirror:
            transforms.append(MirrorTransform(mirror))
    return ComposeTransforms(transforms)


def _intensity() -> list[tuple[Any, float]]:
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
        ignore_axes=(),
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


def augment(
    transforms: ComposeTransforms, image: NDArray[np.float32], label: NDArray[np.integer]
) -> tuple[Tensor, Tensor]:
    """One window out of a cut around it.

    Args:
        transforms: of :func:`build_augmentation`.
        image: (C, D, H, W), larger than the window.
        label: (D, H, W).

    Returns:
        Float32 (C, T, H, W) and int64 (T, H, W). What lies outside the case has its lowest
        intensity and label 0.
    """
    lowest = float(image.min())
    result = transforms(
        image=torch.from_numpy(image - lowest),
        segmentation=torch.from_numpy(label[None].astype(np.int16)),
    )
    moved: Tensor = result["image"].float() + lowest
    labels: Tensor = result["segmentation"][0].long()
    return moved, labels

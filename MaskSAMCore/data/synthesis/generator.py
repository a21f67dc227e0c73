"""Images of random contrast, resolution and quality, generated from labelmaps.

This is the generative model of SynthSeg (Billot et al., Medical Image Analysis 86, 2023): a network
trained only on such images segments real ones of any contrast. Windows are generated, not whole
heads:

1. Affine map, smooth deformation and left-right flip form one cubic B-spline from window to
   labelmap, so that labels are looked up once.
2. Random blobs within a label, such as the white matter, become lesions.
3. Intensities of each label follow a Gaussian, on a grid as fine as the labelmap's.
4. Blur and acquisition are one matrix for each axis, whose rows are slice profiles.
5. Bias field, noise and gamma are applied to the acquired voxels.
6. One interpolation matrix for each axis resamples to the network's grid, as inference does.

All steps are in torch, run on any device and take their random numbers from one `RandomSource`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from MaskSAMCore.data.label_scheme import LabelScheme
from MaskSAMCore.data.planning import ANISOTROPY
from MaskSAMCore.data.synthesis.deformation import (
    BSplineTransform,
    along_axes,
    rotation_matrix,
    spline_basis,
    voxel_centres,
)
from MaskSAMCore.data.synthesis.labelmap import Labelmap
from MaskSAMCore.data.synthesis.lesions import LesionField
from MaskSAMCore.data.synthesis.random_source import RandomSource
from MaskSAMCore.labels import GOLDEN_RATIO

# Full width at half maximum of a Gaussian, in standard deviations.
_FWHM = 2.3548
# Largest difference between mean intensities of labels that share a tissue.
_TISSUE_DIFFERENCE = 0.06
# Largest mean and standard deviation of a dark background.
_DARK_MEAN, _DARK_SPREAD = 0.06, 0.02
# Ranges of the knot spacing of lesion fields in mm, and of their threshold in standard deviations.
# At the lowest threshold a tenth of the tissue is lesions, at the highest hardly any.
_LESION_KNOT_SPACING = (3.0, 9.0)
_LESION_THRESHOLD = (1.3, 3.2)
# Control points of the bias field are at least this many mm apart.
_BIAS_KNOT_SPACING = 40.0


@dataclass(frozen=True)
class SynthesisRanges:
    """Ranges and probabilities of the random changes. Intensities lie between 0 and 1.

    Attributes:
        rotation: largest rotation about each axis in degrees.
        scale: largest change of scale along each axis, as a fraction.
        shear: largest shear of each axis along each of the others.
        deformation: largest standard deviation of the control points' shifts in mm.
        knot_spacing: distance of the deformation's control points in mm.
        flip: probability of a left-right flip, for labels that have sides.
        lesions: probability of lesions, for label schemes that have them.
        common_contrasts: probability that the contrast is one of the label scheme's, not random.
        spread: largest standard deviation of intensities within a label.
        shared_means: probability that labels of one tissue get nearly the same mean intensity.
        dark_background: probability that the background is as dark as air.
        strip: probability that the surroundings are removed.
        crop: probability that the image ends within the window, for each axis.
        bias: largest standard deviation of the bias field's logarithm.
        gamma: standard deviation of the logarithm of gamma.
        noise: largest standard deviation of the noise.
        thick_slices: probability of thick slices along one axis.
        slice_thickness: largest slice thickness in mm.
        in_plane_spacing: largest voxel size along the other axes in mm.
    """

    rotation: float = 15.0
    scale: float = 0.15
    shear: float = 0.08
    deformation: float = 3.0
    knot_spacing: float = 32.0
    flip: float = 0.5
    lesions: float = 0.6
    common_contrasts: float = 0.0
    spread: float = 0.1
    shared_means: float = 0.5
    dark_background: float = 0.85
    strip: float = 0.25
    crop: float = 0.1
    bias: float = 0.3
    gamma: float = 0.3
    noise: float = 0.08
    thick_slices: float = 0.5
    slice_thickness: float = 6.0
    in_plane_spacing: float = 2.0

    def scaled(self, strength: float) -> SynthesisRanges:
        """Return a copy with the distortions of shape and intensity multiplied by a factor;
        contrast, resolution and probabilities are unchanged."""
        return replace(
            self,
            rotation=strength * self.rotation,
            scale=strength * self.scale,
            shear=strength * self.shear,
            deformation=strength * self.deformation,
            bias=strength * self.bias,
            gamma=strength * self.gamma,
            noise=strength * self.noise,
        )


class ImageGenerator:
    """Generator of windows, each an image and its classes, from labelmaps.

    Args:
        scheme: meaning of the labels.
        window: (T, H, W) in voxels.
        spacing: mm of the window's voxels along each axis.
        lateral: axis of the window that runs between left and right.
        ranges: ranges of the random changes.
    """

    def __init__(
        self,
        scheme: LabelScheme,
        window: tuple[int, int, int],
        spacing: tuple[float, float, float],
        lateral: int,
        ranges: SynthesisRanges | None = None,
    ) -> None:
        self.scheme = scheme
        self.window = window
        self.spacing = spacing
        self.lateral = lateral
        self.ranges = ranges or SynthesisRanges()
        # A scheme without contrasts gets one that separates the tissues.
        distinct = (torch.tensor(scheme.tissues) * GOLDEN_RATIO + 0.3) % 1
        self._contrasts = [torch.tensor(kind) for kind in scheme.contrasts] or [distinct]

    def generate_window(
        self, labelmap: Labelmap, centre: Sequence[float], rng: RandomSource
    ) -> tuple[Tensor, Tensor]:
        """Return a random window.

        Args:
            labelmap: labelmap on the device of ``rng``.
            centre: position of the window's centre in mm from the labelmap's corner.
            rng: random numbers.

        Returns:
            The image, float32 (1, T, H, W) with mean 0 and standard deviation 1, and the classes,
            int64 (T, H, W).
        """
        flipped = self.scheme.paired and rng.bernoulli(self.ranges.flip)
        transform = self._transform(centre, flipped, rng)
        lesions: LesionField | None = None
        if self.scheme.lesions and rng.bernoulli(self.ranges.lesions):
            lesions = self._lesions(rng)
        image = self._image(labelmap, transform, lesions, rng)
        class_of_label = torch.tensor(self.scheme.targets)
        if flipped:
            class_of_label = class_of_label[torch.tensor(self.scheme.mirrored)]
        labels = transform.sample(labelmap, self.window, self.spacing)
        if lesions is not None:
            labels = lesions.apply(labels, self.spacing)
        classes = class_of_label.to(rng.device).index_select(0, labels.int().flatten())
        classes = classes.reshape(self.window)
        image, classes = self._cropped(image, classes, rng)
        return _standardized(image)[None], classes

    def generate_image(self, labelmap: Labelmap, rng: RandomSource) -> Tensor:
        """Return an image of a whole labelmap without deformation, lesions or cropping.

        Args:
            labelmap: a labelmap whose grid equals the window's.
            rng: random numbers.

        Returns:
            Float32 (D, R, C), intensities of about 0 to 1.
        """
        return self._image(labelmap, BSplineTransform.identity(labelmap), None, rng)

    def _transform(
        self, centre: Sequence[float], flipped: bool, rng: RandomSource
    ) -> BSplineTransform:
        ranges = self.ranges
        angles = [math.radians(rng.uniform(-ranges.rotation, ranges.rotation)) for _ in range(3)]
        scales = (rng.uniform_tensor(-1, 1, 3) * math.log1p(ranges.scale)).exp()
        matrix = rotation_matrix(angles) @ torch.diag(scales)
        shear = rng.uniform_tensor(-ranges.shear, ranges.shear, 9).reshape(3, 3)
        matrix = matrix @ (torch.eye(3) + shear * (1 - torch.eye(3)))
        if flipped:
            matrix[:, self.lateral] *= -1
        strength = rng.uniform(0, ranges.deformation)
        return BSplineTransform.random(
            matrix, centre, self._extent, ranges.knot_spacing, strength, rng
        )

    @property
    def _extent(self) -> list[float]:
        """Size of the window along each axis in mm."""
        return [n * mm for n, mm in zip(self.window, self.spacing, strict=True)]

    def _lesions(self, rng: RandomSource) -> LesionField:
        """Return random lesions of a window."""
        return LesionField.random(
            self.scheme.lesions,
            self._extent,
            rng.uniform(*_LESION_KNOT_SPACING),
            rng.uniform(*_LESION_THRESHOLD),
            rng,
        )

    def _image(
        self,
        labelmap: Labelmap,
        transform: BSplineTransform,
        lesions: LesionField | None,
        rng: RandomSource,
    ) -> Tensor:
        """Return the image on the network's grid, (T, H, W), intensities of about 0 to 1."""
        ranges, device, extent = self.ranges, rng.device, self._extent
        # The fine grid divides the network's voxels into whole parts of about the labelmap's size.
        parts = [
            max(1, round(mm / own)) for mm, own in zip(self.spacing, labelmap.spacing, strict=True)
        ]
        shape = [n * part for n, part in zip(self.window, parts, strict=True)]
        fine = [mm / part for mm, part in zip(self.spacing, parts, strict=True)]
        sampled = transform.sample(labelmap, shape, fine)
        if lesions is not None:
            sampled = lesions.apply(sampled, fine)
        labels = sampled.int().flatten()
        means, spreads, stripped = self._label_intensities(rng)
        image = rng.normal_tensor([labels.numel()])
        image.mul_(spreads.to(device).index_select(0, labels))
        image.add_(means.to(device).index_select(0, labels))
        image = image.reshape(shape)

        acquired = self._acquired_spacing(fine, rng)
        shifts = [rng.uniform(-0.5, 0.5) * size for size in acquired]
        centres = [
            voxel_centres(length, size, shift)
            for length, size, shift in zip(extent, acquired, shifts, strict=True)
        ]
        profiles = [
            _slice_profiles(voxel_centres(length, mm), at, max(size * rng.uniform(0.7, 1.0), mm))
            for length, mm, at, size in zip(extent, fine, centres, acquired, strict=True)
        ]
        image = along_axes(image, [profile.to(device) for profile in profiles])

        image *= self._bias_field(centres, rng)
        signal = image.clamp_(min=0)
        noise = rng.normal_tensor(image.shape) * rng.uniform(0, ranges.noise)
        # A stripped image is exactly 0 outside the labels that remain.
        noisy = torch.where(signal > 1e-3, signal + noise, signal) if stripped else signal + noise
        image = noisy.abs().pow_(math.exp(rng.normal(ranges.gamma)))

        coarsest = max(range(3), key=lambda axis: acquired[axis])
        anisotropic = acquired[coarsest] > ANISOTROPY * min(acquired)
        resampling = [
            _interpolation(at, voxel_centres(length, mm), anisotropic and axis == coarsest)
            for axis, (at, length, mm) in enumerate(zip(centres, extent, self.spacing, strict=True))
        ]
        return along_axes(image, [matrix.to(device) for matrix in resampling])

    def _label_intensities(self, rng: RandomSource) -> tuple[Tensor, Tensor, bool]:
        """Return the mean and standard deviation of each label, both (labels,), and whether the
        surroundings are removed."""
        ranges, count = self.ranges, len(self.scheme.names)
        tissue = torch.tensor(self.scheme.tissues)
        sides = torch.minimum(torch.arange(count), torch.tensor(self.scheme.mirrored))
        means = rng.uniform_tensor(0, 1, count)
        spreads = rng.uniform_tensor(0, ranges.spread, count)
        if rng.bernoulli(ranges.shared_means):
            means = means[tissue] + _TISSUE_DIFFERENCE * rng.uniform_tensor(-1, 1, count)
            spreads = spreads[tissue]
        common = rng.bernoulli(ranges.common_contrasts)
        if common:
            known = self._contrasts[rng.randint(len(self._contrasts))]
            known = known + _TISSUE_DIFFERENCE * rng.uniform_tensor(-1, 1, count)
            means = torch.where(known.isnan(), means, known)
        means, spreads = means[sides].clamp(min=0.02), spreads[sides]
        if rng.bernoulli(1.0 if common else ranges.dark_background):
            means[0], spreads[0] = rng.uniform(0, _DARK_MEAN), rng.uniform(0, _DARK_SPREAD)
        stripped = bool(self.scheme.surroundings) and rng.bernoulli(ranges.strip)
        if stripped:
            removed = [0, *self.scheme.surroundings]
            means[removed], spreads[removed] = 0.0, 0.0
        return means, spreads, stripped

    def _acquired_spacing(self, fine: Sequence[float], rng: RandomSource) -> list[float]:
        """Return the scanner's voxel size along each axis in mm, at least that of ``fine``."""
        ranges = self.ranges
        size = rng.uniform(0, ranges.in_plane_spacing)
        spacing = [max(mm, size) for mm in fine]
        if rng.bernoulli(ranges.thick_slices):
            axis = rng.randint(3)
            spacing[axis] = max(fine[axis], rng.uniform(2.0, ranges.slice_thickness))
        return spacing

    def _bias_field(self, centres: Sequence[Tensor], rng: RandomSource) -> Tensor:
        """Return a smooth multiplicative field at voxel centres given for each axis, on the device
        of ``rng``."""
        bases = [
            spline_basis(at + length / 2, max(length / 3, _BIAS_KNOT_SPACING), length)
            for at, length in zip(centres, self._extent, strict=True)
        ]
        shape = [basis.shape[1] for basis in bases]
        strength = rng.uniform(0, self.ranges.bias)
        control = (rng.unit_uniform_tensor(math.prod(shape)) * strength).reshape(shape)
        on_device = [basis.to(rng.device) for basis in bases]
        return along_axes(control.to(rng.device), on_device).exp_()

    def _cropped(self, image: Tensor, classes: Tensor, rng: RandomSource) -> tuple[Tensor, Tensor]:
        """Blank one end of the window along random axes, as if the volume ended there."""
        for axis, length in enumerate(self.window):
            if not rng.bernoulli(self.ranges.crop):
                continue
            blank = rng.randint(max(1, length // 3))
            start = 0 if rng.bernoulli(0.5) else length - blank
            image.narrow(axis, start, blank).fill_(float(image.min()))
            classes.narrow(axis, start, blank).fill_(0)
        return image, classes


def _standardized(image: Tensor) -> Tensor:
    """Return an image with mean 0 and standard deviation 1."""
    return (image - image.mean()) / image.std().clamp(min=1e-6)


def _slice_profiles(fine: Tensor, centres: Tensor, thickness: float) -> Tensor:
    """Return Gaussian slice profiles, (acquired, fine); each row sums to 1."""
    weights = torch.exp(-0.5 * ((fine - centres[:, None]) * _FWHM / thickness) ** 2)
    total = weights.sum(1, keepdim=True)
    return weights / total.clamp(min=1e-12)


def _interpolation(centres: Tensor, wanted: Tensor, nearest: bool) -> Tensor:
    """Return weights that resample evenly spaced voxels, linearly or to the nearest.

    Args:
        centres: (acquired,), centres of the acquired voxels in mm.
        wanted: (wanted,), positions to interpolate at in mm; positions outside get the edge voxel.
        nearest: take the nearest voxel instead of interpolating.

    Returns:
        (wanted, acquired).
    """
    if len(centres) == 1:
        return torch.ones(len(wanted), 1)
    position = ((wanted - centres[0]) / (centres[1] - centres[0])).clamp(0, len(centres) - 1)
    if nearest:
        position = position.round()
    return (1 - (position[:, None] - torch.arange(len(centres))).abs()).clamp(min=0)

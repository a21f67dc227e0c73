"""Images of random contrast, resolution and quality out of label maps.

The generative model of SynthSeg (Billot et al., Medical Image Analysis 86, 2023): a network that
has seen only such images segments real ones of any contrast. A window is made, never a whole head:

1. affine map, smooth deformation and left-right flip: one map from window to label map, a cubic
   B-spline whose control points hold all three, and one nearest-label look-up;
2. a Gaussian for each tissue, on a grid as fine as the label map's;
3. blur and acquisition: a matrix an axis, whose rows are slice profiles;
4. bias field, gamma and noise on the acquired voxels;
5. the network's grid: again a matrix an axis, interpolating as the inference does.

Everything is in torch, on any device, and drawn from one generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from MaskSAMCore.data.planning import ANISOTROPY
from MaskSAMCore.data.synthesis.deformation import (
    LabelMap,
    Mapping,
    Three,
    along_axes,
    rotation_matrix,
    spline_basis,
    voxel_centres,
)
from MaskSAMCore.data.synthesis.label_scheme import LabelScheme
from MaskSAMCore.data.synthesis.random_source import Draw

# Width at half the height of a Gaussian, in standard deviations.
_FWHM = 2.3548
# Its multiples, less whole numbers, are spread evenly over 0 to 1.
_GOLDEN = 0.6180340
# Of grey values of one tissue from one another, at most.
_DIFFERENCE = 0.06


@dataclass(frozen=True)
class Ranges:
    """What images vary in: largest values of ranges, and probabilities.

    Attributes:
        rotation: degrees about each axis.
        scale: as a factor, up and down.
        shear: of each axis with each other.
        deformation: standard deviation in mm of the control points' shifts.
        knots: mm between control points.
        flip: probability of a left-right flip, where labels have sides.
        common: probability of one of the labels' well-known contrasts; the rest are random.
        spread: largest standard deviation within a tissue; means lie between 0 and 1.
        alike: probability that labels of one tissue have nearly one mean.
        dark_air: probability that the background is dark, as air is.
        strip: probability that the surroundings are taken away.
        crop: probability that the image ends within the window, along each axis.
        bias: standard deviation of the bias field's logarithm.
        gamma: standard deviation of the logarithm of gamma.
        noise: largest standard deviation.
        thick: probability of thick slices along one axis.
        thickness: largest slice thickness, mm.
        in_plane: largest voxel size along the other axes, mm.
    """

    rotation: float = 15.0
    scale: float = 0.15
    shear: float = 0.08
    deformation: float = 3.0
    knots: float = 32.0
    flip: float = 0.5
    common: float = 0.0
    spread: float = 0.1
    alike: float = 0.5
    dark_air: float = 0.85
    strip: float = 0.25
    crop: float = 0.1
    bias: float = 0.3
    gamma: float = 0.3
    noise: float = 0.08
    thick: float = 0.5
    thickness: float = 6.0
    in_plane: float = 2.0

    def scaled(self, strength: float) -> Ranges:
        """With distortions of shape and intensity that many times as strong; contrast, resolution
        and probabilities stay."""
        names = ("rotation", "scale", "shear", "deformation", "bias", "gamma", "noise")
        return replace(self, **{name: strength * getattr(self, name) for name in names})


class Synthesis:
    """Makes windows, image and classes, out of label maps.

    Args:
        scheme: what the labels are.
        window: (T, H, W) voxels.
        spacing: mm of the window's voxels.
        lateral: the window's axis from left to right.
        ranges: what images vary in.
    """

    def __init__(
        self,
        scheme: LabelScheme,
        window: tuple[int, int, int],
        spacing: Three,
        lateral: int,
        ranges: Ranges | None = None,
    ) -> None:
        self.scheme = scheme
        self.window = window
        self.spacing = spacing
        self.lateral = lateral
        self.ranges = ranges or Ranges()
        # Where no contrast is known, any that tells the tissues apart.
        apart = (torch.tensor(scheme.tissues) * _GOLDEN + 0.3) % 1
        self.contrasts = [torch.tensor(kind) for kind in scheme.contrasts] or [apart]

    def __call__(
        self, source: LabelMap, centre: Sequence[float], draw: Draw
    ) -> tuple[Tensor, Tensor]:
        """A window.

        Args:
            source: on the device of ``draw``.
            centre: of the window in the label map, mm from its corner.
            draw: the source of all random numbers.

        Returns:
            Float32 (1, T, H, W) and int64 (T, H, W).
        """
        flipped = self.scheme.paired and draw.chance(self.ranges.flip)
        where = self._mapping(source, centre, flipped, draw)
        image = self._image(source, where, draw)
        table = torch.tensor(self.scheme.targets)
        if flipped:
            table = table[torch.tensor(self.scheme.mirrored)]
        coarse = where.sample(source, self.window, self.spacing)
        classes = table.to(draw.device).index_select(0, coarse.int().flatten())
        classes = classes.reshape(self.window)
        image, classes = self._cropped(image, classes, draw)
        return normalized(image)[None], classes

    def whole(self, source: LabelMap, draw: Draw) -> Tensor:
        """An image of a whole label map, whose grid the window's is, undeformed: float32
        (D, R, C)."""
        return self._image(source, Mapping.identity(source), draw)

    def _mapping(
        self, source: LabelMap, centre: Sequence[float], flipped: bool, draw: Draw
    ) -> Mapping:
        ranges = self.ranges
        angles = [math.radians(draw.uniform(-ranges.rotation, ranges.rotation)) for _ in range(3)]
        matrix = rotation_matrix(angles) @ torch.diag(
            (draw.uniforms(3, -1, 1) * math.log1p(ranges.scale)).exp()
        )
        shear = draw.uniforms(9, -ranges.shear, ranges.shear).reshape(3, 3)
        matrix = matrix @ (torch.eye(3) + shear * (1 - torch.eye(3)))
        if flipped:
            matrix[:, self.lateral] *= -1
        extent = [n * mm for n, mm in zip(self.window, self.spacing, strict=True)]
        strength = draw.uniform(0, ranges.deformation)
        return Mapping.of(matrix, centre, extent, ranges.knots, strength, draw)

    def _image(self, source: LabelMap, where: Mapping, draw: Draw) -> Tensor:
        """The network's image (T, H, W), intensities about 0 to 1."""
        ranges, device = self.ranges, draw.device
        # As fine as the label map, in whole parts of the network's voxels.
        parts = [
            max(1, round(mm / own)) for mm, own in zip(self.spacing, source.spacing, strict=True)
        ]
        shape = [n * part for n, part in zip(self.window, parts, strict=True)]
        fine = [mm / part for mm, part in zip(self.spacing, parts, strict=True)]
        labels = where.sample(source, shape, fine).int().flatten()
        means, spreads, stripped = self._tissues(draw)
        image = draw.normals([labels.numel()])
        image.mul_(spreads.to(device).index_select(0, labels))
        image.add_(means.to(device).index_select(0, labels))
        image = image.reshape(shape)
        extent = [n * mm for n, mm in zip(self.window, self.spacing, strict=True)]
        voxels = self._acquisition(fine, draw)
        starts = [draw.uniform(-0.5, 0.5) * size for size in voxels]
        centres = [
            voxel_centres(length, size, start)
            for length, size, start in zip(extent, voxels, starts, strict=True)
        ]
        profiles = [
            _profile(voxel_centres(length, mm), at, max(size * draw.uniform(0.7, 1.0), mm))
            for length, mm, at, size in zip(extent, fine, centres, voxels, strict=True)
        ]
        image = along_axes(image, [p.to(device) for p in profiles])
        image *= self._bias(centres, extent, draw).to(device)
        signal = image.clamp_(min=0)
        noise = draw.normals(image.shape) * draw.uniform(0, ranges.noise)
        # A stripped image is exactly 0 outside.
        noised = torch.where(signal > 1e-3, signal + noise, signal) if stripped else signal + noise
        gamma = math.exp(draw.normal(ranges.gamma))
        image = noised.abs().pow_(gamma)
        coarsest = max(range(3), key=lambda axis: voxels[axis])
        nearest = voxels[coarsest] > ANISOTROPY * min(voxels)
        backs = [
            _interpolation(at, voxel_centres(length, mm), nearest and axis == coarsest)
            for axis, (at, length, mm) in enumerate(zip(centres, extent, self.spacing, strict=True))
        ]
        return along_axes(image, [back.to(device) for back in backs])

    def _tissues(self, draw: Draw) -> tuple[Tensor, Tensor, bool]:
        """Mean and standard deviation of each label, and whether surroundings are gone."""
        ranges, count = self.ranges, len(self.scheme.names)
        tissue = torch.tensor(self.scheme.tissues)
        sides = torch.minimum(torch.arange(count), torch.tensor(self.scheme.mirrored))
        means, spreads = draw.uniforms(count, 0, 1), draw.uniforms(count, 0, ranges.spread)
        if draw.chance(ranges.alike):
            means = means[tissue] + _DIFFERENCE * draw.uniforms(count, -1, 1)
            spreads = spreads[tissue]
        common = draw.chance(ranges.common)
        if common:
            known = self.contrasts[draw.whole(len(self.contrasts))]
            known = known + _DIFFERENCE * draw.uniforms(count, -1, 1)
            means = torch.where(known.isnan(), means, known)
        means, spreads = means[sides].clamp(min=0.02), spreads[sides]
        if draw.chance(1.0 if common else ranges.dark_air):
            means[0], spreads[0] = draw.uniform(0, 0.06), draw.uniform(0, 0.02)
        stripped = bool(self.scheme.surroundings) and draw.chance(ranges.strip)
        if stripped:
            gone = [0, *self.scheme.surroundings]
            means[gone], spreads[gone] = 0.0, 0.0
        return means, spreads, stripped

    def _acquisition(self, fine: Sequence[float], draw: Draw) -> list[float]:
        """Voxel size of the scanner along each axis, mm; never finer than the label map's."""
        ranges = self.ranges
        size = draw.uniform(0, ranges.in_plane)
        voxels = [max(mm, size) for mm in fine]
        if draw.chance(ranges.thick):
            axis = draw.whole(3)
            voxels[axis] = max(fine[axis], draw.uniform(2.0, ranges.thickness))
        return voxels

    def _bias(self, centres: Sequence[Tensor], extent: Sequence[float], draw: Draw) -> Tensor:
        """A smooth factor at voxel centres."""
        knots = [max(length / 3, 40.0) for length in extent]
        bases = [
            spline_basis(at + length / 2, gap, length)
            for at, gap, length in zip(centres, knots, extent, strict=True)
        ]
        strength = draw.uniform(0, self.ranges.bias)
        control = draw.uniforms(math.prod(b.shape[1] for b in bases), -1.7, 1.7) * strength
        return along_axes(control.reshape([b.shape[1] for b in bases]), bases).exp_()

    def _cropped(self, image: Tensor, classes: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Where the image ends, nothing is known any more, as beyond a volume's faces."""
        for axis, length in enumerate(self.window):
            if not draw.chance(self.ranges.crop):
                continue
            lost = draw.whole(max(1, length // 3))
            at = 0 if draw.chance(0.5) else length - lost
            image.narrow(axis, at, lost).fill_(float(image.min()))
            classes.narrow(axis, at, lost).fill_(0)
        return image, classes


def normalized(image: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1."""
    return (image - image.mean()) / image.std().clamp(min=1e-6)


def _profile(fine: Tensor, at: Tensor, thickness: float) -> Tensor:
    """(acquired, fine): Gaussian slice profiles, each row summing to one."""
    weights = torch.exp(-0.5 * ((fine - at[:, None]) * _FWHM / thickness) ** 2)
    total = weights.sum(1, keepdim=True)
    return weights / total.clamp(min=1e-12)


def _interpolation(at: Tensor, wanted: Tensor, nearest: bool) -> Tensor:
    """(wanted, acquired): linear interpolation between evenly spaced centres, edges repeated; or
    the nearest one."""
    if len(at) == 1:
        return torch.ones(len(wanted), 1)
    place = ((wanted - at[0]) / (at[1] - at[0])).clamp(0, len(at) - 1)
    if nearest:
        place = place.round()
    return (1 - (place[:, None] - torch.arange(len(at))).abs()).clamp(min=0)

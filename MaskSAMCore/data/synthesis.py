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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .labelmaps import LabelScheme
from .planning import ANISOTROPY

Three = tuple[float, float, float]
# Width at half the height of a Gaussian, in standard deviations.
_FWHM = 2.3548


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


@dataclass(frozen=True)
class LabelMap:
    """A label map ready for windows to be cut from.

    Attributes:
        labels: uint8 (D, R, C), label indices, turned to the plan's orientation, cropped to what is
            not background and framed by one voxel of it.
        spacing: mm along its axes.
    """

    labels: Tensor
    spacing: Three

    @classmethod
    def of(cls, labels: NDArray[np.integer], spacing: Three) -> LabelMap:
        """From whole (D, R, C) label indices."""
        inside = np.argwhere(labels > 0) if labels.any() else np.zeros((1, 3), int)
        cut = tuple(
            slice(low, high + 1) for low, high in zip(inside.min(0), inside.max(0), strict=True)
        )
        framed = np.pad(labels[cut].astype(np.uint8), 1)
        return cls(torch.from_numpy(framed), spacing)

    def to(self, device: torch.device) -> LabelMap:
        """The map on a device."""
        return LabelMap(self.labels.to(device), self.spacing)

    @property
    def extent(self) -> Three:
        """Millimetres along its axes."""
        d, r, c = (n * mm for n, mm in zip(self.labels.shape, self.spacing, strict=True))
        return d, r, c


class Draw:
    """Random numbers from one seed: single ones without waiting for a device, tensors on it."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self._single = torch.Generator().manual_seed(seed)
        self._many = torch.Generator(device).manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:
        """A number."""
        return low + (high - low) * float(torch.rand((), generator=self._single))

    def normal(self, std: float) -> float:
        """A number around 0."""
        return std * float(torch.randn((), generator=self._single))

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return self.uniform(0, 1) < probability

    def whole(self, below: int) -> int:
        """An integer from 0."""
        return int(torch.randint(below, (), generator=self._single))

    def uniforms(self, count: int, low: float, high: float) -> Tensor:
        """(count,) on the CPU."""
        return low + (high - low) * torch.rand(count, generator=self._single)

    def normals(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers on the device."""
        return torch.randn(tuple(shape), generator=self._many, device=self.device)


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
        """An image of a whole label map, on its own grid, undeformed: float32 (D, R, C)."""
        shape = source.labels.shape
        still = Synthesis(
            self.scheme, (shape[0], shape[1], shape[2]), source.spacing, self.lateral, self.ranges
        )
        return still._image(source, Mapping.identity(source), draw)

    def _mapping(
        self, source: LabelMap, centre: Sequence[float], flipped: bool, draw: Draw
    ) -> Mapping:
        ranges = self.ranges
        angles = [math.radians(draw.uniform(-ranges.rotation, ranges.rotation)) for _ in range(3)]
        matrix = _rotation(angles) @ torch.diag(
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
            _centres(length, size, start)
            for length, size, start in zip(extent, voxels, starts, strict=True)
        ]
        profiles = [
            _profile(_centres(length, mm), at, max(size * draw.uniform(0.7, 1.0), mm))
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
            _interpolation(at, _centres(length, mm), nearest and axis == coarsest)
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
            means = means[tissue] + 0.06 * (draw.uniforms(count, -1, 1))
            spreads = spreads[tissue]
        means, spreads = means[sides].clamp(min=0.02), spreads[sides]
        if draw.chance(ranges.dark_air):
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


@dataclass(frozen=True)
class Mapping:
    """From a window to a label map, by control points of a cubic B-spline.

    Attributes:
        control: (3, a, b, c), positions in the label map in mm.
        gaps: mm between control points in the window.
        extent: of the window, mm.
    """

    control: Tensor
    gaps: Sequence[float]
    extent: Sequence[float]

    @classmethod
    def of(
        cls,
        matrix: Tensor,
        centre: Sequence[float],
        extent: Sequence[float],
        knots: float,
        strength: float,
        draw: Draw,
    ) -> Mapping:
        """An affine map about the window's middle, and shifts of its control points in mm."""
        gaps = [length / max(1, round(length / knots)) for length in extent]
        axes = [
            torch.arange(-1, round(length / gap) + 2) * gap - length / 2
            for length, gap in zip(extent, gaps, strict=True)
        ]
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        # Splines reproduce what is linear, so the affine map goes into the control points.
        moved = torch.einsum("ab,bxyz->axyz", matrix, points)
        moved += torch.tensor(list(centre), dtype=torch.float32)[:, None, None, None]
        shifts = draw.uniforms(moved.numel(), -1.7, 1.7).reshape(moved.shape)
        return cls(moved + strength * shifts, gaps, extent)

    @classmethod
    def identity(cls, source: LabelMap) -> Mapping:
        """The whole label map as it is."""
        extent = source.extent
        axes = [torch.arange(-1.0, 3.0) * length for length in extent]
        return cls(torch.stack(torch.meshgrid(*axes, indexing="ij")), extent, extent)

    def sample(self, source: LabelMap, shape: Sequence[int], spacing: Sequence[float]) -> Tensor:
        """Labels, uint8 of ``shape``, at the centres of voxels of ``spacing`` in the window; the
        background outside the map."""
        device = source.labels.device
        bases = [
            spline_basis(_centres(length, mm) + length / 2, gap, length)[:count].to(device)
            for length, mm, gap, count in zip(self.extent, spacing, self.gaps, shape, strict=True)
        ]
        index: Tensor | None = None
        for axis, (size, mm) in enumerate(zip(source.labels.shape, source.spacing, strict=True)):
            place = along_axes((self.control[axis] / mm).to(device), bases)
            voxel = place.clamp_(0, size - 1).int()
            index = voxel if index is None else index.mul_(size).add_(voxel)
        assert index is not None
        return source.labels.flatten().index_select(0, index.flatten()).reshape(index.shape)


def along_axes(volume: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """A matrix (new, old) applied along each axis of (D, R, C); where it shrinks, first."""
    order = sorted(range(3), key=lambda axis: matrices[axis].shape[0] / matrices[axis].shape[1])
    for axis in order:
        matrix = matrices[axis]
        if axis == 2:
            volume = volume @ matrix.T
        elif axis == 1:
            volume = matrix @ volume
        else:
            rest = volume.shape[1:]
            volume = (matrix @ volume.reshape(len(volume), -1)).reshape(-1, *rest)
    return volume


def spline_basis(at: Tensor, gap: float, length: float) -> Tensor:
    """(positions, control points): cubic B-splines at positions from 0 to ``length``, whose control
    points lie at -gap, 0, gap, …, length + gap."""
    count = round(length / gap) + 3
    distance = (at[:, None] / gap - torch.arange(-1, count - 1)).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far).float()


def normalized(image: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1."""
    return (image - image.mean()) / image.std().clamp(min=1e-6)


def _centres(length: float, size: float, start: float = 0.0) -> Tensor:
    """Voxel centres within a length, about its middle; with ``start`` the grid is shifted."""
    count = max(1, round(length / size))
    return (torch.arange(count) - (count - 1) / 2) * size + start


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


def _rotation(angles: Sequence[float]) -> Tensor:
    matrix = torch.eye(3)
    for axis, angle in enumerate(angles):
        turned = torch.eye(3)
        a, b = [other for other in range(3) if other != axis]
        turned[a, a] = turned[b, b] = math.cos(angle)
        turned[a, b], turned[b, a] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turned
    return matrix

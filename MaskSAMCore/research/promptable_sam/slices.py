"""Endless stream of slices with random contrast and objects, synthesised from labelmaps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from MaskSAMCore.data.label_scheme import LabelScheme
from MaskSAMCore.data.synthesis.deformation import BSplineTransform, rotation_matrix
from MaskSAMCore.data.synthesis.generator import ImageGenerator, SynthesisRanges
from MaskSAMCore.data.synthesis.labelmap import Labelmap
from MaskSAMCore.data.synthesis.random_source import RandomSource
from MaskSAMCore.data.window_numbers import WindowNumbers, window_seed
from MaskSAMCore.inference.sam.preprocessing import PREPARATIONS, resized_shape, to_grey
from MaskSAMCore.research.promptable_sam.objects import random_objects
from MaskSAMCore.research.promptable_sam.shapes import random_shapes

# Largest number of regions in a slice, since images are synthesised from labelmaps of bytes.
_MOST_PARTS = 255
# Share of slices that show random shapes alone.
_SHAPES_ALONE = 0.35
# Shares of labelmap slices in which the background, or every label, is divided into shapes.
_SHAPED_BACKGROUND, _SHAPED_LABELS = 0.4, 0.2
# Range of the rows of a slice in pixels, logarithm of the largest ratio of its sides, and range of
# its longer side in mm if it is cut from a labelmap.
_PIXELS = (40.0, 144.0)
_OBLONG = math.log(1.4)
_EXTENT = (40.0, 240.0)
# Share of slices that are cropped to a square around an object, range of the square's edge as a
# multiple of the object's longest side, and its least edge in pixels.
_AROUND_OBJECT = 0.6
_AROUND = (1.4, 4.0)
_LEAST_EDGE = 16
# Deformation of labelmaps: distance of control points, and largest strength of their shifts, as
# shares of the slice's longer side.
_KNOTS, _SHIFT = 0.3, 0.03
# Number of random voxels that are tried as the centre of a slice.
_TRIES = 20
# Share of slices whose grey values are clipped within their range, as by a CT window, and largest
# share of pixels that are clipped at each end.
_WINDOWED, _CUT = 0.3, 0.15
_QUANTILES = (0.005, 0.995)
# Lengths are in pixels, because slices are synthesised with pixels of 1 mm.
_RANGES = SynthesisRanges(
    dark_background=0.4, thick_slices=0.2, slice_thickness=4.0, in_plane_spacing=2.0
)


class SyntheticSlices(IterableDataset[tuple[Tensor, Tensor]]):
    """Endless dataset of slices as SAM's inputs, each with the masks of random objects.

    Args:
        labelmaps: labelmaps to cut slices from; without any, all slices show random shapes.
        size: edge of SAM's input in pixels.
        objects: number of objects of each slice.
        seed: seed of all random numbers; a resumed training passes another seed.

    Attributes:
        numbers: numbers of the slices to yield; all numbers by default.
    """

    def __init__(self, labelmaps: Sequence[Labelmap], size: int, objects: int, seed: int) -> None:
        super().__init__()
        self.labelmaps = list(labelmaps)
        self.size = size
        self.objects = objects
        self.seed = seed
        self.numbers = WindowNumbers()
        self._scheme = _plain_scheme(_MOST_PARTS)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images, float32 (3, size, size), with masks, uint8 (objects, size, size)."""
        for number in self.numbers:
            yield self.prepare(number)

    def prepare(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the slice with a number, and its masks; a number always gives the same slice."""
        first, second = window_seed(self.seed, number).generate_state(2)
        source = RandomSource(int(first), torch.device("cpu"))
        rng = np.random.default_rng(int(second))
        while True:
            image, labels, parts = self._slice(source)
            whole = image
            if rng.random() < _AROUND_OBJECT:
                place = _around_object(labels, parts, rng)
                image, labels, parts = image[place], labels[place], parts[place]
            found = random_objects(labels, parts, self.objects, rng)
            if not len(found):
                continue
            masks = self._resized(found)
            # A small object may have no pixel in SAM's input.
            masks = masks[masks.amax((1, 2)) > 0]
            if len(masks):
                break
        low, high = _QUANTILES
        if rng.random() < _WINDOWED:
            low, high = rng.random() * _CUT, 1 - rng.random() * _CUT
        # The range of grey values of a cropped image may come from the whole image.
        range_of = image if rng.random() < 0.5 else whole
        darkest, brightest = np.quantile(range_of, (low, high))
        grey = to_grey(image, (float(darkest), float(brightest)))
        shown = PREPARATIONS["sam"].image(grey, self.size)[0]
        # If there are too few objects, some are repeated, and prompted in other ways.
        return shown, masks[torch.arange(self.objects) % len(masks)]

    def _resized(self, masks: NDArray[np.bool_]) -> Tensor:
        """Return masks that are resized and padded in the same way as the images of SAM's input."""
        rows, columns = resized_shape(masks.shape[1:], self.size)
        resized = F.interpolate(
            torch.from_numpy(masks).byte()[None], (rows, columns), mode="nearest-exact"
        )
        return F.pad(resized[0], (0, self.size - columns, 0, self.size - rows))

    def _slice(
        self, rng: RandomSource
    ) -> tuple[NDArray[np.float32], NDArray[np.integer], NDArray[np.integer]]:
        """Return an image, its labels, and the regions that differ in it, (rows, columns) each."""
        rows = round(math.exp(rng.uniform(*map(math.log, _PIXELS))))
        columns = round(rows * math.exp(rng.uniform(-_OBLONG, _OBLONG)))
        if not self.labelmaps or rng.bernoulli(_SHAPES_ALONE):
            labels = random_shapes(rows, columns, rng)
            parts = labels
        else:
            labels = random_cut(
                self.labelmaps[rng.randint(len(self.labelmaps))], rows, columns, rng
            )
            parts = _subdivided(labels, rng)
        parts = torch.unique(parts, return_inverse=True)[1].clamp(max=_MOST_PARTS - 1)
        generator = ImageGenerator(self._scheme, (1, rows, columns), (1.0, 1.0, 1.0), 2, _RANGES)
        image = generator.generate_image(Labelmap(parts[None].byte(), (1.0, 1.0, 1.0)), rng)
        return image[0].numpy(), labels.numpy(), parts.numpy()


def random_cut(labelmap: Labelmap, rows: int, columns: int, rng: RandomSource) -> Tensor:
    """Return a deformed slice of a labelmap in a random direction, int64 (rows, columns)."""
    longest = math.exp(rng.uniform(*map(math.log, _EXTENT)))
    pixel = longest / max(rows, columns)
    extent = [pixel, rows * pixel, columns * pixel]
    # Slices are centred on labels, unless labels fill hardly any of the labelmap.
    shape = labelmap.indices.shape
    for _ in range(_TRIES):
        voxel = [rng.randint(n) for n in shape]
        if labelmap.indices[tuple(voxel)]:
            break
    centre = [(v + 0.5) * mm for v, mm in zip(voxel, labelmap.spacing, strict=True)]
    matrix = rotation_matrix([rng.uniform(-math.pi, math.pi) for _ in range(3)])
    transform = BSplineTransform.random(
        matrix, centre, extent, _KNOTS * longest, rng.uniform(0, _SHIFT) * longest, rng
    )
    return transform.sample(labelmap, (1, rows, columns), (pixel, pixel, pixel))[0].long()


def _subdivided(labels: Tensor, rng: RandomSource) -> Tensor:
    """Return labels as they are, or with the background or every label divided into shapes."""
    choice = rng.uniform(0, 1)
    if choice >= _SHAPED_BACKGROUND + _SHAPED_LABELS:
        return labels
    rows, columns = labels.shape
    shapes = random_shapes(rows, columns, rng)
    divided = labels * int(shapes.max() + 1) + shapes
    if choice < _SHAPED_LABELS:
        return divided
    return torch.where(labels == 0, shapes, labels + int(shapes.max() + 1))


def _around_object(
    labels: NDArray[np.integer], parts: NDArray[np.integer], rng: np.random.Generator
) -> tuple[slice, slice]:
    """Return the rows and columns around a random object."""
    found = random_objects(labels, parts, 1, rng)
    if not len(found):
        return slice(None), slice(None)
    rows, columns = (np.flatnonzero(found[0].any(axis)) for axis in (1, 0))
    longest = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    edge = max(_LEAST_EDGE, longest * rng.uniform(*_AROUND))
    place = []
    for line in (rows, columns):
        centre = (line[0] + line[-1] + 1) / 2 + rng.uniform(-0.15, 0.15) * edge
        first = max(0, int(centre - edge / 2))
        place.append(slice(first, max(first + 1, int(np.ceil(centre + edge / 2)))))
    return place[0], place[1]


def _plain_scheme(count: int) -> LabelScheme:
    """Return a scheme of labels without meaning, of which any two may look alike or differ."""
    numbers = tuple(range(count))
    return LabelScheme(
        names=tuple(map(str, numbers)),
        values=numbers,
        classes=(),
        class_values=(),
        targets=(0,) * count,
        mirrored=numbers,
        surroundings=(),
        tissues=numbers,
        lesions=(),
        contrasts=(),
        description={},
    )

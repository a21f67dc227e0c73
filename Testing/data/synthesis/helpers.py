"""A label scheme, labelmaps and ranges for tests of the synthesis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from MaskSAMCore.data.label_scheme import LabelScheme, read_scheme
from MaskSAMCore.data.synthesis.generator import ImageGenerator, SynthesisRanges
from MaskSAMCore.data.synthesis.labelmap import Labelmap
from MaskSAMCore.data.synthesis.random_source import RandomSource
from Testing.helpers.labelled_heads import DESCRIPTION

# These ranges change neither shape nor resolution.
STILL = SynthesisRanges(
    rotation=0,
    scale=0,
    shear=0,
    deformation=0,
    flip=0,
    crop=0,
    strip=0,
    thick_slices=0,
    in_plane_spacing=0,
)
# These ranges do not change intensities either: each label has one intensity, and the background
# is dark.
PLAIN = replace(STILL, spread=0, shared_means=0, bias=0, gamma=0, noise=0, dark_background=1)


def rng(seed: int) -> RandomSource:
    """Return a seeded source of random numbers on the CPU."""
    return RandomSource(seed, torch.device("cpu"))


def label_scheme() -> LabelScheme:
    """Return the scheme of the generated heads."""
    scheme, _ = read_scheme(DESCRIPTION)
    assert scheme is not None
    return scheme


def label_indices(values: np.ndarray) -> np.ndarray:
    """Map label values to label indices."""
    return np.searchsorted(label_scheme().values, values).astype(np.uint8)


def uncropped_labelmap(values: np.ndarray) -> Labelmap:
    """Return a labelmap of 1 mm that a window of the same shape covers exactly."""
    return Labelmap(torch.from_numpy(label_indices(values)), (1.0, 1.0, 1.0))


def image_generator(
    ranges: SynthesisRanges,
    shape: tuple[int, int, int] = (30, 36, 40),
    lateral: int = 2,
    scheme: LabelScheme | None = None,
    spacing: float = 1.0,
) -> ImageGenerator:
    """Return a generator of windows of a shape in voxels and a spacing in mm."""
    scheme = scheme or label_scheme()
    return ImageGenerator(scheme, shape, (spacing, spacing, spacing), lateral, ranges)


def window_at_centre(
    generator: ImageGenerator, labelmap: Labelmap, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return image (T, H, W) and classes (T, H, W) of a window at the labelmap's centre."""
    centre = [length / 2 for length in labelmap.extent]
    image, classes = generator.generate_window(labelmap, centre, rng(seed))
    return image[0].numpy(), classes.numpy()


def explained_variance(image: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of an image's variance that the mean intensities of labels explain."""
    total = float(image.var())
    within = sum(float(image[labels == v].var()) * (labels == v).sum() for v in np.unique(labels))
    return 1 - within / labels.size / total

"""Properties that every synthesised image must have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from MaskSAMCore.data.label_scheme import LabelScheme, read_scheme
from MaskSAMCore.data.synthesis.generator import ImageGenerator, SynthesisRanges
from MaskSAMCore.data.synthesis.labelmap import Labelmap
from Testing.data.synthesis.helpers import (
    PLAIN,
    STILL,
    explained_variance,
    image_generator,
    label_scheme,
    rng,
    uncropped_labelmap,
    window_at_centre,
)
from Testing.helpers.labelled_heads import DESCRIPTION, LABELS, head

# Every label is a class of its own.
EVERY_LABEL = replace(label_scheme(), targets=tuple(range(7)))
LESIONS = ["left lesion", "right lesion"]


def correlation_along(image: np.ndarray, axis: int) -> float:
    """Return the correlation of voxels two apart along an axis."""
    length = image.shape[axis]
    near, far = image.take(range(length - 2), axis), image.take(range(2, length), axis)
    return float(np.corrcoef(near.ravel(), far.ravel())[0, 1])


def test_without_any_change_a_window_is_the_labelmap():
    labelmap = uncropped_labelmap(head())
    image, classes = window_at_centre(image_generator(PLAIN), labelmap, 0)
    np.testing.assert_array_equal(classes, label_scheme().classes_of(labelmap.indices.numpy()))
    assert image.shape == (30, 36, 40) and image.dtype == np.float32
    assert explained_variance(image, labelmap.indices.numpy()) > 0.9


@pytest.mark.parametrize("lateral", [0, 1, 2])
def test_a_flip_swaps_left_and_right(lateral: int):
    values = np.moveaxis(head(), 2, lateral)
    labelmap = uncropped_labelmap(values)
    depth, rows, columns = values.shape
    generator = image_generator(replace(PLAIN, flip=1.0), (depth, rows, columns), lateral)
    _, classes = window_at_centre(generator, labelmap, 0)
    mirrored = label_scheme().classes_of(np.flip(labelmap.indices.numpy(), lateral))
    np.testing.assert_array_equal(classes, np.array([0, 3, 2, 1])[mirrored])
    # The larger core is on the right now, but the left side keeps the left class.
    columns_last = np.moveaxis(classes, lateral, 2)
    assert (columns_last[..., :15] != 3).all() and (columns_last[..., 25:] != 1).all()
    assert (columns_last == 1).any() and (columns_last == 3).any()


def test_labels_without_sides_are_never_flipped():
    labelmap = uncropped_labelmap(head())
    unpaired = replace(label_scheme(), mirrored=tuple(range(7)))
    generator = image_generator(replace(PLAIN, flip=1.0), scheme=unpaired)
    _, classes = window_at_centre(generator, labelmap, 0)
    np.testing.assert_array_equal(classes, unpaired.classes_of(labelmap.indices.numpy()))


@pytest.mark.parametrize("seed", range(4))
def test_image_and_classes_stay_aligned_through_all_changes(seed: int):
    ranges = SynthesisRanges(noise=0.02, spread=0.02, crop=0, strip=0, bias=0.1)
    generator = image_generator(ranges, scheme=EVERY_LABEL)
    image, classes = window_at_centre(generator, uncropped_labelmap(head(seed)), seed)
    inner = (slice(4, -4),) * 3
    aligned = explained_variance(image[inner], classes[inner])
    for axis in range(3):
        for shift in (-3, 3):
            shifted = np.roll(classes, shift, axis)
            assert explained_variance(image[inner], shifted[inner]) < aligned


def test_a_coarser_spacing_shows_the_same_place():
    labelmap = uncropped_labelmap(head())
    generator = image_generator(PLAIN, (15, 18, 20), scheme=EVERY_LABEL, spacing=2.0)
    image, classes = window_at_centre(generator, labelmap, 0)
    fine = labelmap.indices.numpy().reshape(15, 2, 18, 2, 20, 2)
    assert (fine == classes[:, None, :, None, :, None]).any((1, 3, 5)).all()
    assert explained_variance(image, classes) > 0.7


@pytest.mark.parametrize("seed", range(6))
def test_thick_slices_are_blurred_along_one_axis_only(seed: int):
    uniform = Labelmap(torch.full((40, 40, 40), 2, dtype=torch.uint8), (1.0, 1.0, 1.0))
    ranges = replace(STILL, thick_slices=1.0, spread=0.1, bias=0, gamma=0, noise=0)
    thick, _ = window_at_centre(image_generator(ranges, (32, 32, 32)), uniform, seed)
    first, second, _ = sorted((correlation_along(thick, axis) for axis in range(3)), reverse=True)
    assert first > 0.45 and second < 0.3
    ranges = replace(ranges, thick_slices=0.0)
    thin, _ = window_at_centre(image_generator(ranges, (32, 32, 32)), uniform, seed)
    assert max(correlation_along(thin, axis) for axis in range(3)) < 0.3


def test_stripping_removes_only_the_surroundings():
    labelmap = uncropped_labelmap(head())
    indices = labelmap.indices.numpy()
    skin = np.array(label_scheme().values)[indices] == 90
    brain = (indices > 0) & ~skin
    # Voxels near the brain are blurred with it.
    outer_skin = skin & ~ndimage.binary_dilation(brain, iterations=4)
    assert outer_skin.sum() > 100
    for strip, removed in ((1.0, True), (0.0, False)):
        generator = image_generator(replace(PLAIN, strip=strip, noise=0.05))
        image, _ = window_at_centre(generator, labelmap, 5)
        air = image[indices == 0]
        assert (np.ptp(image[outer_skin]) < 1e-3) == removed
        assert (abs(image[outer_skin].mean() - np.median(air)) < 1e-3) == removed
        assert image[brain].std() > 0.01


def median_intensities(share: float, scheme: LabelScheme | None = None) -> np.ndarray:
    """Return the median intensities of air, left half, left core and skin, (8 images, 4).

    Args:
        share: probability of a common contrast.
        scheme: scheme with or without contrasts.
    """
    labelmap = uncropped_labelmap(head())
    values = np.array(label_scheme().values)[labelmap.indices.numpy()]
    generator = image_generator(replace(PLAIN, common_contrasts=share), scheme=scheme)
    images = [window_at_centre(generator, labelmap, seed)[0] for seed in range(8)]
    return np.array([[np.median(image[values == v]) for v in (0, 3, 10, 90)] for image in images])


def test_a_scheme_without_contrasts_has_one_common_contrast():
    common, free = median_intensities(1.0).std(0).max(), median_intensities(0.0).std(0).max()
    assert common < 0.4 and free > 0.5


def test_a_contrast_of_the_scheme_sets_the_intensities():
    intensities = {"left half": 0.9, "left core": 0.2, "middle": 0.5, "skin": 0.4}
    scheme, _ = read_scheme({**DESCRIPTION, "contrasts": {"bright": intensities}})
    assert scheme is not None
    air, half, core, skin = median_intensities(1.0, scheme).T
    assert (air < core).all() and (core < skin).all() and (skin < half).all()
    assert ((core - air) / (half - air)).mean() == pytest.approx(0.2 / 0.9, abs=0.05)
    assert ((skin - air) / (half - air)).mean() == pytest.approx(0.4 / 0.9, abs=0.05)
    assert median_intensities(0.0, scheme).argmax(1).tolist() != [1] * 8


def test_a_strength_of_zero_leaves_shapes_unchanged():
    labelmap = uncropped_labelmap(head())
    generator = image_generator(SynthesisRanges(flip=0, crop=0, strip=0).scaled(0))
    _, classes = window_at_centre(generator, labelmap, 2)
    np.testing.assert_array_equal(classes, label_scheme().classes_of(labelmap.indices.numpy()))
    assert SynthesisRanges().scaled(1) == SynthesisRanges()


def test_outside_the_labelmap_is_background():
    labelmap = uncropped_labelmap(head())
    _, classes = image_generator(PLAIN).generate_window(labelmap, [15.0, 18.0, 60.0], rng(0))
    assert bool((classes[..., 1:] == 0).all())


def test_a_cropped_part_of_the_window_has_no_class():
    labelmap = uncropped_labelmap(np.full((30, 36, 40), 14, np.uint16))
    generator = image_generator(replace(PLAIN, crop=1.0, noise=0.05, spread=0.1))
    image, classes = window_at_centre(generator, labelmap, 3)
    assert 0 < (classes == 0).mean() < 0.8
    assert image[classes == 0].max() == image.min()


def lesion_generator(share: float) -> tuple[LabelScheme, ImageGenerator]:
    """Return a scheme whose halves have lesions, and a generator of windows with them."""
    description = {
        "labels": {**LABELS, "left lesion": 25, "right lesion": 57},
        "targets": {"left side": "left half", "right side": "right half", "lesion": LESIONS},
        "lesions": {"left half": "left lesion"},
        "contrasts": {"plain": {"left half": 0.5, "left lesion": 0.9, "middle": 0.2}},
    }
    scheme, problems = read_scheme(description)
    assert scheme is not None, problems
    ranges = replace(PLAIN, lesions=share, common_contrasts=1.0)
    return scheme, image_generator(ranges, scheme=scheme)


def test_lesions_lie_within_their_tissue_and_look_like_their_label():
    scheme, generator = lesion_generator(1.0)
    values = head()
    indices = np.searchsorted(scheme.values, values).astype(np.uint8)
    labelmap = Labelmap(torch.from_numpy(indices), (1.0, 1.0, 1.0))
    lesion = scheme.classes.index("lesion") + 1
    found = []
    for seed in range(6):
        image, classes = window_at_centre(generator, labelmap, seed)
        halves = np.isin(values, [LABELS["left half"], LABELS["right half"]])
        inside = classes == lesion
        assert not (inside & ~halves).any()
        found.append(inside.sum() / halves.sum())
        for name, side in (("left half", "left side"), ("right half", "right side")):
            healthy = classes == scheme.classes.index(side) + 1
            own = inside & (values == LABELS[name])
            assert (healthy | own == (values == LABELS[name])).all()
            if own.sum() > 5:
                assert image[own].mean() > image[healthy].max()
    # Some windows have few lesions, none has more lesions than tissue.
    assert max(found) > 0.02 and min(found) < max(found) / 2 and max(found) < 0.25


def test_without_lesions_the_tissue_is_whole():
    scheme, generator = lesion_generator(0.0)
    indices = np.searchsorted(scheme.values, head()).astype(np.uint8)
    labelmap = Labelmap(torch.from_numpy(indices), (1.0, 1.0, 1.0))
    _, classes = window_at_centre(generator, labelmap, 0)
    np.testing.assert_array_equal(classes, scheme.classes_of(indices))

"""Synthesised images: what must hold of every one of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from MaskSAMCore.data import Plan
from MaskSAMCore.data.dataset import LabelledCase, load_cases, open_dataset
from MaskSAMCore.data.planning import ChannelNormalization
from MaskSAMCore.data.synthesis.deformation import LabelMap, Mapping, spline_basis
from MaskSAMCore.data.synthesis.generator import Ranges, Synthesis
from MaskSAMCore.data.synthesis.label_scheme import LabelScheme, read_scheme
from MaskSAMCore.data.synthesis.patches import Source, SynthesizedWindows, synthesized_case
from MaskSAMCore.data.synthesis.random_source import Draw
from MaskSAMCore.geometry import Volume, axis_codes, reorient
from Testing.helpers.labelled_heads import DESCRIPTION, head, write_label_maps

CPU = torch.device("cpu")
STILL = Ranges(
    rotation=0, scale=0, shear=0, deformation=0, flip=0, crop=0, strip=0, thick=0, in_plane=0
)
PLAIN = replace(STILL, spread=0, alike=0, bias=0, gamma=0, noise=0, dark_air=1)


def scheme() -> LabelScheme:
    found, _ = read_scheme(DESCRIPTION)
    assert found is not None
    return found


def indices(values: np.ndarray) -> np.ndarray:
    """Label values to indices."""
    return np.searchsorted(scheme().values, values).astype(np.uint8)


def source(values: np.ndarray) -> LabelMap:
    """The whole array, not cropped, so that windows of its size cover it exactly."""
    return LabelMap(torch.from_numpy(indices(values)), (1.0, 1.0, 1.0))


def synthesis(ranges: Ranges, shape=(30, 36, 40), spacing=(1.0, 1.0, 1.0), lateral=2) -> Synthesis:
    return Synthesis(scheme(), shape, spacing, lateral, ranges)


def middle(labels: LabelMap) -> list[float]:
    return [length / 2 for length in labels.extent]


def explained(image: np.ndarray, labels: np.ndarray) -> float:
    """The share of an image's variance between the means of labels."""
    total = float(image.var())
    within = sum(float(image[labels == v].var()) * (labels == v).sum() for v in np.unique(labels))
    return 1 - within / labels.size / total


def test_without_change_a_window_is_the_label_map():
    labels = source(head())
    image, classes = synthesis(PLAIN)(labels, middle(labels), Draw(0, CPU))
    np.testing.assert_array_equal(classes, scheme().classes_of(labels.labels.numpy()))
    assert image.shape == (1, 30, 36, 40) and image.dtype == torch.float32
    assert explained(image[0].numpy(), labels.labels.numpy()) > 0.9


@pytest.mark.parametrize("lateral", [0, 1, 2])
def test_a_flip_swaps_left_and_right(lateral: int):
    values = np.moveaxis(head(), 2, lateral)
    labels = source(values)
    flipping = synthesis(replace(PLAIN, flip=1.0), values.shape, lateral=lateral)
    _, classes = flipping(labels, middle(labels), Draw(0, CPU))
    straight = scheme().classes_of(np.flip(labels.labels.numpy(), lateral))
    expected = np.array([0, 3, 2, 1])[straight]
    np.testing.assert_array_equal(classes, expected)
    # The larger core is on the right now, but what lies on the left is still called left.
    place = np.moveaxis(classes.numpy(), lateral, 2)
    assert (place[..., :15] != 3).all() and (place[..., 25:] != 1).all()
    assert (place == 1).sum() > 0 and (place == 3).sum() > 0


def test_labels_without_sides_are_never_flipped():
    labels = source(head())
    alone = replace(scheme(), mirrored=tuple(range(7)))
    made = Synthesis(alone, (30, 36, 40), (1.0, 1.0, 1.0), 2, replace(PLAIN, flip=1.0))
    _, classes = made(labels, middle(labels), Draw(0, CPU))
    np.testing.assert_array_equal(classes, alone.classes_of(labels.labels.numpy()))


@pytest.mark.parametrize("seed", range(4))
def test_image_and_classes_stay_aligned_through_all_changes(seed: int):
    everything = Ranges(noise=0.02, spread=0.02, crop=0, strip=0, bias=0.1)
    labels = source(head(seed))
    every = replace(scheme(), targets=tuple(range(7)))
    made = Synthesis(every, (30, 36, 40), (1.0, 1.0, 1.0), 2, everything)
    image, classes = made(labels, middle(labels), Draw(seed, CPU))
    here = explained(image[0, 4:-4, 4:-4, 4:-4].numpy(), classes[4:-4, 4:-4, 4:-4].numpy())
    for axis in range(3):
        for shift in (-3, 3):
            moved = torch.roll(classes, shift, axis)[4:-4, 4:-4, 4:-4].numpy()
            assert explained(image[0, 4:-4, 4:-4, 4:-4].numpy(), moved) < here


def test_a_coarser_plan_sees_the_same_place():
    labels = source(head())
    every = replace(scheme(), targets=tuple(range(7)))
    made = Synthesis(every, (15, 18, 20), (2.0, 2.0, 2.0), 2, PLAIN)
    image, classes = made(labels, middle(labels), Draw(0, CPU))
    fine = every.classes_of(labels.labels.numpy()).reshape(15, 2, 18, 2, 20, 2)
    among = (fine == classes.numpy()[:, None, :, None, :, None]).any((1, 3, 5))
    assert among.all()
    assert explained(image[0].numpy(), classes.numpy()) > 0.7


@pytest.mark.parametrize("seed", range(6))
def test_thick_slices_are_blurred_along_one_axis(seed: int):
    whole = LabelMap(torch.full((40, 40, 40), 2, dtype=torch.uint8), (1.0, 1.0, 1.0))
    ranges = replace(STILL, thick=1.0, spread=0.1, bias=0, gamma=0, noise=0)
    made = Synthesis(scheme(), (32, 32, 32), (1.0, 1.0, 1.0), 2, ranges)
    draw = Draw(seed, CPU)
    image = made(whole, middle(whole), draw)[0][0]
    alike = []
    for axis in range(3):
        alike.append(likeness(image, axis))
    first, second, _ = sorted(alike, reverse=True)
    assert first > 0.45 and second < 0.3
    still = Synthesis(scheme(), (32, 32, 32), (1.0, 1.0, 1.0), 2, replace(ranges, thick=0.0))
    image = still(whole, middle(whole), Draw(seed, CPU))[0][0]
    assert max(likeness(image, axis) for axis in range(3)) < 0.3


def likeness(image: torch.Tensor, axis: int) -> float:
    """Correlation of voxels with those two further along an axis."""
    length = image.shape[axis] - 2
    near = image.narrow(axis, 0, length).flatten(), image.narrow(axis, 2, length).flatten()
    return float(torch.corrcoef(torch.stack(near))[0, 1])


def test_stripping_takes_the_surroundings_away_and_nothing_else():
    labels = source(head())
    values = labels.labels.numpy()
    skin = np.array(scheme().values)[values] == 90
    brain = (values > 0) & ~skin
    # Away from the brain, whose voxels reach over by their size.
    deep = skin & ~ndimage.binary_dilation(brain, iterations=4)
    assert deep.sum() > 100
    for strip, gone in ((1.0, True), (0.0, False)):
        ranges = replace(PLAIN, strip=strip, noise=0.05)
        image = synthesis(ranges)(labels, middle(labels), Draw(5, CPU))[0][0].numpy()
        air = image[values == 0]
        assert (np.ptp(image[deep]) < 1e-3) == gone
        assert (abs(image[deep].mean() - np.median(air)) < 1e-3) == gone
        assert image[brain].std() > 0.01


def contrasts(common: float, given: LabelScheme | None = None) -> np.ndarray:
    """The median grey values of four labels in 8 images, which have mean 0 and deviation 1."""
    labels = source(head())
    values = np.array(scheme().values)[labels.labels.numpy()]
    made = synthesis(replace(PLAIN, common=common))
    if given is not None:
        made = Synthesis(given, made.window, made.spacing, made.lateral, made.ranges)
    images = [made(labels, middle(labels), Draw(seed, CPU))[0][0].numpy() for seed in range(8)]
    return np.array([[np.median(image[values == v]) for v in (0, 3, 10, 90)] for image in images])


def test_where_no_contrast_is_known_one_is_common():
    same, free = contrasts(1.0).std(0).max(), contrasts(0.0).std(0).max()
    assert same < 0.4 and free > 0.5


def test_a_known_contrast_is_drawn_with_its_grey_values():
    grey = {"left half": 0.9, "left core": 0.2, "middle": 0.5, "skin": 0.4}
    found, _ = read_scheme({**DESCRIPTION, "contrasts": {"bright": grey}})
    assert found is not None
    air, half, core, skin = contrasts(1.0, found).T
    assert (air < core).all() and (core < skin).all() and (skin < half).all()
    assert ((core - air) / (half - air)).mean() == pytest.approx(0.2 / 0.9, abs=0.05)
    assert ((skin - air) / (half - air)).mean() == pytest.approx(0.4 / 0.9, abs=0.05)
    assert contrasts(0.0, found).argmax(1).tolist() != [1] * 8


def test_windows_follow_the_share_of_contrasts_that_the_training_sets(tmp_path: Path):
    write_label_maps(tmp_path, 3, DESCRIPTION)
    some = windows(tmp_path, 4)
    drawn = iter(some)
    next(drawn)
    assert some.synthesis.ranges.common == 0
    some.common.fill_(0.25)
    next(drawn)
    assert some.synthesis.ranges.common == 0.25


def test_no_strength_leaves_shapes_as_they_are():
    labels = source(head())
    none = Ranges(flip=0, crop=0, strip=0).scaled(0)
    _, classes = synthesis(none)(labels, middle(labels), Draw(2, CPU))
    np.testing.assert_array_equal(classes, scheme().classes_of(labels.labels.numpy()))
    assert Ranges().scaled(1) == Ranges()


def test_outside_the_map_lies_background():
    labels = source(head())
    _, classes = synthesis(PLAIN)(labels, [15.0, 18.0, 60.0], Draw(0, CPU))
    assert bool((classes[..., 1:] == 0).all())


def test_where_an_image_ends_no_class_is_left():
    labels = source(np.full((30, 36, 40), 14, np.uint16))
    made = synthesis(replace(PLAIN, crop=1.0, noise=0.05, spread=0.1))
    image, classes = made(labels, middle(labels), Draw(3, CPU))
    assert 0 < float((classes == 0).float().mean()) < 0.8
    assert float(image[0][classes == 0].max()) == float(image.min())


def test_splines_keep_what_is_linear():
    at = torch.linspace(0, 60, 13)
    basis = spline_basis(at, 20.0, 60.0)
    torch.testing.assert_close(basis @ torch.arange(-1.0, 5.0) * 20, at, atol=1e-4, rtol=0)
    torch.testing.assert_close(basis.sum(1), torch.ones(13))


def test_a_mapping_moves_by_the_affine_map_about_the_middle():
    labels = source(head())
    turned = torch.tensor([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    centre = middle(labels)
    where = Mapping.of(turned, centre, (20.0, 20.0, 20.0), 32.0, 0.0, Draw(0, CPU))
    found = where.sample(labels, (20, 20, 20), (1.0, 1.0, 1.0)).numpy()
    cut = labels.labels.numpy()[5:25, 8:28, 10:30]
    np.testing.assert_array_equal(found, np.flip(cut.transpose(0, 2, 1), 2))


PLAN = Plan("SAR", (2.0, 2.0, 2.0), (8, 12, 12), (ChannelNormalization(),), ("synthetic",))


def windows(folder: Path, seed: int) -> SynthesizedWindows:
    dataset = open_dataset(folder)
    cases = load_cases(dataset, [case.name for case in dataset.cases])
    assert dataset.scheme is not None
    sources = [Source.of(case, dataset.scheme, "SAR") for case in cases]
    return SynthesizedWindows(sources, dataset.scheme, PLAN, 0.7, seed)


def test_windows_are_the_same_for_a_seed_and_others_for_another(tmp_path: Path):
    write_label_maps(tmp_path, 3, DESCRIPTION)
    first, again, other = (list(islice(windows(tmp_path, seed), 6)) for seed in (1, 1, 2))
    for (a, b), (c, d) in zip(first, again, strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)
    assert not any(torch.equal(a, c) for (a, _), (c, _) in zip(first, other, strict=True))
    assert len({float(image.sum()) for image, _ in first}) == 6
    assert all(torch.isfinite(image).all() for image, _ in first)


def test_the_same_body_in_another_direction_on_disk_gives_the_same_map(tmp_path: Path):
    write_label_maps(tmp_path, 2, DESCRIPTION)
    for number, found in enumerate(windows(tmp_path, 0).sources):
        inside = np.argwhere(head(number) > 0)
        low, high = inside.min(0), inside.max(0) + 1
        cut = head(number)[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        np.testing.assert_array_equal(found.labels.labels.numpy(), np.pad(indices(cut), 1))


@pytest.mark.parametrize("code", ["SAR", "LIP", "PSL"])
def test_a_validation_head_fits_its_labels_in_any_orientation(code: str):
    # Left-handed, oblique, with voxels of three sizes.
    matrix = np.diag([0.9, 1.0, 1.4, 1.0])
    angle = 0.2
    matrix[:2, :2] = np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    ) @ np.diag([0.9, 1.0])
    matrix[:3, 3] = 7, -20, 3
    volume = reorient(Volume(indices(head()), matrix), code)
    assert axis_codes(volume.ijk_to_ras) == code
    case = LabelledCase("one", (volume,), scheme().classes_of(volume.array))
    made = synthesized_case(case, scheme(), 4, replace(PLAIN, noise=0.02))
    image = made.channels[0]
    assert image.shape == made.label.shape and image.spacing == pytest.approx(volume.spacing)
    full = np.zeros(volume.shape, np.uint8)
    # The crop keeps its place in space.
    corner = np.linalg.inv(volume.ijk_to_ras) @ image.ijk_to_ras[:, 3]
    i, j, k = np.round(corner[:3]).astype(int)
    d, r, c = image.shape
    full[k : k + d, j : j + r, i : i + c] = made.label
    np.testing.assert_array_equal(full, case.label)
    labels = volume.array[k : k + d, j : j + r, i : i + c]
    assert explained(image.array, labels) > 0.85
    again = synthesized_case(case, scheme(), 4, replace(PLAIN, noise=0.02))
    np.testing.assert_array_equal(again.channels[0].array, image.array)

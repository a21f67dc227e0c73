"""Preprocessing of cases with any directions, spacings and intensities."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from scipy import ndimage

from MaskSAMCore.data import (
    ChannelNormalization,
    Plan,
    PreparedCase,
    preprocess,
    repeat_edge_slices,
)
from MaskSAMCore.data.planning import coarse_axis
from MaskSAMCore.data.preprocessing import (
    nearest_voxels,
    normalize,
    plan_shape,
    resample,
    resample_labelmap,
)
from MaskSAMCore.geometry import Volume, axis_mapping, reorient
from Testing.helpers.generated import generated_case

RAS = np.eye(4)
LEFT_HANDED = np.diag([-1.0, 1.0, 1.0, 1.0])
PERMUTED = np.array([[0, 0, 2.0, 5], [-1, 0, 0, 3], [0, 1.5, 0, -9], [0, 0, 0, 1]])
ANISOTROPIC = np.array([[0, -0.7, 0, 5], [0, 0, -4.0, 3], [0.7, 0, 0, -9], [0, 0, 0, 1]])


def oblique() -> np.ndarray:
    angle = np.deg2rad(20)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag([0.8, 1.0, 2.5])
    return matrix


MATRICES = {
    "plain": RAS,
    "left-handed": LEFT_HANDED,
    "oblique": oblique(),
    "permuted": PERMUTED,
    "anisotropic": ANISOTROPIC,
}


def plan_of(
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0), orientation: str = "SAR", channels: int = 1
) -> Plan:
    a, b, c = spacing
    names = tuple(f"MR{n}" for n in range(channels))
    return Plan(orientation, (a, b, c), (8, 16, 16), (ChannelNormalization(),) * channels, names)


def native(volume: Volume, orientation: str) -> tuple[float, ...]:
    axes, _ = axis_mapping(volume.ijk_to_ras, orientation)
    return tuple(volume.spacing[2 - axis] for axis in axes)


def points_of(shape: tuple[int, int, int], matrix: np.ndarray) -> np.ndarray:
    """Return the RAS positions of all voxels in mm, (K, J, I, 3)."""
    k, j, i = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return np.stack([i, j, k], -1) @ matrix[:3, :3].T + matrix[:3, 3]


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
@pytest.mark.parametrize("orientation", ["SAR", "RSA", "LIP"])
def test_volumes_are_reoriented_to_the_plans_axes(matrix: np.ndarray, orientation: str):
    """An intensity that rises in the direction of an axis of the plan rises along that axis."""
    points = points_of((10, 12, 14), matrix)
    directions = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    for axis, code in enumerate(orientation):
        world, sign = directions[code]
        ramp = Volume((sign * points[..., world]).astype(np.float32), matrix)
        image = preprocess([ramp], plan_of(native(ramp, orientation), orientation)).image[0]
        assert (np.diff(image, axis=axis) > 0).all(), f"axis {axis}"


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_a_body_keeps_its_position_in_space(matrix: np.ndarray):
    points = points_of((20, 40, 44), matrix)
    centre = points.reshape(-1, 3).mean(0) + np.array([1.5, -1.0, 2.0])
    distance = np.linalg.norm(points - centre, axis=-1)
    volume = Volume(np.clip(12 - distance, 0, 5).astype(np.float32), matrix)
    label = (distance < 9).astype(np.uint8)
    prepared = preprocess([volume], plan_of((1.3, 0.9, 1.1), "RSA"), label)
    assert prepared.labelmap is not None
    upright = reorient(volume, "RSA")
    scale = np.array(upright.shape) / prepared.labelmap.shape
    for body in (prepared.labelmap == 1, prepared.image[0] > np.median(prepared.image[0]) + 1):
        index = (np.argwhere(body).mean(0) + 0.5) * scale - 0.5
        found = upright.ijk_to_ras @ [*index[::-1], 1]
        assert found[:3] == pytest.approx(centre, abs=0.6)


def test_resampling_keeps_the_volume_of_bodies():
    image, label = generated_case(0, (20, 40, 44))
    volume = Volume(image, np.diag([1.0, 1.0, 2.0, 1.0]))
    prepared = preprocess([volume], plan_of((1.0, 1.5, 1.5)), label)
    assert prepared.labelmap is not None
    assert prepared.image.dtype == np.float32
    assert prepared.image.shape == (1, 40, 27, 29)
    assert prepared.labelmap.shape == (40, 27, 29)
    for value in (1, 2):
        before, after = (label == value).sum(), (prepared.labelmap == value).sum()
        assert after * 2.25 == pytest.approx(before * 2, rel=0.1)


def test_a_spacing_that_agrees_within_a_thousandth_changes_no_voxel():
    image, label = generated_case(0, (40, 40, 44))
    volume = Volume(image, np.diag([1.0004, 0.9996, 1.0, 1.0]))
    prepared = preprocess([volume], plan_of(), label)
    np.testing.assert_array_equal(prepared.image[0], normalize(image, ChannelNormalization()))
    np.testing.assert_array_equal(prepared.labelmap, label)


@pytest.mark.parametrize("error", [-1e-5, -1e-15, 1e-15, 1e-5])
def test_headers_that_are_rounded_differently_give_the_same_grid(error: float):
    plan = plan_of((2.0, 2.0, 2.0))
    for size in range(181, 240):
        exact = plan_shape([size] * 3, [1.0] * 3, plan)
        assert plan_shape([size] * 3, [1.0 + error] * 3, plan) == exact


def test_channels_are_preprocessed_independently_and_in_order():
    image, _ = generated_case(0)
    other = np.random.default_rng(1).normal(7, 3, image.shape).astype(np.float32)
    matrix = oblique()
    plan = plan_of((2.0, 1.2, 1.2), channels=2)
    both = preprocess([Volume(image, matrix), Volume(other, matrix)], plan).image
    for channel, array in zip(both, (image, other), strict=True):
        alone = preprocess([Volume(array, matrix)], plan_of((2.0, 1.2, 1.2))).image[0]
        np.testing.assert_array_equal(channel, alone)


def test_thick_slices_are_repeated_in_image_and_labelmap_alike():
    label = np.zeros((5, 8, 8), np.uint8)
    label[2:4, 2:6, 2:6] = 1
    label[4] = 2
    volume = Volume(label * 10.0, np.diag([1.0, 1.0, 5.0, 1.0]))
    prepared = preprocess([volume], plan_of(), label)
    assert prepared.labelmap is not None
    assert prepared.image.shape == (1, 25, 8, 8)
    np.testing.assert_array_equal(prepared.labelmap, np.repeat(label, 5, axis=0))
    for value in (0, 1, 2):
        assert np.ptp(prepared.image[0][prepared.labelmap == value]) < 1e-5
    # Image and labelmap change at the same slices even if 8 slices are no multiple of 5.
    prepared = preprocess([volume], plan_of((3.0, 1.0, 1.0)), label)
    assert prepared.labelmap is not None
    assert prepared.labelmap.shape == (8, 8, 8)
    for value in (0, 1, 2):
        assert np.ptp(prepared.image[0][prepared.labelmap == value]) < 1e-5


@pytest.mark.parametrize("error", [-1e-5, -1e-15, 0.0, 1e-15, 1e-5])
@pytest.mark.parametrize("finest", [0.7, 1.0])
def test_rounding_of_a_header_makes_no_axis_coarse(finest: float, error: float):
    assert coarse_axis((3 * finest + error, finest, finest)) is None
    assert coarse_axis((3.1 * finest + error, finest, finest)) == 0


def test_only_a_single_axis_can_be_coarse():
    assert coarse_axis((1.0, 1.0, 3.5)) == 2
    assert coarse_axis((6.0, 1.2, 1.0)) == 0
    assert coarse_axis((1.0, 1.0, 3.0)) is None
    assert coarse_axis((0.24, 1.25, 1.25)) is None


def test_a_resampled_labelmap_has_no_new_values():
    label = np.zeros((6, 6, 6), np.uint8)
    label[2:4, 2:4, 2:4] = 7
    label[4:, :, :] = 3
    for coarse in (None, 0, 2):
        resampled = resample_labelmap(label, (11, 9, 13), coarse)
        assert resampled.shape == (11, 9, 13)
        assert set(np.unique(resampled)) == {0, 3, 7}


def test_intensities_get_mean_0_and_deviation_1_and_constants_become_0():
    image = np.random.default_rng(0).normal(1.7e6, 1e4, (8, 8, 8)).astype(np.float32)
    normalised = normalize(image, ChannelNormalization())
    assert float(normalised.mean()) == pytest.approx(0, abs=1e-3)
    assert float(normalised.std()) == pytest.approx(1, abs=1e-3)
    for constant in (0.0, 5.0, -3e7):
        volume = Volume(np.full((4, 5, 6), constant, np.float32), np.diag([2.0, 1, 1, 1]))
        assert not preprocess([volume], plan_of()).image.any()


def test_zeros_around_a_head_are_ignored_on_any_grid():
    image = np.zeros((20, 20, 20), np.float32)
    texture = np.random.default_rng(0).normal(1000, 200, (8, 8, 8))
    image[6:14, 6:14, 6:14] = texture
    volume = Volume(image, RAS)
    same = preprocess([volume], plan_of()).image[0, 6:14, 6:14, 6:14]
    assert float(same.mean()) == pytest.approx(0, abs=1e-3)
    assert float(same.std()) == pytest.approx(1, abs=1e-3)
    # On a grid twice as fine the interior has the same intensities.
    finer = preprocess([volume], plan_of((0.5, 0.5, 0.5))).image[0]
    assert float(finer[16:24, 16:24, 16:24].mean()) == pytest.approx(
        float(same[2:6, 2:6, 2:6].mean()), abs=0.2
    )


def test_zeros_count_in_an_image_with_negative_intensities():
    image = np.zeros((10, 10, 10), np.float32)
    image[:2] = -1000
    image[8:] = 1000
    assert float(normalize(image, ChannelNormalization()).mean()) == pytest.approx(0, abs=1e-5)


def test_edge_slices_are_repeated_with_their_labels():
    image = np.random.default_rng(0).normal(size=(1, 4, 3, 3)).astype(np.float32)
    label = np.arange(36, dtype=np.uint8).reshape(4, 3, 3)
    repeated = repeat_edge_slices(PreparedCase(image, label), 2)
    order = [0, 0, 0, 1, 2, 3, 3, 3]
    np.testing.assert_array_equal(repeated.image, image[:, order])
    np.testing.assert_array_equal(repeated.labelmap, label[order])


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("shape", [(9, 21, 30), (5, 11, 40), (14, 21, 1), (1, 50, 8)])
def test_arrays_are_resampled_by_splines_within_their_range(
    shape: tuple[int, int, int], order: Literal[1, 3]
) -> None:
    array = np.random.default_rng(0).normal(size=(9, 21, 17)).astype(np.float32)
    factors = [new / old for new, old in zip(shape, array.shape, strict=True)]
    spline = ndimage.zoom(array.astype(float), factors, order=order, mode="nearest", grid_mode=True)
    expected = spline.clip(array.min(), array.max())
    np.testing.assert_allclose(resample(array, shape, None, order), expected, atol=2e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_along_a_coarse_axis_every_resampled_slice_shows_a_single_one(axis: int) -> None:
    array = np.random.default_rng(0).normal(size=(4, 6, 5)).astype(np.float32)
    shape = [8, 9, 10]
    found = np.moveaxis(resample(array, (8, 9, 10), axis), axis, 0)
    shape[axis] = array.shape[axis]
    slices = np.moveaxis(resample(array, (shape[0], shape[1], shape[2]), None), axis, 0)
    for each in found:
        assert np.abs(slices - each).max((1, 2)).min() < 1e-5


def test_values_on_another_grid_are_those_of_the_nearest_voxel() -> None:
    values = np.arange(24).reshape(2, 3, 4)
    finer = nearest_voxels(values, (4, 6, 8))
    assert np.array_equal(finer, values.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    assert np.array_equal(nearest_voxels(finer, values.shape), values)
    assert nearest_voxels(values > 3, (3, 3, 3)).shape == (3, 3, 3)

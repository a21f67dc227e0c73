"""Volumes and boxes in space, on oblique, left-handed and anisotropic grids too."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import (
    Box,
    RasBox,
    Volume,
    apply_axes,
    axis_mapping,
    box_in_space,
    box_on_grid,
    crop,
    invert_axes,
    reorient,
)

_CODES = ["".join(c) for c in product("RL", "AP", "SI")]
_CODES += ["LIP", "SAR", "IPL", "PRS", "ASL"]


def _volume(angles: tuple[float, float, float] = (0, 0, 0), mirrored: bool = False) -> Volume:
    matrix = np.eye(4)
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix[:3, :3] = rotation @ np.diag([-0.5 if mirrored else 0.5, 1.0, 3.0])
    matrix[:3, 3] = 11, -22, 33
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    return Volume(array, matrix, "case")


_VOLUMES = [
    _volume(),
    _volume(mirrored=True),
    _volume((20, 30, 10)),
    _volume((20, -30, 100), mirrored=True),
]


def _place(volume: Volume, value: int) -> np.ndarray:
    """Return the homogeneous RAS position of the voxel that has ``value``."""
    k, j, i = np.argwhere(volume.array == value)[0]
    return volume.ijk_to_ras @ [i, j, k, 1]


def test_spacing_and_directions_are_those_of_the_axes_i_j_k() -> None:
    volume = _volume((20, 30, 10), mirrored=True)
    assert volume.shape == (4, 5, 6)
    assert np.allclose(volume.spacing, (0.5, 1, 3))
    assert np.allclose(volume.directions.T @ volume.directions, np.eye(3))
    assert np.linalg.det(volume.directions) < 0


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 4, 5)])
def test_an_array_without_three_axes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MaskSAMError, match="3 axes"):
        Volume(np.zeros(shape), np.eye(4))


def test_a_matrix_that_cannot_be_inverted_is_refused() -> None:
    with pytest.raises(MaskSAMError, match="invertible"):
        Volume(np.zeros((2, 3, 4)), np.diag([1.0, 0, 1, 1]))


@pytest.mark.parametrize("code", _CODES)
@pytest.mark.parametrize("volume", _VOLUMES, ids=["plain", "mirrored", "oblique", "both"])
def test_every_voxel_of_a_reoriented_volume_stays_at_its_place(volume: Volume, code: str) -> None:
    oriented = reorient(volume, code)
    assert axis_mapping(oriented.ijk_to_ras, code) == ((0, 1, 2), (False, False, False))
    for value in (0, 7, 64, 119):
        assert np.allclose(_place(oriented, value), _place(volume, value))


@pytest.mark.parametrize("code", _CODES)
def test_inverted_axes_give_the_array_back_without_a_copy(code: str) -> None:
    volume = _volume((20, -30, 100), mirrored=True)
    axes, flips = axis_mapping(volume.ijk_to_ras, code)
    oriented = apply_axes(volume.array, axes, flips)
    assert np.array_equal(invert_axes(oriented, axes, flips), volume.array)
    assert np.shares_memory(oriented, volume.array)


def test_each_axis_is_used_once_even_at_45_degrees() -> None:
    volume = _volume((45, 45, 45))
    assert sorted(axis_mapping(volume.ijk_to_ras, "RAS")[0]) == [0, 1, 2]


def test_the_nearest_axes_are_used_once_each_whatever_the_voxel_size() -> None:
    for rotation in Rotation.random(50, random_state=0).as_matrix():
        matrix, thick = np.eye(4), np.eye(4)
        matrix[:3, :3], thick[:3, :3] = rotation, rotation @ np.diag([0.5, 1, 8])
        axes, flips = axis_mapping(matrix, "RAS")
        assert sorted(axes) == [0, 1, 2]
        assert axis_mapping(thick, "RAS") == (axes, flips)


@pytest.mark.parametrize("code", ["RAX", "RLS", "RA", "RASS"])
def test_an_orientation_must_name_each_direction_once(code: str) -> None:
    with pytest.raises(MaskSAMError, match="orientation"):
        axis_mapping(np.eye(4), code)


@pytest.mark.parametrize("volume", _VOLUMES, ids=["plain", "mirrored", "oblique", "both"])
def test_the_volume_of_a_voxel_is_that_of_its_sides(volume: Volume) -> None:
    assert volume.voxel_ml == pytest.approx(0.5 * 1 * 3 / 1000)


def test_a_box_without_extent_along_an_axis_is_empty() -> None:
    assert not Box("", (1, 2, 3), (1.1, 4, 5)).empty
    assert Box("", (1, 2, 3), (1, 4, 5)).empty
    assert Box("", (1, 2, 3), (4, 5, 3 + 1e-5)).empty


def test_a_box_of_integer_edges_gives_the_slices_of_the_array() -> None:
    assert Box("", (1, 2, 3), (4, 5, 6)).slices() == (slice(3, 6), slice(2, 5), slice(1, 4))


def test_a_box_is_rounded_outward_except_for_rounding_errors_of_files() -> None:
    grown = Box("", (1.2, 2 - 1.5e-6, 2.9), (3.1, 4 + 1.5e-6, 5)).rounded()
    assert grown.lower == (1, 2, 2)
    assert grown.upper == (4, 4, 5)
    touched = Box("", (1.98, 2, 2.98), (3.02, 4.02, 5)).rounded()
    assert (touched.lower, touched.upper) == ((1, 2, 2), (4, 5, 5))


def test_a_clipped_box_lies_in_the_volume_and_may_be_empty() -> None:
    inside = Box("a", (-3, 2, 1), (99, 4, 9)).clipped((4, 5, 6))
    assert (inside.class_name, inside.lower, inside.upper) == ("a", (0, 2, 1), (6, 4, 4))
    assert not inside.empty
    assert Box("", (-5, -5, -5), (-1, -1, -1)).clipped((4, 5, 6)).empty


@pytest.mark.parametrize("volume", _VOLUMES, ids=["plain", "mirrored", "oblique", "both"])
def test_a_box_keeps_its_edges_through_space(volume: Volume) -> None:
    box = Box("Anterior", (1, 2.25, 0), (4, 5, 3.5))
    again = box_on_grid(box_in_space(box, volume), volume)
    assert again.class_name == "Anterior"
    assert np.allclose(again.lower, box.lower)
    assert np.allclose(again.upper, box.upper)


def test_the_box_around_one_voxel_is_centred_on_it() -> None:
    volume = _volume((20, 30, 10), mirrored=True)
    box = box_in_space(Box("", (2, 3, 1), (3, 4, 2)), volume)
    assert np.allclose(box.center, (volume.ijk_to_ras @ [2, 3, 1, 1])[:3])
    assert np.allclose(box.size, volume.spacing)


@pytest.mark.parametrize("volume", _VOLUMES, ids=["plain", "mirrored", "oblique", "both"])
def test_the_box_on_a_grid_covers_all_corners_of_a_rotated_box(volume: Volume) -> None:
    axes = Rotation.from_euler("zx", [35, 50], degrees=True).as_matrix()
    box = RasBox("", (12.0, -20.0, 36.0), axes, (2.0, 5.0, 7.0))
    found = box_on_grid(box, volume)
    to_edges = np.linalg.inv(volume.ijk_to_ras)
    signs = np.array(list(product((-0.5, 0.5), repeat=3)))
    corners = np.array(box.center) + (signs * box.size) @ axes.T
    edges = (np.c_[corners, np.ones(8)] @ to_edges.T)[:, :3] + 0.5
    assert np.allclose(found.lower, edges.min(0))
    assert np.allclose(found.upper, edges.max(0))


@pytest.mark.parametrize("volume", _VOLUMES, ids=["plain", "mirrored", "oblique", "both"])
def test_the_voxels_of_a_crop_stay_at_their_place(volume: Volume) -> None:
    part = crop(volume, Box("", (1.5, 1, -4), (4, 3, 2.5)))
    assert part.shape == (3, 2, 3)
    for value in (part.array[0, 0, 0], part.array[-1, -1, -1]):
        assert np.allclose(_place(part, value), _place(volume, value))


def test_a_crop_outside_the_volume_is_refused() -> None:
    with pytest.raises(MaskSAMError, match="region of interest"):
        crop(_volume(), Box("", (20, 20, 20), (30, 30, 30)))


def test_grids_are_compared_to_a_thousandth_of_a_millimetre() -> None:
    volume = _volume((20, 30, 10))
    shifted, moved = volume.ijk_to_ras.copy(), volume.ijk_to_ras.copy()
    shifted[0, 3] += 5e-4
    moved[0, 3] += 5e-3
    assert volume.same_grid(Volume(volume.array, shifted))
    assert not volume.same_grid(Volume(volume.array, moved))
    assert not volume.same_grid(Volume(volume.array[:-1], volume.ijk_to_ras))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([[[1]]], "must be a NumPy array"),
        (None, "must be a NumPy array"),
        (np.ma.masked_greater(np.zeros((2, 2, 2)), 1), "is masked"),
    ],
)
def test_voxels_that_are_no_plain_array_are_refused(array: Any, message: str) -> None:
    with pytest.raises(MaskSAMError, match=message):
        Volume(array, np.eye(4))


@pytest.mark.parametrize(
    "matrix",
    [np.diag([1, 1, 1, 2]), np.vstack([np.eye(4)[:3], np.ones(4)]), [[1], [1, 2]], "none", None],
)
def test_a_matrix_of_no_grid_is_refused(matrix: Any) -> None:
    with pytest.raises(MaskSAMError, match="ijk_to_ras"):
        Volume(np.zeros((2, 2, 2)), matrix)

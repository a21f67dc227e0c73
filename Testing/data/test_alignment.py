"""Channels whose grids differ from that of the first channel."""

from __future__ import annotations

import numpy as np
import pytest

from MaskSAMCore.data.alignment import align_channels
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from Testing.helpers.threshold_model import LEFT_HANDED, OBLIQUE, SAGITTAL, matrix, rotation

SHAPE = (9, 12, 10)
# The grid differs from each grid below in direction, spacing and origin, and is larger.
OTHER = matrix(rotation(25, 1) @ rotation(-10, 0), (1.5, 0.7, 2.5), (-40, -35, -45))
OTHER_SHAPE = (40, 130, 60)


def ramp(shape: tuple[int, int, int], ijk_to_ras: np.ndarray) -> np.ndarray:
    """Return intensities that rise linearly in space, float64 [K, J, I]."""
    k, j, i = np.indices(shape)
    ras = np.tensordot(ijk_to_ras[:3], np.stack([i, j, k, np.ones(shape)]), axes=1)
    return np.tensordot([2.0, -3.0, 5.0], ras, axes=1)


@pytest.mark.parametrize(
    "grid", [OBLIQUE, SAGITTAL, LEFT_HANDED], ids=["oblique", "turned", "left-handed"]
)
def test_a_channel_shows_the_same_places_on_the_grid_of_the_first(grid):
    first = Volume(np.zeros(SHAPE), grid, "T1")
    other = Volume(ramp(OTHER_SHAPE, OTHER), OTHER, "FLAIR")
    aligned = align_channels([first, other])
    assert aligned[0] is first
    assert first.same_grid(aligned[1])
    assert np.allclose(aligned[1].array, ramp(SHAPE, grid), atol=1e-3)
    assert not aligned[1].notes


def test_a_channel_on_the_same_grid_is_unchanged():
    first, other = Volume(np.zeros(SHAPE), OBLIQUE), Volume(np.ones(SHAPE, np.int16), OBLIQUE)
    assert align_channels([first, other])[1] is other


def test_voxels_outside_a_channel_get_its_lowest_intensity_and_are_noted():
    first = Volume(np.zeros(SHAPE), np.eye(4), "T1")
    half = Volume(np.arange(5, 545, dtype=np.int16).reshape(9, 6, 10), np.eye(4), "FLAIR")
    half.array[0, 0, 0] = -7
    aligned = align_channels([first, half])[1]
    assert np.array_equal(aligned.array[:, :6], half.array)
    assert (aligned.array[:, 6:] == -7).all()
    assert aligned.notes == ("'FLAIR' covers only 50 % of 'T1'.",)


@pytest.mark.parametrize(("rows", "noted"), [(11, False), (10, True)])
def test_a_channel_that_covers_nearly_all_of_the_first_has_no_note(rows, noted):
    first = Volume(np.zeros(SHAPE), np.eye(4), "T1")
    part = Volume(np.ones((9, rows, 10)), np.eye(4), "FLAIR", notes=("from its file",))
    notes = align_channels([first, part])[1].notes
    assert notes[0] == "from its file"
    assert (len(notes) == 2) is noted


def test_voxels_outside_a_channel_with_missing_numbers_get_its_lowest_number():
    first = Volume(np.zeros(SHAPE), np.eye(4))
    half = Volume(np.full((9, 6, 10), 3.0), np.eye(4))
    half.array[0, 0, :3] = np.nan, -np.inf, 2
    assert (align_channels([first, half])[1].array[:, 6:] == 2).all()


def test_a_mask_is_interpolated_as_intensities_are():
    mask = np.zeros(SHAPE, bool)
    mask[:, :6] = True
    moved = matrix(np.eye(3), origin=(0, -0.5, 0))
    aligned = align_channels([Volume(np.zeros(SHAPE), moved), Volume(mask, np.eye(4))])[1]
    assert aligned.array[0, :, 0].tolist() == [1] * 6 + [0.5] + [0] * 5


@pytest.mark.parametrize(("beyond", "value"), [(1e-4, 8), (1e-2, 2)])
def test_a_voxel_on_the_face_of_a_channel_is_inside_despite_rounding(beyond, value):
    channel = Volume(np.full((3, 3, 3), 8.0), np.eye(4))
    channel.array[1, 1, 1] = 2
    grid = matrix(np.eye(3), origin=(-0.5 - beyond, 0, 0))
    aligned = align_channels([Volume(np.zeros((3, 3, 3)), grid), channel])[1]
    assert (aligned.array[:, :, 0] == value).all()


def test_finer_voxels_inside_the_outermost_ones_of_a_channel_are_not_darkened():
    coarse = Volume(np.full((3, 3, 3), 8.0), np.diag([4.0, 4, 4, 1]))
    fine_grid = matrix(np.eye(3), (1, 1, 1), (-1.5, -1.5, -1.5))
    fine = Volume(np.zeros((12, 12, 12)), fine_grid)
    assert (align_channels([fine, coarse])[1].array == 8).all()


def test_a_channel_elsewhere_is_refused():
    first = Volume(np.zeros(SHAPE), np.eye(4), "T1")
    far = Volume(np.zeros(SHAPE), matrix(np.eye(3), origin=(500, 0, 0)), "FLAIR")
    with pytest.raises(MaskSAMError, match="'FLAIR' does not overlap 'T1'"):
        align_channels([first, far])

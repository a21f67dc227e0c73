"""Corruptions of images: labelmaps stay correct, and the same seed gives the same image."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from MaskSAMCore.data.dataset import LabelledCase
from MaskSAMCore.geometry import Volume
from MaskSAMCore.quality.corruptions import FITTED, HELD_OUT
from Testing.helpers.threshold_model import LEFT_HANDED
from Testing.quality.helpers import labelled_case

ALL = {**FITTED, **HELD_OUT}
# Corruptions that change the geometry or the labelmap.
SPATIAL = ("cropped", "wrong orientation", "wrong voxel size", "foreign")


@pytest.mark.parametrize("name", ALL)
def test_a_corrupted_case_is_complete_and_depends_on_the_seed_alone(name: str):
    case = labelled_case(channels=2)
    one, other = (ALL[name](case, 0.7, np.random.default_rng(3)) for _ in range(2))
    for channel, same in zip(one.channels, other.channels, strict=True):
        assert channel.shape == one.labelmap.shape
        assert channel.same_grid(one.channels[0])
        assert np.isfinite(channel.array).all()
        assert np.array_equal(channel.array, same.array)
    assert np.array_equal(one.labelmap, other.labelmap)


@pytest.mark.parametrize("name", [name for name in ALL if name not in SPATIAL])
def test_corrupted_intensities_leave_the_labelmap_and_its_place(name: str):
    case = labelled_case(matrix=LEFT_HANDED)
    found = ALL[name](case, 0.9, np.random.default_rng(1))
    assert np.array_equal(found.labelmap, case.labelmap)
    assert found.channels[0].same_grid(case.channels[0])
    assert (name == "clean") == np.array_equal(found.channels[0].array, case.channels[0].array)


@pytest.mark.parametrize("length", [31, 32])
def test_a_body_that_moves_stays_where_the_labelmap_says(length: int):
    axes = np.ogrid[tuple(slice(-1, 1, complex(0, length)) for _ in range(3))]
    image = 100 * np.exp(-8 * sum(axis**2 for axis in axes)).astype(np.float32)
    volume = Volume(image, np.eye(4), "body")
    case = LabelledCase("body", (volume,), (image > 30).astype(np.uint8))
    changes = []
    for seed in range(30):
        (moved,) = FITTED["motion"](case, 0.4, np.random.default_rng(seed)).channels
        shifted = ndimage.center_of_mass(moved.array > 0.5 * moved.array.max())
        changes.append(np.abs(np.subtract(shifted, (length - 1) / 2)).max())
    assert np.median(changes) < 0.5
    assert max(changes) < 3


def test_a_cropped_image_keeps_each_voxel_at_its_place():
    case = labelled_case()
    found = FITTED["cropped"](case, 0.9, np.random.default_rng(0))
    assert found.labelmap.size < case.labelmap.size
    (small,), (large,) = found.channels, case.channels
    corner = np.linalg.solve(large.ijk_to_ras, small.ijk_to_ras[:, 3])
    i, j, k = np.rint(corner[:3]).astype(int)
    part = tuple(slice(a, a + n) for a, n in zip((k, j, i), small.shape, strict=True))
    assert np.array_equal(small.array, large.array[part])
    assert np.array_equal(found.labelmap, case.labelmap[part])


def test_a_wrong_header_turns_the_body_and_never_only_swaps_left_and_right():
    case = labelled_case()
    seen = set()
    for seed in range(40):
        found = FITTED["wrong orientation"](case, 1.0, np.random.default_rng(seed))
        turn = found.channels[0].ijk_to_ras @ np.linalg.inv(case.channels[0].ijk_to_ras)
        axes = np.rint(turn[:3, :3]).astype(int)
        assert np.array_equal(np.abs(axes).sum(0), [1, 1, 1])
        assert not np.array_equal(axes, np.diag([-1, 1, 1]))
        assert not np.array_equal(axes, np.eye(3))
        seen.add(axes.tobytes())
    assert len(seen) > 5


def test_a_foreign_image_shows_nothing_that_is_labelled():
    assert not FITTED["foreign"](labelled_case(), 0.5, np.random.default_rng(0)).labelmap.any()


def test_no_corruption_of_the_fit_is_kept_for_the_evaluation():
    assert not set(FITTED) & set(HELD_OUT)

import numpy as np
import pytest
import torch

from MaskSAMCore.inference.sliding_window import (
    accumulate,
    axis_weights,
    extract,
    plan_windows,
    window_starts,
)

SHAPES = [(5, 9, 7), (16, 40, 56), (17, 41, 57), (1, 1, 1), (3, 100, 30), (33, 64, 12)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(1, 1, 1), (4, 16, 16), (16, 40, 56), (3, 7, 5)])
def test_every_voxel_is_covered_with_a_positive_weight_and_the_weights_sum_to_one(shape, size):
    total = torch.zeros(shape)
    for window in plan_windows(shape, size):
        weight = window.weight()
        assert (weight > 0).all()
        total[window.image] += weight
    torch.testing.assert_close(total, torch.ones(shape))


@pytest.mark.parametrize("length", [3, 8, 9, 12, 13, 50, 101])
@pytest.mark.parametrize("size", [1, 2, 8, 9])
def test_windows_overlap_by_half_and_reach_both_ends(length, size):
    starts = window_starts(length, size)
    steps = np.diff(starts)
    assert (steps <= max(1, (size + 1) // 2)).all()
    assert (steps > 0).all()
    assert starts[0] <= 0
    assert starts[-1] + size >= length


def test_the_weights_are_a_gaussian_with_an_eighth_of_the_window_as_sigma():
    (weights,) = axis_weights(length=24, size=16, starts=[0, 8])[:1]
    overlap = np.arange(8, 16)
    own = np.exp(-0.5 * ((overlap - 7.5) / 2) ** 2)
    other = np.exp(-0.5 * ((overlap - 8 - 7.5) / 2) ** 2)
    np.testing.assert_allclose(weights[8:16], own / (own + other))
    np.testing.assert_allclose(weights[:8], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(5, 9, 7), (20, 31, 18)])
def test_cutting_into_windows_and_blending_gives_the_image_back(shape, dtype):
    image = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
    total = torch.zeros(image.shape, dtype=dtype)
    for window in plan_windows(shape, (8, 8, 8)):
        view = extract(image, window, torch.zeros(2))
        assert view.shape == (2, 8, 8, 8)
        accumulate(total, view, window)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-3
    torch.testing.assert_close(total.float(), torch.from_numpy(image), atol=tolerance, rtol=0)


def test_a_small_volume_is_centred_in_its_window_and_padded_with_the_lowest_intensity():
    (window,) = plan_windows((2, 3, 4), (4, 5, 4))
    image = np.ones((1, 2, 3, 4), dtype=np.float32)
    view = extract(image, window, torch.tensor([-2.0]))
    assert view.shape == (1, 4, 5, 4)
    assert (view[0, 1:3, 1:4] == 1).all()
    assert (view == 1).sum() == 24
    assert (view == -2).sum() == 80 - 24

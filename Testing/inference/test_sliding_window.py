"""Sliding windows and their weights."""

from itertools import product

import numpy as np
import pytest
import torch

from MaskSAMCore.inference.sliding_window import (
    accumulate,
    axis_weights,
    divided_windows,
    extract,
    largest_divided,
    plan_windows,
    window_starts,
)

SHAPES = [(5, 9, 7), (16, 40, 56), (17, 41, 57), (1, 1, 1), (3, 100, 30), (33, 64, 12)]


@pytest.mark.parametrize(
    ("size", "shape"),
    [((1, 1, 1), (5, 9, 7)), *product([(4, 16, 16), (16, 40, 56), (3, 7, 5)], SHAPES)],
)
def test_weights_are_positive_and_sum_to_one_at_every_voxel(size, shape):
    total = torch.zeros(shape)
    for window in plan_windows(shape, size):
        weight = window.weight
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


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("length", [9, 12, 13, 50, 101])
def test_windows_overlap_by_the_share_that_is_asked_for(length: int, overlap: float):
    steps = np.diff(window_starts(length, 8, overlap))
    assert steps.sum() == length - 8
    assert (steps <= (1 - overlap) * 8).all()


@pytest.mark.parametrize("overlap", [0.0, 0.25])
def test_windows_that_overlap_less_restore_the_image_on_both_grids(overlap: float):
    image = np.random.default_rng(0).random((1, 20, 31, 18), dtype=np.float32)
    total = torch.zeros(image.shape)
    windows = plan_windows(image.shape[1:], (8, 8, 8), overlap=overlap)
    assert len(windows) < len(plan_windows(image.shape[1:], (8, 8, 8)))
    for window in windows:
        accumulate(total, extract(image, window, torch.zeros(1)), window)
    torch.testing.assert_close(total, torch.from_numpy(image))
    divided = divided_windows((10, 16, 9), (4, 4, 4), image.shape[1:], (2, 2, 2), overlap)
    total = torch.zeros(image.shape)
    for window in divided:
        accumulate(total, extract(image, window, torch.zeros(1)), window)
    torch.testing.assert_close(total, torch.from_numpy(image))


def test_the_weights_are_a_gaussian_with_an_eighth_of_the_window_as_sigma():
    (weights,) = axis_weights(length=24, size=16, starts=[0, 8])[:1]
    overlap = np.arange(8, 16)
    own = np.exp(-0.5 * ((overlap - 7.5) / 2) ** 2)
    other = np.exp(-0.5 * ((overlap - 8 - 7.5) / 2) ** 2)
    np.testing.assert_allclose(weights[8:16], own / (own + other))
    np.testing.assert_allclose(weights[:8], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(5, 9, 7), (20, 31, 18)])
def test_extracting_and_accumulating_all_windows_restores_the_image(shape, dtype):
    image = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
    total = torch.zeros(image.shape, dtype=dtype)
    for window in plan_windows(shape, (8, 8, 8)):
        view = extract(image, window, torch.zeros(2))
        assert view.shape == (2, 8, 8, 8)
        accumulate(total, view, window)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-3
    torch.testing.assert_close(total.float(), torch.from_numpy(image), atol=tolerance, rtol=0)


def test_a_small_volume_is_centred_in_its_window_and_filled_up():
    (window,) = plan_windows((2, 3, 4), (4, 5, 4))
    image = np.ones((1, 2, 3, 4), dtype=np.float32)
    view = extract(image, window, torch.tensor([-2.0]))
    assert view.shape == (1, 4, 5, 4)
    assert (view[0, 1:3, 1:4] == 1).all()
    assert (view == 1).sum() == 24
    assert (view == -2).sum() == 80 - 24


@pytest.mark.parametrize("depth", [1, 3, 5, 12])
def test_windows_are_centred_on_every_slice_with_equal_weights(depth: int):
    windows = plan_windows((depth, 8, 8), (5, 8, 8), every_slice=True)
    assert [w.start[0] for w in windows] == [k - 2 for k in range(depth)]
    shown: list[list[float]] = [[] for _ in range(depth)]
    for window in windows:
        for place, weight in enumerate(window.weights[0].tolist()):
            if 0 <= window.start[0] + place < depth:
                shown[window.start[0] + place].append(weight)
            else:
                assert weight == 0
    for weights in shown:
        assert len(weights) == min(5, depth) or len(weights) >= 3
        assert weights == pytest.approx([1 / len(weights)] * len(weights))
    if depth == 12:
        assert [len(w) for w in shown] == [3, 4, 5, 5, 5, 5, 5, 5, 5, 5, 4, 3]


def test_windows_centred_on_the_first_and_last_slices_repeat_them():
    image = np.arange(6, dtype=np.float32)[None, :, None, None] * np.ones((1, 6, 6, 7), np.float32)
    first, *_, last = plan_windows(image.shape[1:], (5, 8, 8), every_slice=True)
    middle = extract(image, first, torch.tensor([-9.0]))[0, :, 4, 4]
    assert middle.tolist() == [0, 0, 0, 1, 2]
    assert extract(image, last, torch.tensor([-9.0]))[0, :, 4, 4].tolist() == [3, 4, 5, 5, 5]
    # In-plane, voxels beyond the image are filled, not repeated.
    assert set(extract(image, first, torch.tensor([-9.0]))[0, :, 0, 0].tolist()) == {-9.0}


@pytest.mark.parametrize("shape", [(9, 20, 30), (4, 8, 8), (3, 7, 5), (1, 2, 6)])
@pytest.mark.parametrize("parts", [(1, 2, 4), (2, 3, 2)])
def test_the_largest_finer_grid_is_the_largest_whose_every_voxel_has_a_window(shape, parts):
    size = (4, 8, 8)
    largest = largest_divided(shape, size, parts)
    assert all(most >= part * n for most, part, n in zip(largest, parts, shape, strict=True))
    for axis, more in product(range(3), (0, 1)):
        fine = list(largest)
        fine[axis] += more
        total = np.zeros(fine)
        for window in divided_windows(shape, size, fine, parts):
            total[window.image] += window.weight.numpy()
        assert bool((total > 0).all()) == (more == 0)


@pytest.mark.parametrize(
    ("shape", "fine"), [((9, 20, 30), (18, 40, 60)), ((9, 20, 30), (17, 41, 59)), ((3, 4, 5),) * 2]
)
def test_windows_on_a_finer_grid_lie_where_those_of_the_plan_do(shape, fine) -> None:
    parts = (2, 2, 2) if fine != shape else (1, 1, 1)
    windows = plan_windows(shape, (4, 8, 8))
    finer = divided_windows(shape, (4, 8, 8), fine, parts)
    total = np.zeros(fine)
    for own, other in zip(windows, finer, strict=True):
        assert other.start == tuple(a * b for a, b in zip(own.start, parts, strict=True))
        assert other.size == tuple(a * b for a, b in zip(own.size, parts, strict=True))
        total[other.image] += other.weight.numpy()
    covered = tuple(slice(0, a * b) for a, b in zip(shape, parts, strict=True))
    np.testing.assert_allclose(total[covered], 1, atol=1e-5)

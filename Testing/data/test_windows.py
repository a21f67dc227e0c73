"""Endless streams of training windows, different in every process."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle

import numpy as np
import torch
from torch.utils.data import DataLoader

from MaskSAMCore.data import PreparedCase
from MaskSAMCore.data.window_numbers import WindowNumbers
from MaskSAMCore.data.windows import IndexedCase, WindowDataset, sample_voxels
from Testing.data.helpers import WINDOW, plan_of, prepared_cases

# A forked process need not import PyTorch again, which takes seconds.
START_METHOD = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"


def indexed(image: np.ndarray, labelmap: np.ndarray) -> IndexedCase:
    return IndexedCase.from_case(PreparedCase(image, labelmap))


def first_windows(dataset: WindowDataset, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x.numpy(), y.numpy()) for x, y in itertools.islice(dataset, number)]


def test_windows_repeat_only_with_the_same_seed():
    def first(seed: int) -> list[np.ndarray]:
        torch.manual_seed(seed)
        windows = WindowDataset(prepared_cases(2), plan_of(channels=2), 1.0, (0,), 0.33, seed)
        return [x for x, _ in first_windows(windows, 6)]

    windows = first(1)
    assert windows[0].shape == (2, 8, 16, 16)
    assert all(np.isfinite(x).all() for x in windows)
    assert all((a == b).all() for a, b in zip(windows, first(1), strict=True))
    assert any((a != b).any() for a, b in zip(windows, first(2), strict=True))


def test_the_given_share_of_windows_is_centred_on_foreground():
    label = np.zeros((64, 64, 64), np.uint8)
    label[50, 50, 50] = 1
    case = [indexed(np.zeros((1, 64, 64, 64), np.float32), label)]

    def share(wanted: float) -> float:
        windows = WindowDataset(case, plan_of((8, 8, 8)), 0.0, (), wanted, 0)
        return float(np.mean([(y > 0).any() for _, y in first_windows(windows, 60)]))

    assert share(1.0) == 1.0
    assert share(0.0) < 0.2


def test_at_most_a_tenth_of_a_window_lies_outside_the_case():
    image, label = np.zeros((1, 30, 30, 30), np.float32), np.ones((30, 30, 30), np.uint8)
    for foreground_share in (0.0, 1.0):
        windows = WindowDataset(
            [indexed(image, label)], plan_of((20, 20, 20)), 0.0, (), foreground_share, 0
        )
        shown = [(y > 0).any(1).any(1).sum() for _, y in first_windows(windows, 40)]
        assert min(shown) == 18 and max(shown) == 20


def test_windows_show_all_cases_and_all_parts_of_a_class():
    depth = np.arange(30, dtype=np.float32)[:, None, None] + np.zeros((30, 30, 30), np.float32)
    cases = [indexed(depth[None], np.full(depth.shape, value, np.uint8)) for value in (1, 2)]
    windows = first_windows(WindowDataset(cases, plan_of((4, 4, 4)), 0.0, (), 1.0, 0), 60)
    for value in (1, 2):
        centres = [x[0, 2, 2, 2] for x, y in windows if y.max() == value]
        assert len(centres) > 15 and min(centres) < 8 and max(centres) > 21


def test_a_sample_of_voxels_is_taken_from_all_of_a_class():
    labelmap = np.zeros((20, 20, 20), np.uint8)
    labelmap[2:18], labelmap[19, 0, :3] = 5, 9
    large, small = sample_voxels(labelmap, 50)
    assert len(np.unique(large, axis=0)) == 50 and len(small) == 3
    assert (labelmap[tuple(large.T)] == 5).all() and (labelmap[tuple(small.T)] == 9).all()
    assert large[:, 0].min() < 5 and large[:, 0].max() > 14


def test_voxels_outside_a_case_have_the_lowest_intensity_of_their_channel():
    image = np.stack([np.full((4, 6, 6), value, np.float32) for value in (2, 9)])
    image[:, 0, 0, 0] = -3, 5
    windows = WindowDataset(
        [indexed(image, np.zeros((4, 6, 6), np.uint8))], plan_of((8, 12, 12), 2), 0.0, (), 0.0, 0
    )
    for x, _ in first_windows(windows, 5):
        assert np.unique(x[0]).tolist() == [-3, 2] and np.unique(x[1]).tolist() == [5, 9]


def test_windows_are_centred_on_small_classes_as_often_as_on_large_ones():
    label = np.zeros((40, 40, 40), np.uint8)
    label[:20] = 1
    label[35, 35, 35] = 2
    case = [indexed(np.zeros((1, 40, 40, 40), np.float32), label)]
    windows = WindowDataset(case, plan_of((6, 6, 6)), 0.0, (), 1.0, 0)
    assert 0.3 < np.mean([(y == 2).any() for _, y in first_windows(windows, 80)]) < 0.7


def test_a_small_case_without_foreground_yields_windows():
    image = np.random.default_rng(0).normal(size=(1, 5, 7, 9)).astype(np.float32)
    case = [indexed(image, np.zeros((5, 7, 9), np.uint8))]
    windows = first_windows(WindowDataset(case, plan_of(), 1.0, (0,), 1.0, 0), 10)
    assert all(x.shape == (1, *WINDOW) and np.isfinite(x).all() for x, _ in windows)
    assert not any(y.any() for _, y in windows)


def test_a_window_dataset_can_be_pickled_for_another_process():
    windows = WindowDataset(prepared_cases(), plan_of(), 1.0, (0,), 0.33, 3)
    copy = pickle.loads(pickle.dumps(windows))
    torch.manual_seed(0)
    expected = first_windows(windows, 2)
    torch.manual_seed(0)
    np.testing.assert_array_equal(expected[1][0], first_windows(copy, 2)[1][0])


def test_each_worker_yields_its_own_windows():
    windows = WindowDataset(prepared_cases(), plan_of(), 1.0, (0,), 0.33, 0)
    loader = DataLoader(windows, 1, num_workers=2, multiprocessing_context=START_METHOD)
    first, second = (x.numpy() for x, _ in itertools.islice(loader, 2))
    assert (first != second).any()


def test_each_training_process_yields_its_own_windows():
    def first_of(process: int) -> np.ndarray:
        windows = WindowDataset(prepared_cases(), plan_of(), 1.0, (0,), 0.33, 0)
        windows.numbers = WindowNumbers(1, process, processes=2)
        loader = DataLoader(windows, 1, num_workers=1, multiprocessing_context=START_METHOD)
        return next(iter(loader))[0].numpy()

    assert (first_of(0) != first_of(1)).any()

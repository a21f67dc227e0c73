"""Datasets, plans, preprocessing, augmentation: what reaches the network."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch.utils.data import DataLoader

from MaskSAMCore.data import ChannelNormalization, Plan, Prepared, preprocess
from MaskSAMCore.data.augmentation import augment, build_augmentation
from MaskSAMCore.data.sampling import WindowDataset, cut
from MaskSAMCore.geometry import Volume

from .generated import generated_case

RAS = np.diag([1.0, 1.0, 1.0, 1.0])


def plan_of(**changes: object) -> Plan:
    values = {
        "orientation": "SAR",
        "spacing": (1.0, 1.0, 1.0),
        "window": (8, 16, 16),
        "normalization": (ChannelNormalization(),),
        "channels": ("MR",),
    }
    return Plan(**{**values, **changes})  # type: ignore[arg-type]


# Windows


def test_a_cut_is_filled_where_it_reaches_outside():
    array = np.arange(27).reshape(3, 3, 3)
    part = cut(array, (0, 1, 1), (4, 3, 3), -1)
    assert (part[:2] == -1).all()
    np.testing.assert_array_equal(part[2:], array[:2])


def test_without_augmentation_a_window_is_the_image_itself():
    image = np.random.default_rng(0).normal(size=(1, 12, 24, 24)).astype(np.float32)
    label = (image[0] > 0).astype(np.uint8)
    transforms = build_augmentation((8, 16, 16), (1.0, 1.0, 1.0), 0.0, ())
    window, labels = augment(transforms, image, label)
    np.testing.assert_allclose(window.numpy(), image[:, 2:10, 4:20, 4:20], atol=1e-5)
    np.testing.assert_array_equal(labels.numpy(), label[2:10, 4:20, 4:20])


def test_augmentation_moves_labels_with_their_image():
    label = np.zeros((12, 24, 24), np.uint8)
    label[3:9, 6:16, 8:20] = 1
    image = label[None].astype(np.float32)
    transforms = build_augmentation((8, 16, 16), (1.0, 1.0, 1.0), 1.0, (0,))
    np.random.seed(0)
    agreement = []
    for _ in range(20):
        window, labels = augment(transforms, image, label)
        inside, outside = window[0][labels == 1], window[0][labels == 0]
        if inside.numel() and outside.numel():
            agreement.append(float(inside.mean() - outside.mean()))
    assert np.mean(agreement) > 0.5


def prepared_cases() -> list[Prepared]:
    plan = plan_of()
    cases = []
    for seed in range(2):
        image, label = generated_case(seed)
        cases.append(preprocess([Volume(image, RAS)], plan, label))
    return cases


def test_windows_are_drawn_without_end_and_repeat_with_their_seed():
    def draw(seed: int) -> list[np.ndarray]:
        torch.manual_seed(seed)
        windows = WindowDataset(prepared_cases(), plan_of(), 1.0, (0,), 0.33, seed)
        return [x.numpy() for x, _ in itertools.islice(windows, 4)]

    first = draw(1)
    assert first[0].shape == (1, 8, 16, 16)
    assert all(np.isfinite(x).all() for x in first)
    assert all((a == b).all() for a, b in zip(first, draw(1), strict=True))
    assert any((a != b).any() for a, b in zip(first, draw(2), strict=True))


def test_a_share_of_the_windows_is_centred_on_foreground():
    image = np.zeros((1, 64, 64, 64), np.float32)
    label = np.zeros((64, 64, 64), np.uint8)
    label[50, 50, 50] = 1
    case = [Prepared(image, label)]
    plan = plan_of(window=(8, 8, 8))

    def share(wanted: float) -> float:
        windows = WindowDataset(case, plan, 0.0, (), wanted, 0)
        return float(np.mean([bool((y > 0).any()) for _, y in itertools.islice(windows, 60)]))

    assert share(1.0) == 1.0
    assert share(0.0) < 0.2


def test_each_worker_process_draws_its_own_windows():
    windows = WindowDataset(prepared_cases(), plan_of(), 1.0, (0,), 0.33, 0)
    loader = DataLoader(windows, 1, num_workers=2, multiprocessing_context="spawn")
    first, second = (x.numpy() for x, _ in itertools.islice(loader, 2))
    assert (first != second).any()

"""Training windows: cut out of cases, augmented, drawn by each process for itself."""

from __future__ import annotations

import itertools
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.seed import pl_worker_init_function
from torch.utils.data import DataLoader

from MaskSAMCore.data import ChannelNormalization, Plan, Prepared, preprocess
from MaskSAMCore.data.augmentation import Augmentation, cut
from MaskSAMCore.data.patches import WindowDataset
from MaskSAMCore.geometry import Volume
from Testing.helpers.generated import generated_case

ISOTROPIC = (1.0, 1.0, 1.0)
WINDOW = (8, 16, 16)


def plan_of(window: tuple[int, int, int] = WINDOW, channels: int = 1) -> Plan:
    names = tuple(f"MR{n}" for n in range(channels))
    return Plan("SAR", ISOTROPIC, window, (ChannelNormalization(),) * channels, names)


def prepared_cases(channels: int = 1) -> list[Prepared]:
    cases = []
    for seed in range(2):
        image, label = generated_case(seed)
        volumes = [Volume(image * (channel + 1), np.eye(4)) for channel in range(channels)]
        cases.append(preprocess(volumes, plan_of(channels=channels), label))
    return cases


def draw(dataset: WindowDataset, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x.numpy(), y.numpy()) for x, y in itertools.islice(dataset, number)]


# Augmentation


def test_a_cut_is_filled_where_it_reaches_outside():
    array = np.arange(27).reshape(3, 3, 3)
    part = cut(array, (0, 1, 1), (4, 3, 3), -1)
    assert (part[:2] == -1).all()
    np.testing.assert_array_equal(part[2:], array[:2])
    assert (cut(array, (50, 1, 1), (2, 2, 2), -1) == -1).all()


@pytest.mark.parametrize("window", [(8, 16, 16), (9, 15, 16)])
def test_without_augmentation_a_window_is_the_image_itself(window: tuple[int, int, int]):
    image = np.random.default_rng(0).normal(size=(2, 12, 24, 24)).astype(np.float32)
    label = (image[0] > 0).astype(np.uint8)
    augmentation = Augmentation(window, ISOTROPIC, 0.0, (0, 1, 2))
    moved, labels = augmentation(image, label, (6, 12, 12), (-3.0, -5.0))
    starts = [c - n // 2 for c, n in zip((6, 12, 12), window, strict=True)]
    d, r, c = (slice(start, start + n) for start, n in zip(starts, window, strict=True))
    np.testing.assert_allclose(moved.numpy(), image[:, d, r, c], atol=1e-5)
    np.testing.assert_array_equal(labels.numpy(), label[d, r, c])
    assert (moved.dtype, labels.dtype) == (torch.float32, torch.int64)


def test_outside_the_case_each_channel_has_its_own_lowest_intensity():
    image = np.stack([np.full((8, 16, 16), 2.0), np.full((8, 16, 16), 9.0)]).astype(np.float32)
    label = np.ones((8, 16, 16), np.uint8)
    moved, labels = Augmentation(WINDOW, ISOTROPIC, 0.0, ())(image, label, (0, 0, 0), (-7.0, 3.0))
    assert set(moved[0, labels == 0].tolist()) == {-7.0}
    assert set(moved[1, labels == 0].tolist()) == {3.0}
    assert set(moved[0, labels == 1].tolist()) == {2.0}
    assert int((labels == 1).sum()) == 4 * 8 * 8


def test_augmentation_moves_labels_with_their_image():
    label = np.zeros((12, 24, 24), np.uint8)
    label[3:9, 6:16, 8:20] = 1
    augmentation = Augmentation(WINDOW, ISOTROPIC, 1.0, (0,))
    np.random.seed(0)
    torch.manual_seed(0)
    agreement = []
    for _ in range(20):
        moved, labels = augmentation(label[None].astype(np.float32), label, (6, 12, 12), (0.0,))
        inside, outside = moved[0][labels == 1], moved[0][labels == 0]
        if inside.numel() and outside.numel():
            agreement.append(float(inside.mean() - outside.mean()))
    assert min(agreement) > 0.5


def test_turned_windows_have_no_border_within_the_case():
    """A flat and long window reaches far when it is turned; all of that is there in the case."""
    label = np.ones((90, 90, 90), np.uint8)
    image = label[None].astype(np.float32)
    augmentation = Augmentation((4, 16, 40), ISOTROPIC, 2.0, ())
    np.random.seed(0)
    torch.manual_seed(0)
    for _ in range(60):
        _, labels = augmentation(image, label, (45, 45, 45), (-50.0,))
        assert bool((labels == 1).all())


def test_windows_of_thick_slices_are_never_mixed_across_slices():
    image = np.broadcast_to(np.arange(1, 13, dtype=np.float32)[:, None, None], (12, 60, 60)).copy()
    label = image.astype(np.uint8)
    augmentation = Augmentation(WINDOW, (5.0, 1.0, 1.0), 2.0, ())
    np.random.seed(0)
    torch.manual_seed(0)
    for _ in range(40):
        _, labels = augmentation(image[None], label, (6, 30, 30), (0.0,))
        expected = torch.arange(3, 11)[:, None, None].expand(*WINDOW)
        assert torch.equal(labels, expected)


def test_only_the_chosen_axes_are_mirrored():
    image = np.random.default_rng(0).normal(size=(1, 8, 16, 16)).astype(np.float32)
    label = np.zeros(image.shape[1:], np.uint8)
    # So weak that nothing but mirroring is left.
    augmentation = Augmentation(WINDOW, ISOTROPIC, 1e-12, (0, 2))
    torch.manual_seed(0)
    seen = set()
    for _ in range(30):
        moved = augmentation(image, label, (4, 8, 8), (float(image.min()),))[0].numpy()
        for axes in ((), (1,), (3,), (1, 3)):
            if np.allclose(moved, np.flip(image, axes), atol=1e-5):
                seen.add(axes)
                break
        else:
            pytest.fail("a window is mirrored along another axis")
    assert seen == {(), (1,), (3,), (1, 3)}


def test_another_contrast_keeps_the_order_of_intensities_and_the_labels():
    image = np.random.default_rng(0).normal(size=(1, 8, 16, 16)).astype(np.float32)
    label = (image[0] > 0).astype(np.uint8)
    augmentation = Augmentation(WINDOW, ISOTROPIC, 0.0, (0, 1, 2), contrast=1.0)
    np.random.seed(0)
    before = image.ravel()
    order = np.argsort(before)
    for _ in range(10):
        moved, labels = augmentation(image, label, (4, 8, 8), (float(image.min()),))
        after = moved.numpy().ravel()
        assert (np.diff(after[order]) >= -1e-5).all()
        # A straight line would leave all tissues as far apart as they were.
        assert np.corrcoef(before, after)[0, 1] < 0.999
        np.testing.assert_array_equal(labels.numpy(), label)


def test_only_a_share_of_windows_gets_another_contrast_and_a_flat_one_stays_finite():
    image = np.random.default_rng(0).normal(size=(1, 8, 16, 16)).astype(np.float32)
    flat, label = np.full_like(image, 2.0), np.zeros(image.shape[1:], np.uint8)
    augmentation = Augmentation(WINDOW, ISOTROPIC, 0.0, (), contrast=0.3)
    np.random.seed(0)
    torch.manual_seed(0)
    windows = [augmentation(image, label, (4, 8, 8), (0.0,))[0].numpy() for _ in range(100)]
    same = sum(np.allclose(window, image, atol=1e-5) for window in windows)
    assert 55 <= same <= 85
    for _ in range(10):
        assert np.isfinite(augmentation(flat, label, (4, 8, 8), (2.0,))[0].numpy()).all()


# Drawing


def test_windows_are_drawn_without_end_and_repeat_with_their_seed():
    def first(seed: int) -> list[np.ndarray]:
        torch.manual_seed(seed)
        windows = WindowDataset(prepared_cases(2), plan_of(channels=2), 1.0, (0,), 0.33, seed)
        return [x for x, _ in draw(windows, 6)]

    windows = first(1)
    assert windows[0].shape == (2, 8, 16, 16)
    assert all(np.isfinite(x).all() for x in windows)
    assert all((a == b).all() for a, b in zip(windows, first(1), strict=True))
    assert any((a != b).any() for a, b in zip(windows, first(2), strict=True))


def test_a_share_of_the_windows_is_centred_on_foreground():
    label = np.zeros((64, 64, 64), np.uint8)
    label[50, 50, 50] = 1
    case = [Prepared(np.zeros((1, 64, 64, 64), np.float32), label)]

    def share(wanted: float) -> float:
        windows = WindowDataset(case, plan_of((8, 8, 8)), 0.0, (), wanted, 0)
        return float(np.mean([(y > 0).any() for _, y in draw(windows, 60)]))

    assert share(1.0) == 1.0
    assert share(0.0) < 0.2


def test_small_classes_are_centred_on_as_often_as_large_ones():
    label = np.zeros((40, 40, 40), np.uint8)
    label[:20] = 1
    label[35, 35, 35] = 2
    case = [Prepared(np.zeros((1, 40, 40, 40), np.float32), label)]
    windows = WindowDataset(case, plan_of((6, 6, 6)), 0.0, (), 1.0, 0)
    assert 0.3 < np.mean([(y == 2).any() for _, y in draw(windows, 80)]) < 0.7


def test_a_case_smaller_than_a_window_or_without_foreground_gives_windows_too():
    image = np.random.default_rng(0).normal(size=(1, 5, 7, 9)).astype(np.float32)
    case = [Prepared(image, np.zeros((5, 7, 9), np.uint8))]
    windows = draw(WindowDataset(case, plan_of(), 1.0, (0,), 1.0, 0), 10)
    assert all(x.shape == (1, *WINDOW) and np.isfinite(x).all() for x, _ in windows)
    assert not any(y.any() for _, y in windows)


def test_a_dataset_of_windows_can_be_sent_to_another_process():
    windows = WindowDataset(prepared_cases(), plan_of(), 1.0, (0,), 0.33, 3)
    sent = pickle.loads(pickle.dumps(windows))
    torch.manual_seed(0)
    mine = draw(windows, 2)
    torch.manual_seed(0)
    np.testing.assert_array_equal(mine[1][0], draw(sent, 2)[1][0])


def test_each_worker_draws_its_own_windows():
    windows = WindowDataset(prepared_cases(), plan_of(), 1.0, (0,), 0.33, 0)
    loader = DataLoader(windows, 1, num_workers=2, multiprocessing_context="spawn")
    first, second = (x.numpy() for x, _ in itertools.islice(loader, 2))
    assert (first != second).any()


def test_each_of_several_training_processes_draws_its_own_windows():
    """Lightning's processes all start from one seed; it tells their workers apart."""

    def first_of(process: int) -> np.ndarray:
        torch.manual_seed(0)
        windows = WindowDataset(prepared_cases(), plan_of(), 1.0, (0,), 0.33, 0)
        loader = DataLoader(
            windows,
            1,
            num_workers=1,
            multiprocessing_context="spawn",
            worker_init_fn=partial(pl_worker_init_function, rank=process),
        )
        return next(iter(loader))[0].numpy()

    assert (first_of(0) != first_of(1)).any()

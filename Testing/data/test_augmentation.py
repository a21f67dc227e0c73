"""Augmentation of windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from MaskSAMCore.data.augmentation import Augmentation, ThickSlices, cut

ISOTROPIC = (1.0, 1.0, 1.0)
WINDOW = (8, 16, 16)


def test_a_cut_is_filled_outside_the_array():
    array = np.arange(27).reshape(3, 3, 3)
    part = cut(array, (0, 1, 1), (4, 3, 3), -1)
    assert (part[:2] == -1).all()
    np.testing.assert_array_equal(part[2:], array[:2])
    assert (cut(array, (50, 1, 1), (2, 2, 2), -1) == -1).all()


@pytest.mark.parametrize("window", [(8, 16, 16), (9, 15, 16)])
def test_a_strength_of_zero_only_cuts_windows(window: tuple[int, int, int]):
    image = np.random.default_rng(0).normal(size=(2, 12, 24, 24)).astype(np.float32)
    label = (image[0] > 0).astype(np.uint8)
    augmentation = Augmentation(window, ISOTROPIC, 0.0, (0, 1, 2))
    moved, labels = augmentation(image, label, (6, 12, 12), (-3.0, -5.0))
    starts = [c - n // 2 for c, n in zip((6, 12, 12), window, strict=True)]
    d, r, c = (slice(start, start + n) for start, n in zip(starts, window, strict=True))
    np.testing.assert_allclose(moved.numpy(), image[:, d, r, c], atol=1e-5)
    np.testing.assert_array_equal(labels.numpy(), label[d, r, c])
    assert (moved.dtype, labels.dtype) == (torch.float32, torch.int64)


def test_outside_the_case_each_channel_has_its_lowest_intensity():
    image = np.stack([np.full((8, 16, 16), 2.0), np.full((8, 16, 16), 9.0)]).astype(np.float32)
    label = np.ones((8, 16, 16), np.uint8)
    moved, labels = Augmentation(WINDOW, ISOTROPIC, 0.0, ())(image, label, (0, 0, 0), (-7.0, 3.0))
    assert set(moved[0, labels == 0].tolist()) == {-7.0}
    assert set(moved[1, labels == 0].tolist()) == {3.0}
    assert set(moved[0, labels == 1].tolist()) == {2.0}
    assert int((labels == 1).sum()) == 4 * 8 * 8


def test_labels_move_with_their_image():
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


def test_a_rotated_window_shows_no_border_within_the_case():
    # A flat, long window reaches far when it is rotated; the case is large enough for that.
    label = np.ones((90, 90, 90), np.uint8)
    image = label[None].astype(np.float32)
    augmentation = Augmentation((4, 16, 40), ISOTROPIC, 2.0, ())
    np.random.seed(0)
    torch.manual_seed(0)
    for _ in range(60):
        _, labels = augmentation(image, label, (45, 45, 45), (-50.0,))
        assert bool((labels == 1).all())


def test_thick_slices_are_never_mixed():
    image = np.broadcast_to(np.arange(1, 13, dtype=np.float32)[:, None, None], (12, 60, 60)).copy()
    label = image.astype(np.uint8)
    augmentation = Augmentation(WINDOW, (5.0, 1.0, 1.0), 2.0, ())
    np.random.seed(0)
    torch.manual_seed(0)
    for _ in range(40):
        _, labels = augmentation(image[None], label, (6, 30, 30), (0.0,))
        expected = torch.arange(3, 11)[:, None, None].expand(*WINDOW)
        assert torch.equal(labels, expected)


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_windows_of_few_slices_are_augmented_too(slices: int):
    image = np.random.default_rng(0).normal(size=(1, slices, 24, 24)).astype(np.float32)
    label = (image[0] > 0).astype(np.uint8)
    # At this strength six in ten windows are blurred, some by more voxels than they have slices.
    augmentation = Augmentation((slices, 16, 16), ISOTROPIC, 3.0, (0, 1, 2))
    np.random.seed(0)
    torch.manual_seed(0)
    for _ in range(40):
        moved, labels = augmentation(image, label, (slices // 2, 12, 12), (float(image.min()),))
        assert moved.shape[1:] == labels.shape == (slices, 16, 16)
        assert bool(torch.isfinite(moved).all())


def test_only_the_chosen_axes_are_mirrored():
    image = np.random.default_rng(0).normal(size=(1, 8, 16, 16)).astype(np.float32)
    label = np.zeros(image.shape[1:], np.uint8)
    # At this strength nothing but mirroring is left.
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


def test_a_contrast_curve_keeps_the_order_of_intensities_and_the_labels():
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
        # A straight line would not change the contrast between tissues.
        assert np.corrcoef(before, after)[0, 1] < 0.999
        np.testing.assert_array_equal(labels.numpy(), label)


def test_an_acquisition_adds_a_smooth_shade_and_thickens_slices_along_one_axis():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 8, 16, 16)).astype(np.float32)
    label = (image[0] > 0).astype(np.uint8)
    augmentation = Augmentation(WINDOW, ISOTROPIC, 0.0, (), acquisition=1.0)
    np.random.seed(1)
    torch.manual_seed(1)
    roughness = np.zeros(3)
    shades = []
    for _ in range(20):
        moved, labels = augmentation(image, label, (4, 8, 8), (float(image.min()),))
        found = moved.numpy()[0]
        ratios = [
            np.abs(np.diff(found, axis=a)).mean() / np.abs(np.diff(image[0], axis=a)).mean()
            for a in range(3)
        ]
        # Noise is smoothed along one axis, and neighbours along the others are as different.
        assert sorted(ratios)[2] > 0.75
        roughness += np.array(ratios) < 0.7
        half = [
            found[:, :8].mean() - found[:, 8:].mean(),
            found[..., :8].mean() - found[..., 8:].mean(),
        ]
        shades.append(max(np.abs(half)))
        np.testing.assert_array_equal(labels.numpy(), label)
    assert (roughness > 0).all()
    assert max(shades) > 0.3


def test_thick_slices_stay_thick_slices_in_another_acquisition():
    image = np.random.default_rng(0).normal(size=(1, 8, 16, 16)).astype(np.float32)
    thick = ThickSlices(True)
    np.random.seed(0)
    torch.manual_seed(0)
    axes = set()
    for _ in range(20):
        scales = thick.get_parameters(image=torch.from_numpy(image))["scales"]
        assert scales.shape == (1, 3) and (scales >= 0.25).all() and scales[0, 0] == 1
        axes |= set(torch.nonzero(scales[0] < 1).flatten().tolist())
    assert axes == {1, 2}


def test_a_share_of_windows_gets_another_contrast_and_constant_ones_stay_finite():
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

"""MA-SAM's augmentation of slices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from MaskSAMCore.data import slice_augmentation as changes
from MaskSAMCore.data.slice_augmentation import SliceAugmentation

WINDOW = (3, 16, 16)


def slices_of(*size: int) -> changes.Slices:
    """Return slices with a labelled rectangle that is brighter than the rest."""
    labels = torch.zeros(size, dtype=torch.long)
    labels[:, 3:11, 5:13] = 2
    return (0.2 + 0.3 * labels.float())[None], labels


def test_a_strength_of_zero_only_cuts_windows() -> None:
    image = np.random.default_rng(0).normal(size=(2, 5, 20, 20)).astype(np.float32)
    labelmap = (image[0] > 0).astype(np.uint8)
    moved, labels = SliceAugmentation(WINDOW, 0.0)(image, labelmap, (2, 10, 10), (-3.0, -3.0))
    np.testing.assert_allclose(moved.numpy(), image[:, 1:4, 2:18, 2:18])
    np.testing.assert_array_equal(labels.numpy(), labelmap[1:4, 2:18, 2:18])
    assert (moved.dtype, labels.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("window", [(3, 16, 16), (3, 16, 24)])
def test_windows_keep_their_shape_range_and_labels(window: tuple[int, int, int]) -> None:
    labelmap = np.zeros((5, 24, 28), np.uint8)
    labelmap[:, 6:16, 8:20] = 1
    image = (labelmap[None] * 4.0 - 1.0).astype(np.float32)
    np.random.seed(0)
    augmentation = SliceAugmentation(window, 1.0)
    windows = [augmentation(image, labelmap, (2, 12, 14), (-1.0,)) for _ in range(40)]
    for moved, labels in windows:
        assert moved.shape == (1, *window) and labels.shape == window
        assert float(moved.min()) >= -1.01 and float(moved.max()) <= 3.01
        assert set(labels.unique().tolist()) <= {0, 1}
        # All slices are changed alike.
        assert torch.equal(labels[0], labels[1]) and torch.allclose(moved[:, 0], moved[:, 2])
    inside = [float(m[0][k == 1].mean() - m[0][k == 0].mean()) for m, k in windows if k.any()]
    assert np.mean(np.array(inside) > 0.5) > 0.9
    assert len({round(value, 4) for value in inside}) > 20
    np.random.seed(0)
    again = augmentation(image, labelmap, (2, 12, 14), (-1.0,))
    assert torch.equal(again[0], windows[0][0]) and torch.equal(again[1], windows[0][1])


def test_slices_are_moved_by_whole_pixels_with_their_labels() -> None:
    slices = slices_of(2, 16, 16)
    image, labels = changes.shift_columns(slices, 0.125)
    torch.testing.assert_close(labels[..., :-2], slices[1][..., 2:])
    torch.testing.assert_close(image[..., :-3], slices[0][..., 2:-1])
    assert float(image[..., -2:].max()) == 0 and int(labels[..., -2:].max()) == 0
    _, labels = changes.shift_rows(slices, -0.25)
    torch.testing.assert_close(labels[:, 4:], slices[1][:, :-4])
    for change in (changes.shear_columns, changes.shear_rows, changes.shift_rows):
        torch.testing.assert_close(change(slices, 0.0), slices)
    torch.testing.assert_close(changes.scale(slices, 1.0), slices)
    # A factor below 1 enlarges the slices, with the first corner fixed.
    assert int((changes.scale(slices, 0.8)[1] == 2).sum()) > int((slices[1] == 2).sum())


def test_a_shear_moves_rows_in_proportion_to_their_distance_from_the_middle() -> None:
    labels = torch.zeros(1, 16, 16, dtype=torch.long)
    labels[:, :, 8] = 1
    _, sheared = changes.shear_columns((labels.float()[None], labels), 0.25)
    columns = sheared[0].argmax(1)
    assert columns[7] == 8 and columns[8] == 8
    assert int(columns[0]) - int(columns[15]) in (3, 4)


def test_an_erased_rectangle_is_noise_and_background() -> None:
    np.random.seed(1)
    labels = torch.ones(2, 40, 40, dtype=torch.long)
    image, erased = changes.erase((torch.full((1, 2, 40, 40), 0.5), labels))
    gone = erased[0] == 0
    assert 0.01 <= float(gone.float().mean()) <= 0.06
    assert torch.equal(image[0, 0] != 0.5, gone) and torch.equal(image[0, 0], image[0, 1])
    assert int(labels.min()) == 1


def test_intensities_change_as_their_names_say() -> None:
    slices = slices_of(2, 16, 16)
    image = slices[0]
    assert torch.equal(changes.posterise(slices, 8.9)[0], (image * 255).floor() / 255)
    ramp = torch.linspace(0, 1, 99)[None, None, None]
    assert len(changes.posterise((ramp, slices[1]), 4)[0].unique()) == 16
    contrast = changes.change_contrast(slices, 0.5)[0]
    torch.testing.assert_close(contrast.mean(), image.mean())
    torch.testing.assert_close(contrast.std(), image.std() / 2)
    torch.testing.assert_close(changes.change_brightness(slices, 0.7)[0], 0.7 * image)
    sharper = changes.change_sharpness(slices, 1.9)[0]
    softer = changes.change_sharpness(slices, 0.1)[0]
    assert float(sharper.std()) > float(image.std()) > float(softer.std())
    torch.testing.assert_close(changes.change_sharpness(slices, 1.0)[0], image)
    assert changes.keep(slices, 0.3) is slices

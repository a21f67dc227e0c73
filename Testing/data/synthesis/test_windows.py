"""Windows and validation images synthesised from a labelmap dataset."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from MaskSAMCore.data import ChannelNormalization, Plan
from MaskSAMCore.data.dataset import LabelledCase, load_cases, open_dataset
from MaskSAMCore.data.synthesis.windows import (
    IndexedLabelmap,
    SynthesizedWindows,
    synthesized_case,
)
from MaskSAMCore.geometry import Volume, axis_mapping, reorient
from Testing.data.synthesis.helpers import (
    PLAIN,
    explained_variance,
    label_indices,
    label_scheme,
)
from Testing.helpers.labelled_heads import DESCRIPTION, head, write_labelmaps

PLAN = Plan("SAR", (2.0, 2.0, 2.0), (8, 12, 12), (ChannelNormalization(),), ("synthetic",))


def windows_of(folder: Path, seed: int) -> SynthesizedWindows:
    dataset = open_dataset(folder)
    cases = load_cases(dataset, [case.name for case in dataset.cases])
    assert dataset.scheme is not None
    labelmaps = [IndexedLabelmap.from_case(case, dataset.scheme, "SAR") for case in cases]
    return SynthesizedWindows(labelmaps, dataset.scheme, PLAN, 0.7, seed)


def test_windows_repeat_only_with_the_same_seed(tmp_path: Path):
    write_labelmaps(tmp_path, 3, DESCRIPTION)
    first, again, other = (list(islice(windows_of(tmp_path, seed), 6)) for seed in (1, 1, 2))
    for (a, b), (c, d) in zip(first, again, strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)
    assert not any(torch.equal(a, c) for (a, _), (c, _) in zip(first, other, strict=True))
    assert len({float(image.sum()) for image, _ in first}) == 6
    assert all(torch.isfinite(image).all() for image, _ in first)


def test_a_training_can_change_the_share_of_common_contrasts(tmp_path: Path):
    write_labelmaps(tmp_path, 3, DESCRIPTION)
    windows = windows_of(tmp_path, 4)
    stream = iter(windows)
    next(stream)
    assert windows.generator.ranges.common_contrasts == 0
    windows.common_contrasts.fill_(0.25)
    next(stream)
    assert windows.generator.ranges.common_contrasts == 0.25


def test_a_labelmap_does_not_depend_on_its_orientation_on_disk(tmp_path: Path):
    write_labelmaps(tmp_path, 2, DESCRIPTION)
    for number, found in enumerate(windows_of(tmp_path, 0).labelmaps):
        inside = np.argwhere(head(number) > 0)
        low, high = inside.min(0), inside.max(0) + 1
        cropped = head(number)[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        expected = np.pad(label_indices(cropped), 1)
        np.testing.assert_array_equal(found.labelmap.indices.numpy(), expected)


@pytest.mark.parametrize("code", ["SAR", "LIP", "PSL"])
def test_a_validation_image_fits_its_labelmap_in_any_orientation(code: str):
    # A left-handed oblique matrix with voxels of three sizes.
    angle = 0.2
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.diag([0.9, 1.0, 1.4, 1.0])
    matrix[:2, :2] = rotation @ np.diag([0.9, 1.0])
    matrix[:3, 3] = 7, -20, 3
    volume = reorient(Volume(label_indices(head()), matrix), code)
    assert axis_mapping(volume.ijk_to_ras, code) == ((0, 1, 2), (False, False, False))
    scheme, ranges = label_scheme(), replace(PLAIN, noise=0.02)
    case = LabelledCase("one", (volume,), scheme.classes_of(volume.array))
    made = synthesized_case(case, scheme, 4, ranges)
    (image,) = made.channels
    assert image.shape == made.labelmap.shape and image.spacing == pytest.approx(volume.spacing)
    # The crop keeps its position in space.
    corner = np.linalg.inv(volume.ijk_to_ras) @ image.ijk_to_ras[:, 3]
    i, j, k = np.round(corner[:3]).astype(int)
    d, r, c = image.shape
    inside = slice(k, k + d), slice(j, j + r), slice(i, i + c)
    uncropped = np.zeros(volume.shape, np.uint8)
    uncropped[inside] = made.labelmap
    np.testing.assert_array_equal(uncropped, case.labelmap)
    assert explained_variance(image.array, volume.array[inside]) > 0.85
    again = synthesized_case(case, scheme, 4, ranges)
    np.testing.assert_array_equal(again.channels[0].array, image.array)


def test_a_labelmap_of_background_alone_gives_an_image_and_windows(tmp_path: Path):
    scheme = label_scheme()
    empty = Volume(np.zeros((9, 10, 11), np.uint8), np.diag([1.0, 1.0, 2.0, 1.0]))
    case = LabelledCase("empty", (empty,), np.zeros(empty.shape, np.uint8))
    made = synthesized_case(case, scheme, 0)
    assert made.channels[0].same_grid(empty) and np.isfinite(made.channels[0].array).all()
    labelmaps = [IndexedLabelmap.from_case(case, scheme, "SAR")]
    for image, classes in islice(SynthesizedWindows(labelmaps, scheme, PLAN, 0.7, 0), 3):
        assert torch.isfinite(image).all() and not classes.any()

"""Slices synthesised from labelmaps: seeded, with objects that are regions of the labelmap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from MaskSAMCore.data.synthesis.labelmap import Labelmap
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.research.promptable_sam.objects import random_objects
from MaskSAMCore.research.promptable_sam.pretrain import read_labelmaps
from MaskSAMCore.research.promptable_sam.slices import SyntheticSlices, random_cut
from Testing.data.synthesis.helpers import rng
from Testing.research.promptable_sam.helpers import write_labelmap


@pytest.fixture(scope="module")
def labelmap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelmap(tmp_path_factory.mktemp("maps") / "map.nii.gz")


def test_a_slice_depends_on_seed_and_number_alone(labelmap: Path):
    slices = SyntheticSlices(read_labelmaps([str(labelmap)]), 32, 3, seed=4)
    first, again = slices.prepare(11), slices.prepare(11)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], slices.prepare(12)[0])
    assert not torch.equal(first[0], SyntheticSlices([], 32, 3, seed=5).prepare(11)[0])


def test_slices_are_sams_inputs_with_an_object_in_every_mask(labelmap: Path):
    slices = SyntheticSlices(read_labelmaps([str(labelmap)]), 32, 5, seed=0)
    for number in range(30):
        image, masks = slices.prepare(number)
        assert image.shape == (3, 32, 32) and image.dtype == torch.float32
        assert masks.shape == (5, 32, 32) and masks.dtype == torch.uint8
        assert torch.isfinite(image).all() and masks.max() == 1
        assert (masks.sum((1, 2)) > 0).all()


def test_slices_of_a_sphere_of_anisotropic_voxels_are_discs_in_every_direction():
    spacing = (3.0, 2.0, 4.0)
    axes = [(np.arange(round(120 / mm)) + 0.5) * mm - 60 for mm in spacing]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    sphere = (z**2 + y**2 + x**2 < 40**2).astype(np.uint8)
    labelmap = Labelmap(torch.from_numpy(sphere), spacing)
    ratios = []
    for seed in range(40):
        disc = random_cut(labelmap, 60, 60, rng(seed)).numpy() > 0
        edges = disc[[0, -1]].any() or disc[:, [0, -1]].any()
        if disc.sum() > 100 and not edges:
            rows, columns = disc.any(1).sum(), disc.any(0).sum()
            ratios.append((rows / columns, disc.sum() / (rows * columns)))
    sides, filled = np.array(ratios).T
    assert len(ratios) > 10
    assert sides.min() > 0.75 and sides.max() < 1 / 0.75
    assert abs(filled.mean() - np.pi / 4) < 0.04


def test_objects_are_labels_parts_or_neighbours_and_never_the_whole_slice():
    labels = np.zeros((20, 20), int)
    labels[:8], labels[8:, :8] = 1, 2
    parts = labels * 2
    parts[:8, 10:] += 1
    masks = random_objects(labels, parts, 200, np.random.default_rng(0))
    assert len(masks) == 200
    unique = {mask.tobytes() for mask in masks}
    assert (labels == 1).tobytes() in unique
    assert (parts == 3).tobytes() in unique
    assert ((parts == 2) | (parts == 4)).tobytes() in unique
    for mask in masks:
        assert 6 <= mask.sum() <= 240
        for part in np.unique(parts):
            assert len(np.unique(mask[parts == part])) == 1


def test_a_slice_without_objects_has_no_masks():
    blank = np.zeros((20, 20), int)
    assert random_objects(blank, blank, 4, np.random.default_rng(0)).shape == (0, 20, 20)


@pytest.mark.parametrize(
    ("values", "message"),
    [((0,), "has no label: leave it out"), (tuple(range(300)), "merge labels, for at most 255")],
)
def test_label_maps_that_cannot_be_used_are_named(
    values: tuple[int, ...], message: str, tmp_path: Path
):
    path = tmp_path / "map.nii.gz"
    if len(values) > 1:
        array = np.array(values, np.int16).reshape(300, 1, 1).repeat(6, 1).repeat(6, 2)
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    else:
        write_labelmap(path, values)
    with pytest.raises(MaskSAMError, match=rf"map\.nii\.gz.*{message}"):
        read_labelmaps([str(path)])

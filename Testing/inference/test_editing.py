"""Labels after boxes, against the rule written down voxel by voxel over the whole volume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from MaskSAMCore.inference.editing import Sampler, edit_labels, reached
from MaskSAMCore.inference.scoring import EditedScores

VALUES = np.array([0, 4, 7, 9], dtype=np.uint8)
SHAPES = [(6, 8, 9), (9, 6, 13), (3, 20, 4), (1, 1, 1)]


def grown(scores: torch.Tensor, shape) -> np.ndarray:
    """On the output's voxels."""
    return F.interpolate(scores[None], shape, mode="trilinear", align_corners=False)[0].numpy()


def by_the_rule(scores, edited, shape):
    """The same in plain words and whole volumes."""
    automatic = grown(scores, shape)
    kept = VALUES[automatic.argmax(0)]
    new = {}
    for index, change in edited.items():
        whole = torch.zeros(scores.shape[1:])
        whole[change.region] = change.scores
        new[index] = grown(whole[None], shape)[0]
    background = automatic[0].copy()
    gain = np.zeros_like(background)
    for index, score in new.items():
        gain = np.maximum(gain, score - automatic[index])
        background = np.maximum(background, (automatic[index] - score) / 2)
    best = np.maximum(background - gain, 0)
    label = np.zeros(shape, dtype=np.uint8)
    margin = np.full(shape, np.inf)
    for index, score in new.items():
        margin = np.minimum(margin, abs(score - best))
        label[score > best] = VALUES[index]
        best = np.maximum(best, score)
    others = ~np.isin(kept, [0, *(VALUES[index] for index in edited)])
    return np.where(others, kept, label), kept, margin


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [(1,), (2, 3), (1, 2, 3)])
def test_only_the_boxes_neighbourhood_is_computed_and_the_result_is_that_of_the_rule(
    shape, seed, classes
):
    random = torch.Generator().manual_seed(seed)
    scores = torch.rand(4, 6, 8, 9, generator=random) ** 2
    edited = {}
    for index in classes:
        starts = [int(torch.randint(0, n - 1, (1,), generator=random)) for n in (6, 8, 9)]
        region = tuple(slice(a, min(a + 4, n)) for a, n in zip(starts, (6, 8, 9), strict=True))
        size = [part.stop - part.start for part in region]
        edited[index] = EditedScores(region, torch.rand(size, generator=random) ** 0.5)
    expected, kept, margin = by_the_rule(scores, edited, shape)
    labelmap = kept.copy()
    labelmap[np.isin(labelmap, VALUES[list(classes)])] = 0
    means, region = edit_labels(scores, edited, VALUES, kept, labelmap)
    clear = margin > 1e-5
    np.testing.assert_array_equal(labelmap[clear], expected[clear])
    outside = np.ones(shape, dtype=bool)
    outside[region] = False
    assert not np.isin(labelmap[outside], VALUES[list(classes)]).any()
    for index in classes:
        assert (means[index] > 0) == (labelmap == VALUES[index]).any()


def test_a_class_that_has_no_part_of_the_volume_left_is_gone():
    scores = torch.zeros(2, 3, 3, 3)
    scores[1] = 1
    labelmap = np.zeros((3, 3, 3), dtype=np.uint8)
    nothing = EditedScores((slice(0, 0),) * 3, torch.zeros(0, 0, 0))
    means, region = edit_labels(scores, {1: nothing}, VALUES[:2], labelmap, labelmap)
    assert means == {1: 0.0} and region is None and not labelmap.any()


@pytest.mark.parametrize("target", SHAPES)
def test_samples_are_those_of_the_whole_grid(target):
    random = torch.Generator().manual_seed(1)
    values = torch.rand(6, 8, 9, generator=random)
    whole = grown(values[None], target)[0]
    region = tuple(slice(n // 3, n) for n in target)
    sampler = Sampler((6, 8, 9), target, region)
    found = sampler(values[sampler.source])
    np.testing.assert_allclose(found.numpy(), whole[region], atol=1e-6)


@pytest.mark.parametrize("target", SHAPES)
def test_no_voxel_outside_what_is_reached_depends_on_the_part(target):
    values = torch.zeros(6, 8, 9)
    part = (slice(2, 4), slice(0, 3), slice(5, 9))
    values[part] = 1
    outside = np.ones(target, dtype=bool)
    outside[reached(part, (6, 8, 9), target)] = False
    assert not grown(values[None], target)[0][outside].any()

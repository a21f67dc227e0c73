"""The decision rule, compared with a plain implementation for whole volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from MaskSAMCore.inference import decision
from MaskSAMCore.inference.box_prompts import class_prompt
from MaskSAMCore.inference.decision import (
    TIE_TOLERANCE,
    affected_region,
    filled,
    write_labels,
)
from MaskSAMCore.inference.grid_sampler import GridSampler
from MaskSAMCore.inference.progress import Progress
from MaskSAMCore.inference.scoring import EditedScores, Shares

# (depth, rows, columns) of the scores, and of outputs that are equal, finer, coarser and flat.
SOURCE = (6, 8, 9)
TARGETS = [(6, 8, 9), (9, 6, 13), (3, 20, 4), (1, 1, 1)]
VALUES = np.array([0, 4, 7, 9, 11], dtype=np.uint8)


def interpolated(scores: torch.Tensor, shape: Sequence[int]) -> np.ndarray:
    """Return scores (K, depth, rows, columns) on the grid of the output."""
    return F.interpolate(scores[None], shape, mode="trilinear", align_corners=False)[0].numpy()


def random_scores(rng: torch.Generator, classes: int = 4) -> torch.Tensor:
    return torch.rand(classes + 1, *SOURCE, generator=rng) ** 2


def random_edits(rng: torch.Generator, classes: Sequence[int]) -> dict[int, EditedScores]:
    edited = {}
    for index in classes:
        starts = [int(torch.randint(0, n - 1, (1,), generator=rng)) for n in SOURCE]
        depth, rows, columns = (
            slice(a, min(a + 4, n)) for a, n in zip(starts, SOURCE, strict=True)
        )
        size = [part.stop - part.start for part in (depth, rows, columns)]
        scores = torch.rand(size, generator=rng) ** 0.5
        edited[index] = EditedScores((depth, rows, columns), scores)
    return edited


def everywhere(scores: torch.Tensor) -> EditedScores:
    depth, rows, columns = (slice(0, n) for n in scores.shape)
    return EditedScores((depth, rows, columns), scores)


def automatic_labels(scores: torch.Tensor, shape: Sequence[int], weight: float = 1.0) -> np.ndarray:
    labelmap = np.zeros(shape, dtype=np.uint8)
    write_labels(scores, VALUES, labelmap, Progress(), background_weight=weight)
    return labelmap


def overwriting_labels(
    scores: torch.Tensor,
    edited: Mapping[int, EditedScores],
    shape: Sequence[int],
    weight: float = 1.0,
) -> np.ndarray:
    labelmap = np.zeros(shape, dtype=np.uint8)
    write_labels(scores, VALUES, labelmap, Progress(), edited=edited, background_weight=weight)
    return labelmap


def keeping_labels(
    scores: torch.Tensor,
    edited: Mapping[int, EditedScores],
    shape: Sequence[int],
    weight: float = 1.0,
    region: tuple[slice, slice, slice] | None = None,
) -> np.ndarray:
    """Return the labels if classes without boxes keep their voxels; only ``region`` is decided."""
    kept = automatic_labels(scores, shape, weight)
    labelmap = kept.copy()
    labelmap[np.isin(labelmap, VALUES[list(edited)])] = 0
    write_labels(
        scores,
        VALUES,
        labelmap,
        Progress(),
        edited=edited,
        background_weight=weight,
        kept=kept,
        region=region,
    )
    return labelmap


def labels_by_the_rule(
    scores: torch.Tensor, edited: Mapping[int, EditedScores], shape: Sequence[int], weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels if classes without boxes keep their voxels, and each decision's margin."""
    automatic = interpolated(scores, shape)
    automatic[0] *= weight
    kept = VALUES[automatic.argmax(0)]
    background = automatic[0] / weight
    gain = np.zeros_like(background)
    new = {}
    for index, change in edited.items():
        whole = torch.zeros(scores.shape[1:])
        whole[change.region] = change.scores
        new[index] = interpolated(whole[None], shape)[0]
        gain = np.maximum(gain, new[index] - automatic[index])
        background = np.maximum(background, (automatic[index] - new[index]) / 2)
    best = weight * np.maximum(background - gain, 0)
    labelmap = np.zeros(shape, dtype=np.uint8)
    margin = np.diff(np.sort(automatic, axis=0)[-2:], axis=0)[0]
    for index, score in new.items():
        margin = np.minimum(margin, abs(score - best))
        labelmap[score > best] = VALUES[index]
        best = np.maximum(best, score)
    others = ~np.isin(kept, VALUES[[0, *edited]])
    return np.where(others, kept, labelmap), margin


@pytest.mark.parametrize("shape", TARGETS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [(1,), (2, 3), (1, 2, 4)])
@pytest.mark.parametrize("weight", [1.0, 1.5])
def test_labels_are_those_of_the_rule_and_differ_near_the_boxes_only(shape, seed, classes, weight):
    rng = torch.Generator().manual_seed(seed)
    scores, edited = random_scores(rng), random_edits(rng, classes)
    region = affected_region(edited, SOURCE, shape)
    labelmap = keeping_labels(scores, edited, shape, weight, region)
    expected, margin = labels_by_the_rule(scores, edited, shape, weight)
    clear = margin > 1e-4
    assert clear.mean() > 0.9 or clear.size == 1
    np.testing.assert_array_equal(labelmap[clear], expected[clear])
    outside = np.ones(shape, dtype=bool)
    outside[region] = False
    assert not np.isin(labelmap[outside], VALUES[list(classes)]).any()


@pytest.mark.parametrize("shape", TARGETS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [(1,), (2, 3), (1, 2, 4)])
@pytest.mark.parametrize("weight", [1.0, 1.5])
@pytest.mark.parametrize("slab_voxels", [1, 1 << 23])
def test_deciding_the_whole_volume_and_the_boxes_neighbourhood_agree_voxel_for_voxel(
    shape, seed, classes, weight, slab_voxels, monkeypatch
):
    monkeypatch.setattr(decision, "SLAB_VOXELS", slab_voxels)
    rng = torch.Generator().manual_seed(seed)
    scores, edited = random_scores(rng), random_edits(rng, classes)
    automatic = automatic_labels(scores, shape, weight)
    overwriting = overwriting_labels(scores, edited, shape, weight)
    whole = keeping_labels(scores, edited, shape, weight)
    near = keeping_labels(scores, edited, shape, weight, affected_region(edited, SOURCE, shape))
    np.testing.assert_array_equal(near, whole)
    contested = VALUES[[0, *classes]]
    # Both rules agree at voxels that go to no class without a box under either rule.
    both = np.isin(automatic, contested) & np.isin(overwriting, contested)
    assert both.any() or both.size == 1
    np.testing.assert_array_equal(near[both], overwriting[both])
    others = ~np.isin(automatic, contested)
    np.testing.assert_array_equal(near[others], automatic[others])
    taken = np.isin(overwriting, VALUES[list(classes)])
    np.testing.assert_array_equal(overwriting[others & ~taken], automatic[others & ~taken])


@pytest.mark.parametrize("decide", [overwriting_labels, keeping_labels])
@pytest.mark.parametrize("shape", [SOURCE, (9, 6, 13)])
def test_the_scores_are_not_changed(decide, shape):
    rng = torch.Generator().manual_seed(0)
    scores, edited = random_scores(rng), random_edits(rng, (1, 2, 4))
    before = scores.clone()
    new = {index: change.scores.clone() for index, change in edited.items()}
    decide(scores, edited, shape)
    assert torch.equal(scores, before)
    assert all(torch.equal(change.scores, new[index]) for index, change in edited.items())


@pytest.mark.parametrize("shape", TARGETS)
def test_a_sampler_interpolates_a_region_as_it_would_the_whole_grid(shape):
    values = torch.rand(*SOURCE, generator=torch.Generator().manual_seed(1))
    whole = interpolated(values[None], shape)[0]
    for region in (
        tuple(slice(n // 3, n) for n in shape),
        (slice(shape[0] // 2, shape[0]), slice(0, shape[1]), slice(0, shape[2])),
    ):
        sampler = GridSampler(SOURCE, shape, region)
        found = sampler(values[sampler.source])
        np.testing.assert_allclose(found.numpy(), whole[region], atol=1e-5)


@pytest.mark.parametrize("shape", TARGETS)
def test_a_sampler_interpolates_single_voxels_as_it_would_all_of_them(shape):
    rng = torch.Generator().manual_seed(2)
    values = torch.rand(3, *SOURCE, generator=rng)
    region = tuple(slice(n // 3, n) for n in shape)
    sampler = GridSampler(SOURCE, shape, region)
    known = values[(slice(None), *sampler.source)]
    wanted = torch.stack([sampler(one) for one in known])
    voxels = torch.ones(wanted.shape[1:]).nonzero()
    index = torch.randint(0, 3, (len(voxels),), generator=rng)
    found = sampler.picked(known, index, voxels)
    np.testing.assert_allclose(found, wanted[(index, *voxels.unbind(1))], atol=1e-6)


@pytest.mark.parametrize("shape", TARGETS)
def test_no_voxel_outside_the_affected_region_depends_on_the_new_scores(shape):
    values = torch.zeros(SOURCE)
    part = (slice(2, 4), slice(0, 3), slice(5, 9))
    values[part] = 1
    outside = np.ones(shape, dtype=bool)
    outside[affected_region({1: EditedScores(part, values[part])}, SOURCE, shape)] = False
    assert not interpolated(values[None], shape)[0][outside].any()


def test_boxes_without_any_voxel_affect_nothing():
    nothing = EditedScores((slice(0, 0),) * 3, torch.zeros(0, 0, 0))
    assert affected_region({1: nothing, 2: nothing}, SOURCE, SOURCE) is None


@pytest.mark.parametrize("shape", [(9, 12, 7), (20, 24, 14), (4, 7, 5), (9, 20, 7), (1, 1, 1)])
@pytest.mark.parametrize("slab_voxels", [1, 300, 1 << 23])
def test_automatic_labels_are_the_largest_of_the_linearly_interpolated_scores(
    shape, slab_voxels, monkeypatch
):
    monkeypatch.setattr(decision, "SLAB_VOXELS", slab_voxels)
    scores = torch.rand(4, 9, 12, 7, generator=torch.Generator().manual_seed(1))
    whole = interpolated(scores, shape)
    labelmap = np.zeros(shape, dtype=np.uint8)
    shares = np.zeros((4, *shape), dtype=np.float32)
    means = write_labels(scores, np.arange(4), labelmap, Progress(), probabilities=shares)
    # The order of additions differs, so that either of two almost equal classes may win.
    top = np.sort(whole, axis=0)
    clear = top[-1] - top[-2] > 1e-5
    np.testing.assert_array_equal(labelmap[clear], whole.argmax(0)[clear])
    expected = whole / whole.sum(0)
    np.testing.assert_allclose(shares, expected, atol=1e-5)
    for index in range(4):
        mine = labelmap == index
        mean = expected[index][mine].mean() if mine.any() else 0
        assert means[index] == pytest.approx(mean, abs=1e-4)


def test_a_class_that_is_the_best_at_no_voxel_of_the_plan_may_be_the_best_between_them():
    scores = torch.zeros(9, 2, 2, 2)
    scores[:8] = torch.eye(8).reshape(8, 2, 2, 2)
    scores[8] = 0.2
    labelmap = np.zeros((3, 3, 3), dtype=np.uint8)
    write_labels(scores, np.arange(9), labelmap, Progress())
    assert labelmap[1, 1, 1] == 8
    assert labelmap[::2, ::2, ::2].ravel().tolist() == list(range(8))


def test_without_resampling_the_first_of_equal_classes_wins_and_no_score_is_background():
    scores = torch.zeros(3, 2, 2, 2)
    scores[1:, 0] = 0.5
    labelmap = np.zeros((2, 2, 2), dtype=np.uint8)
    shares = np.zeros((3, 2, 2, 2), dtype=np.float32)
    write_labels(scores, np.arange(3), labelmap, Progress(), probabilities=shares)
    assert (labelmap[0] == 1).all()
    assert (labelmap[1] == 0).all()
    np.testing.assert_array_equal(shares[:, 1, 0, 0], [1, 0, 0])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(6, 8, 9), (9, 6, 11)])
def test_a_box_of_one_class_never_moves_the_border_between_others(seed, shape):
    rng = torch.Generator().manual_seed(seed)
    scores = random_scores(rng, classes=3)
    edited = {2: everywhere(torch.rand(*SOURCE, generator=rng) ** 2)}
    before = automatic_labels(scores, shape)
    after = np.zeros(shape, dtype=np.uint8)
    shares = np.zeros((4, *shape), dtype=np.float32)
    write_labels(scores, VALUES, after, Progress(), edited=edited, probabilities=shares)
    mine = VALUES[2]
    kept = (before != mine) & (after != mine)
    np.testing.assert_array_equal(before[kept], after[kept])
    assert kept.any()
    assert ((before != mine) & (after == mine)).any()
    assert ((before == mine) & (after == 0)).any()
    assert ((before == mine) & (after == VALUES[3])).any()
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("background", "first", "second", "new_first", "expected"),
    [
        # A new score above one half wins against certain background.
        (0.99, 0.0, 0.0, 0.6, 1),
        (0.99, 0.0, 0.0, 0.4, 0),
        # A voxel given up by the class goes to another class only if the former scores were close.
        (0.05, 0.90, 0.06, 0.0, 0),
        (0.05, 0.50, 0.45, 0.0, 2),
        # A higher score wins against another class.
        (0.05, 0.30, 0.60, 0.7, 1),
        (0.05, 0.30, 0.60, 0.5, 2),
    ],
)
def test_a_class_with_a_box_gains_from_and_gives_to_the_background(
    background, first, second, new_first, expected
):
    scores = torch.tensor([background, first, second])[:, None, None, None]
    edited = {1: everywhere(torch.full((1, 1, 1), new_first))}
    labelmap = np.zeros((1, 1, 1), dtype=np.uint8)
    means = write_labels(scores, np.arange(3), labelmap, Progress(), edited=edited)
    assert labelmap.item() == expected
    assert 0 < means[expected] <= 1


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("difference", "expected"), [(-0.1, 4), (0.0, 4), (TIE_TOLERANCE / 2, 4), (0.01, 7)]
)
def test_where_classes_with_boxes_have_equal_scores_the_first_keeps_the_voxel(
    overwrite, difference, expected
):
    scores = torch.zeros(5, 2, 2, 2)
    scores[0] = 1
    new = torch.full((2, 2, 2), 0.8)
    edited = {2: everywhere(new + difference), 1: everywhere(new)}
    decide = overwriting_labels if overwrite else keeping_labels
    assert (decide(scores, edited, (2, 2, 2)) == expected).all()


@pytest.mark.parametrize("overwrite", [False, True])
def test_new_scores_count_in_their_region_and_are_zero_elsewhere(overwrite):
    scores = torch.zeros(5, 4, 5, 6)
    scores[1] = 0.9
    region = (slice(1, 3), slice(2, 5), slice(0, 4))
    edited = {1: EditedScores(region, torch.full((2, 3, 4), 0.8))}
    expected = np.zeros((4, 5, 6))
    expected[region] = 4
    decide = overwriting_labels if overwrite else keeping_labels
    np.testing.assert_array_equal(decide(scores, edited, (4, 5, 6)), expected)


# Lower and upper edges (depth, row, column) of a box on the plan's grid.
ODD_BOX = np.array([[1.5, 2.0, 2.25], [4.5, 5.5, 7.75]])


@pytest.mark.parametrize("shape", [SOURCE, (12, 16, 18), (24, 16, 9), (9, 20, 27)])
@pytest.mark.parametrize("decide", [overwriting_labels, keeping_labels])
def test_a_class_ends_at_its_box_on_every_grid(shape, decide):
    scores = torch.zeros(5, *SOURCE)
    scores[0] = 1
    region = tuple(slice(int(a + 0.5), int(b + 0.5)) for a, b in ODD_BOX.T)
    new = torch.full([part.stop - part.start for part in region], 0.6)
    edited = {2: EditedScores(region, new, ODD_BOX[None])}
    # A voxel whose centre lies exactly on an edge of the box is inside only at the lower edge.
    centres = np.meshgrid(*(np.arange(n) + 0.5 for n in shape), indexing="ij")
    low, high = ODD_BOX * np.divide(shape, SOURCE)
    inside = np.logical_and.reduce(
        [(a <= c) & (c < b) for a, b, c in zip(low, high, centres, strict=True)]
    )
    assert inside.any()
    np.testing.assert_array_equal(decide(scores, edited, shape) == VALUES[2], inside)


@pytest.mark.parametrize("slab_voxels", [1, 1 << 23])
def test_boxes_of_slices_thinner_than_the_plans_each_bound_their_slice(slab_voxels, monkeypatch):
    monkeypatch.setattr(decision, "SLAB_VOXELS", slab_voxels)
    scores = torch.zeros(5, *SOURCE)
    scores[0] = 1
    boxes = np.array(
        [[[2.0, 1.0, 1.0], [2.5, 5.0, 6.0]], [[2.5, 2.5, 1.5], [3.0, 7.0, 7.0]]], dtype=float
    )
    region = slice(2, 3), slice(1, 7), slice(1, 7)
    edited = {1: EditedScores(region, torch.full((1, 6, 6), 0.7), boxes)}
    expected = np.zeros((12, 16, 18), bool)
    expected[4, 2:10, 2:12] = expected[5, 5:14, 3:14] = True
    for decide in (overwriting_labels, keeping_labels):
        np.testing.assert_array_equal(decide(scores, edited, expected.shape) == VALUES[1], expected)


def test_a_box_thinner_than_a_voxel_keeps_the_voxel_that_contains_it():
    scores = torch.zeros(5, *SOURCE)
    scores[0] = 1
    box = np.array([[[2.6, 1.0, 1.0], [2.8, 4.0, 4.0]]])
    edited = {1: EditedScores((slice(2, 3), slice(1, 4), slice(1, 4)), torch.ones(1, 3, 3), box)}
    found = np.argwhere(overwriting_labels(scores, edited, (9, 8, 9)) == VALUES[1])
    assert set(found[:, 0]) == {4} and len(found) == 9


def random_shares(rng: torch.Generator, classes: tuple[int, ...]) -> Shares:
    """Return shares on a grid of half the voxel size; outside a part of the grid they are 0."""
    values = torch.zeros(len(classes) + 1, 12, 16, 18)
    part = torch.rand(len(classes) + 1, 8, 9, 11, generator=rng)
    values[:, 2:10, 4:13, 3:14] = part / part.sum(0)
    return Shares(values, classes)


@pytest.mark.parametrize("shape", [*TARGETS, (12, 16, 18)])
@pytest.mark.parametrize("classes", [(2,), (4, 1)])
@pytest.mark.parametrize("slab_voxels", [1, 1 << 23])
def test_a_refiner_decides_about_its_classes_and_the_others_keep_their_order(
    shape, classes, slab_voxels, monkeypatch
):
    monkeypatch.setattr(decision, "SLAB_VOXELS", slab_voxels)
    rng = torch.Generator().manual_seed(3)
    scores, shares = random_scores(rng), random_shares(rng, classes)
    base, found = interpolated(scores, shape), interpolated(shares.values, shape)
    sums = found.sum(0)
    best = found.argmax(0)
    others = base.copy()
    others[list(classes)] = -1
    refined = np.array([0, *classes])[best]
    expected = np.where(best > 0, refined, others.argmax(0))
    expected = VALUES[np.where(sums >= 0.5, expected, base.argmax(0))]
    clear = abs(sums - 0.5) > 1e-4
    for every in (base, found, np.delete(base, classes, 0)):
        two = np.sort(every, axis=0)[-2:]
        clear &= (two[1] - two[0] > 1e-4) | (two[1] == 0)
    labelmap = np.zeros(shape, np.uint8)
    write_labels(scores, VALUES, labelmap, Progress(), shares=shares)
    assert clear.mean() > 0.8 or clear.size == 1
    np.testing.assert_array_equal(labelmap[clear], expected[clear])


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_box_of_a_refined_class_is_on_its_own_grid(overwrite):
    rng = torch.Generator().manual_seed(5)
    scores, shares = random_scores(rng), random_shares(rng, (2,))
    scores[0] = 1
    box = np.array([[3.0, 5.0, 4.0], [8.0, 12.0, 11.0]])
    region = slice(3, 8), slice(5, 12), slice(4, 11)
    change = EditedScores(region, torch.full((5, 7, 7), 0.9), box[None], (12, 16, 18))
    shape = (12, 16, 18)
    kept = np.zeros(shape, np.uint8)
    write_labels(scores, VALUES, kept, Progress(), shares=shares)
    labelmap = np.where(kept == VALUES[2], 0, kept)
    write_labels(
        scores,
        VALUES,
        labelmap,
        Progress(),
        edited={2: change},
        shares=shares,
        kept=None if overwrite else kept,
        region=affected_region({2: change}, SOURCE, shape),
    )
    inside = np.zeros(shape, bool)
    inside[region] = True
    assert (kept[~inside] == VALUES[2]).any()
    np.testing.assert_array_equal(labelmap == VALUES[2], inside)


@pytest.mark.parametrize("shape", TARGETS)
def test_probabilities_of_refined_classes_are_the_refiners_shares(shape):
    rng = torch.Generator().manual_seed(6)
    scores, shares = random_scores(rng), random_shares(rng, (2,))
    labelmap = np.zeros(shape, np.uint8)
    probabilities = [np.zeros(shape, np.float32) for _ in VALUES]
    write_labels(scores, VALUES, labelmap, Progress(), shares=shares, probabilities=probabilities)
    np.testing.assert_allclose(np.sum(probabilities, 0), 1, atol=1e-4)
    np.testing.assert_array_equal(VALUES[np.argmax(probabilities, 0)], labelmap)


@pytest.mark.parametrize("shape", TARGETS)
@pytest.mark.parametrize("classes", [(2,), (4, 1)])
def test_voxels_that_other_classes_keep_are_counted(shape, classes):
    rng = torch.Generator().manual_seed(8)
    scores, edited = random_scores(rng), random_edits(rng, classes)
    kept = automatic_labels(scores, shape)
    labelmap = np.where(np.isin(kept, VALUES[list(classes)]), 0, kept)
    refused = np.zeros(len(VALUES), np.int64)
    write_labels(scores, VALUES, labelmap, Progress(), edited=edited, kept=kept, refused=refused)
    taken = overwriting_labels(scores, edited, shape)
    held = ~np.isin(kept, VALUES[[0, *classes]])
    expected = [(held & (taken == value)).sum() for value in VALUES]
    expected = [n if index in classes else 0 for index, n in enumerate(expected)]
    assert sum(expected) > 0 or kept.size == 1
    np.testing.assert_array_equal(refused, expected)


@pytest.mark.parametrize("shape", TARGETS)
def test_slices_that_are_decided_at_the_same_time_have_the_labels_of_the_whole(shape, monkeypatch):
    rng = torch.Generator().manual_seed(9)
    scores, edited = random_scores(rng), random_edits(rng, (3, 1))
    kept = automatic_labels(scores, shape)

    def written() -> tuple[np.ndarray, ...]:
        labelmap = np.where(np.isin(kept, VALUES[[1, 3]]), 0, kept)
        refused, seen = np.zeros(len(VALUES), np.int64), []
        progress = Progress(lambda stage, fraction, left: seen.append(fraction))
        progress.stage("Writing the labels", until=1.0)
        means = write_labels(
            scores, VALUES, labelmap, progress, edited=edited, kept=kept, refused=refused
        )
        return labelmap, means, refused, np.diff(seen)

    whole = written()
    monkeypatch.setattr(decision, "SLAB_VOXELS", 8)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = written()
    finally:
        torch.set_num_threads(threads)
    for expected, found in zip(whole[:3], together[:3], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    # One step for each slice.
    np.testing.assert_allclose(together[3], 1 / shape[0])


@pytest.mark.parametrize("refined", [False, True])
def test_a_class_fills_its_box_across_others_that_are_sure(refined: bool):
    base = torch.zeros(3, *SOURCE)
    base[2] = 0.99
    base[1, :, :, :3], base[2, :, :, :3] = 0.9, 0.05
    shape, parts = SOURCE, 1
    shares = None
    if refined:
        parts = 2
        shape = tuple(parts * n for n in SOURCE)
        values = base.new_zeros(2, *shape)
        values[1, :, :, : 3 * parts] = 0.9
        values[0] = 1 - values[1]
        shares = Shares(values, (1,))
    end = 4 * parts
    box = np.array([[0.0, 0.0, 0.0], [shape[0], shape[1], end]])
    prompt = class_prompt(1, [box], shape[0])
    region = prompt.extent(shape)
    decoded = torch.full([part.stop - part.start for part in region], 1e-3)
    decoded[..., : 3 * parts] = 0.9
    change = EditedScores(region, decoded, box[None], shape if refined else None)
    change = filled(change, prompt, base, shares)
    labelmap = np.zeros(shape, np.uint8)
    write_labels(base, VALUES[:3], labelmap, Progress(), edited={1: change}, shares=shares)
    expected = np.where(np.arange(shape[2]) < end, VALUES[1], VALUES[2])
    np.testing.assert_array_equal(labelmap, np.broadcast_to(expected, shape))


def test_a_stretched_tip_is_as_wide_on_a_grid_with_slightly_smaller_voxels():
    shape = (6, 40, 9)
    mine = torch.zeros(shape)
    mine[:, 1:6, :2] = mine[:, 2:5, 2:4] = 0.9
    base = torch.stack([torch.zeros(shape), mine, 0.99 - mine])
    box = np.array([[0.0, 1.0, 0.0], [6.0, 6.0, 6.0]])
    prompt = class_prompt(1, [box], shape[0])
    region = prompt.extent(shape)
    change = EditedScores(region, mine[region] + 1e-3, box[None])
    labelmap = np.zeros((6, 41, 9), np.uint8)
    change = filled(change, prompt, base)
    write_labels(base, VALUES[:3], labelmap, Progress(), edited={1: change})
    assert (labelmap[:, 2:5, 4:6] == VALUES[1]).all()
    assert (labelmap[:, [1, 5], 4:6] == VALUES[2]).all()

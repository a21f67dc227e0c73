import numpy as np
import pytest
import torch
import torch.nn.functional as F

from MaskSAMCore.inference import export as export_module
from MaskSAMCore.inference.export import export
from MaskSAMCore.inference.progress import Progress
from MaskSAMCore.inference.scoring import EditedScores


def run(scores, edited, shape, probabilities=False):
    labelmap = np.zeros(shape, dtype=np.uint8)
    values = np.arange(len(scores), dtype=np.uint8)
    shares = np.zeros((len(scores), *shape), dtype=np.float32) if probabilities else None
    means = export(scores, edited, values, labelmap, shares, Progress())
    return labelmap, shares, means


def everywhere(scores):
    return EditedScores(tuple(slice(0, n) for n in scores.shape), scores)


@pytest.mark.parametrize("shape", [(9, 12, 7), (20, 24, 14), (4, 7, 5), (9, 20, 7), (1, 1, 1)])
@pytest.mark.parametrize("slab_voxels", [1, 300, 1 << 23])
def test_slabs_give_the_largest_of_the_linearly_interpolated_scores(
    shape, slab_voxels, monkeypatch
):
    monkeypatch.setattr(export_module, "SLAB_VOXELS", slab_voxels)
    scores = torch.rand(4, 9, 12, 7, generator=torch.Generator().manual_seed(1))
    whole = F.interpolate(scores[None], shape, mode="trilinear", align_corners=False)[0]
    labelmap, shares, means = run(scores, {}, shape, probabilities=True)
    best = whole.argmax(0).numpy()
    # The order of additions differs: where two classes tie to the last digits, either may win.
    top = whole.topk(2, dim=0).values
    clear = (top[0] - top[1] > 1e-5).numpy()
    np.testing.assert_array_equal(labelmap[clear], best[clear])
    share = (whole / whole.sum(0)).numpy()
    np.testing.assert_allclose(shares, share, atol=1e-5)
    for index in range(4):
        if (labelmap == index).any():
            assert means[index] == pytest.approx(share[index][labelmap == index].mean(), abs=1e-4)


def test_without_resampling_the_first_of_equal_classes_wins_and_nothing_is_background():
    scores = torch.zeros(3, 2, 2, 2)
    scores[1:, 0] = 0.5
    labelmap, shares, _ = run(scores, {}, (2, 2, 2), probabilities=True)
    assert (labelmap[0] == 1).all()
    assert (labelmap[1] == 0).all()
    np.testing.assert_array_equal(shares[:, 1, 0, 0], [1, 0, 0])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(6, 8, 8), (9, 6, 11)])
def test_a_box_of_one_class_never_moves_the_border_between_others(seed, shape):
    random = torch.Generator().manual_seed(seed)
    scores = torch.rand(4, 6, 8, 8, generator=random) ** 2
    new = torch.rand(6, 8, 8, generator=random) ** 2
    before, _, _ = run(scores, {}, shape)
    after, shares, _ = run(scores, {2: everywhere(new)}, shape, probabilities=True)
    kept = (before != 2) & (after != 2)
    np.testing.assert_array_equal(before[kept], after[kept])
    assert kept.any()
    assert ((before != 2) & (after == 2)).any()
    assert ((before == 2) & (after == 0)).any()
    assert ((before == 2) & (after == 3)).any()
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-5)


def one_voxel(background, first, second, new_first):
    scores = torch.tensor([background, first, second])[:, None, None, None]
    edited = {1: everywhere(torch.full((1, 1, 1), new_first))}
    labelmap, _, means = run(scores, edited, (1, 1, 1))
    return labelmap.item(), means


@pytest.mark.parametrize(
    ("background", "first", "second", "new_first", "label"),
    [
        (0.99, 0.0, 0.0, 0.6, 1),  # gained from certain background: above one half it wins
        (0.99, 0.0, 0.0, 0.4, 0),
        (0.05, 0.90, 0.06, 0.0, 0),  # left: what was noise below it claims nothing
        (0.05, 0.50, 0.45, 0.0, 2),  # left: a close second takes it
        (0.05, 0.30, 0.60, 0.7, 1),  # another class is overcome by a higher score
        (0.05, 0.30, 0.60, 0.5, 2),
    ],
)
def test_the_rules_for_a_class_with_a_box(background, first, second, new_first, label):
    found, means = one_voxel(background, first, second, new_first)
    assert found == label
    assert 0 < means[label] <= 1


def test_new_scores_count_in_their_region_only_and_are_zero_elsewhere():
    scores = torch.zeros(3, 4, 5, 6)
    scores[1] = 0.9
    region = (slice(1, 3), slice(2, 5), slice(0, 4))
    edited = {1: EditedScores(region, torch.full((2, 3, 4), 0.8))}
    labelmap, _, _ = run(scores, edited, (4, 5, 6))
    expected = np.zeros((4, 5, 6))
    expected[region] = 1
    np.testing.assert_array_equal(labelmap, expected)

"""Doubtful voxels get the class whose intensities they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from MaskSAMCore.data.planning import ChannelNormalization
from MaskSAMCore.evaluation import dice_scores
from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.inference import EnsembleSegmenter, MaskSegmenter
from MaskSAMCore.inference.decision import SLAB_VOXELS, RegionScores, write_labels
from MaskSAMCore.inference.intensity_model import IntensityModel
from MaskSAMCore.inference.progress import Progress
from MaskSAMCore.inference.scoring import EditedScores, Shares
from MaskSAMCore.inference.sliding_window import Region
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling import BoxPrompts, ClassScores, Network, NetworkConfig
from MaskSAMCore.models import InferenceSettings
from Testing.helpers.threshold_model import GEOMETRIES, Embedding, plan_for

# Shapes of the output's grid, with voxels of 1 mm, and of the plan's grid, with 2 mm.
FINE, COARSE = (24, 40, 44), (12, 20, 22)
VALUES = np.array([0, 4, 7], np.uint8)
WHOLE: Region = (slice(0, 24), slice(0, 40), slice(0, 44))


def phantom() -> tuple[np.ndarray, np.ndarray]:
    """Return a labelmap of a bent band beside another class, and an image with a bias field."""
    z, y, x = np.indices(FINE)
    place = x + 2.5 * np.sin(1.4 * y) + 1.5 * np.cos(1.2 * z)
    labels = np.where(place < 14, 0, np.where(place < 25, 1, 2))
    rng = np.random.default_rng(5)
    clean = np.choose(labels, [10.0, 40.0, 80.0]) * (0.8 + 0.4 * y / FINE[1])
    return labels, (clean + rng.normal(0, 4, FINE)).astype(np.float32)


def coarse_scores(labels: np.ndarray) -> Tensor:
    """Return scores on the plan's grid, blurred like those of a network."""
    whole = F.one_hot(torch.from_numpy(labels), 3).permute(3, 0, 1, 2).float()
    return F.avg_pool3d(F.avg_pool3d(whole, 3, 1, 1, count_include_pad=False), 2)


def model_of(image: np.ndarray, scores: Tensor, weight: float = 0.5) -> IntensityModel:
    return IntensityModel([image], scores, (2.0, 2.0, 2.0), weight)


def labels_of(
    scores: Tensor,
    intensities: IntensityModel | None = None,
    edited: Mapping[int, EditedScores] | None = None,
    kept: np.ndarray | None = None,
    refused: np.ndarray | None = None,
) -> np.ndarray:
    labelmap = np.zeros(FINE, np.uint8)
    if kept is not None:
        labelmap = np.where(np.isin(kept, VALUES[[*edited]]), 0, kept).astype(np.uint8)
    write_labels(
        scores,
        VALUES,
        labelmap,
        Progress(),
        edited=edited,
        intensities=intensities,
        kept=kept,
        refused=refused,
    )
    return labelmap


def mean_dice(found: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(dice_scores(found, VALUES[labels], [4, 7])))


def test_outlines_follow_the_image_where_scores_are_coarse():
    labels, image = phantom()
    scores = coarse_scores(labels)
    plain = mean_dice(labels_of(scores), labels)
    sharp = mean_dice(labels_of(scores, model_of(image, scores)), labels)
    assert plain < 0.93
    assert sharp > 0.98


def test_the_scale_of_intensities_and_a_uniform_image_change_nothing():
    labels, image = phantom()
    scores = coarse_scores(labels)
    known = labels_of(scores, model_of(image, scores))
    other = labels_of(scores, model_of(1000 - 7 * image.astype(np.float64), scores))
    assert np.mean(known != other) < 1e-3
    flat = labels_of(scores, model_of(np.full(FINE, 3.0), scores))
    assert np.mean(flat != labels_of(scores)) < 1e-3


def test_a_second_channel_decides_what_the_first_does_not_show():
    labels, image = phantom()
    scores = coarse_scores(labels)
    noise = np.random.default_rng(1).normal(0, 1, FINE)
    model = IntensityModel([noise, image], scores, (2.0, 2.0, 2.0), 0.5)
    assert mean_dice(labels_of(scores, model), labels) > 0.97


def test_probabilities_are_those_of_the_labels_and_sum_to_one():
    labels, image = phantom()
    scores = coarse_scores(labels)
    model = model_of(image, scores)
    shares = torch.stack(
        [*RegionScores(scores, {}, FINE, WHOLE, intensities=model).probabilities()]
    )
    np.testing.assert_allclose(shares.sum(0).numpy(), 1, atol=1e-5)
    np.testing.assert_array_equal(VALUES[shares.argmax(0).numpy()], labels_of(scores, model))
    winner, probability = RegionScores(scores, {}, FINE, WHOLE, intensities=model).decide()
    found = shares.gather(0, winner[None].long())[0]
    np.testing.assert_allclose(found.numpy(), probability.numpy(), atol=1e-5)


def test_parts_of_a_region_are_decided_as_the_whole():
    labels, image = phantom()
    scores = coarse_scores(labels)
    model = model_of(image, scores)
    part: Region = (slice(3, 17), slice(8, 31), slice(5, 40))
    found = RegionScores(scores, {}, FINE, part, intensities=model).decide()[0]
    np.testing.assert_array_equal(VALUES[found.numpy()], labels_of(scores, model)[part])


def box_scores(labels: np.ndarray, index: int) -> EditedScores:
    """Return scores of a class dilated by two voxels, in a part of the grid."""
    grown = F.max_pool3d(torch.from_numpy(labels == index)[None].float(), 5, 1, 2)
    depth, rows, columns = slice(2, 10), slice(4, 16), slice(0, 22)
    region: Region = (depth, rows, columns)
    return EditedScores(region, F.avg_pool3d(grown, 2)[0][region])


@pytest.mark.parametrize("index", [1, 2])
def test_without_overwrite_other_classes_keep_their_sharpened_voxels(index: int):
    labels, image = phantom()
    scores = coarse_scores(labels)
    model = model_of(image, scores)
    automatic = labels_of(scores, model)
    found = labels_of(scores, model, {index: box_scores(labels, index)}, kept=automatic)
    other = VALUES[3 - index]
    np.testing.assert_array_equal(found == other, automatic == other)
    assert (found != automatic).any()


@pytest.mark.parametrize("index", [1, 2])
def test_with_overwrite_no_voxel_goes_from_one_class_without_boxes_to_another(index: int):
    labels, image = phantom()
    scores = coarse_scores(labels)
    model = model_of(image, scores)
    automatic = labels_of(scores, model)
    found = labels_of(scores, model, {index: box_scores(labels, index)})
    changed = found != automatic
    assert changed.any()
    assert (found[changed & (automatic != VALUES[index])] == VALUES[index]).all()


@pytest.mark.parametrize("index", [1, 2])
@pytest.mark.parametrize("slab", [SLAB_VOXELS, 1])
def test_a_class_fills_its_boxes_against_the_intensities(
    index: int, slab: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("MaskSAMCore.inference.decision.SLAB_VOXELS", slab)
    labels, image = phantom()
    scores = coarse_scores(labels)
    region: Region = (slice(2, 10), slice(4, 16), slice(3, 20))
    boxes = np.array([[[2, 4, 3], [10, 16, 20]]], float)
    edited = {index: EditedScores(region, torch.full((8, 12, 17), 0.8), boxes)}
    own = VALUES[index]
    plain = labels_of(scores, edited=edited) == own
    found = labels_of(scores, model_of(image, scores), edited) == own
    near = np.ones(FINE, bool)
    near[6:18, 10:30, 8:38] = False
    assert (plain & near & (labels != index)).sum() > 500
    assert (found | ~plain)[near].all()
    # Further inside, the intensities decide as without boxes.
    assert (plain & ~found).any()


def test_the_voxels_that_others_keep_are_those_that_overwrite_would_take():
    labels, image = phantom()
    scores = coarse_scores(labels)
    model = model_of(image, scores)
    automatic = labels_of(scores, model)
    edited = {1: box_scores(labels, 1)}
    refused = np.zeros(3, np.int64)
    labels_of(scores, model, edited, kept=automatic, refused=refused)
    taken = (automatic == VALUES[2]) & (labels_of(scores, model, edited) == VALUES[1])
    assert refused[1] == taken.sum() > 0


def test_a_class_that_only_a_box_finds_has_no_intensities():
    labels, image = phantom()
    scores = coarse_scores(labels)
    scores[0] += scores[1]
    scores[1] = 0
    model = model_of(image, scores)
    assert set(model.known) == {0, 2}
    found = labels_of(scores, model, {1: box_scores(labels, 1)})
    part: Region = (slice(5, 19), slice(9, 31), slice(0, 44))
    assert (found[part] == 4)[labels[part] == 1].mean() > 0.95


def test_a_small_class_without_intensities_keeps_its_scores():
    labels, image = phantom()
    scores = coarse_scores(labels)
    scores = torch.cat([scores, torch.zeros(1, *COARSE)])
    # The squared probabilities of these 12 voxels of the plan's grid add up to less than 10.
    scores[:, 4:6, 5:7, 8:11] = torch.tensor([0.1, 0.1, 0.1, 0.7])[:, None, None, None]
    model = model_of(image, scores)
    assert set(model.known) == {0, 1, 2}
    decided = RegionScores(scores, {}, FINE, WHOLE, intensities=model)
    plain = RegionScores(scores, {}, FINE, WHOLE).decide()[0]
    winner = decided.decide()[0]
    assert ((winner == 3) & (plain == 3)).sum() > 0.8 * (plain == 3).sum() > 0
    shares = torch.stack([*decided.probabilities()])
    np.testing.assert_array_equal(winner.numpy(), shares.argmax(0).numpy())


@pytest.mark.parametrize("grid", [(1, 3, 3), (3, 1, 3), (1, 1, 1)])
def test_a_grid_too_small_for_intensities_is_decided_by_scores(grid: tuple[int, int, int]):
    scores = torch.rand(3, *grid, generator=torch.Generator().manual_seed(2))
    shape = (grid[0] + 1, 2 * grid[1], 3 * grid[2])
    image = np.random.default_rng(0).normal(0, 1, shape)
    model = IntensityModel([image], scores, (2.0, 2.0, 2.0), 0.5)
    assert not model.known
    region: Region = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
    found = RegionScores(scores, {}, shape, region, intensities=model).decide()
    plain = RegionScores(scores, {}, shape, region).decide()
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_a_box_that_changes_no_score_changes_no_voxel():
    labels, image = phantom()
    scores = coarse_scores(labels)
    model = model_of(image, scores)
    whole: Region = (slice(0, 12), slice(0, 20), slice(0, 22))
    again = EditedScores(whole, scores[1].clone())
    same = RegionScores(scores, {1: again}, FINE, WHOLE, intensities=model).decide()[0]
    automatic = RegionScores(scores, {}, FINE, WHOLE, intensities=model).decide()[0]
    assert (same != automatic).float().mean() < 1e-3


def test_a_refiner_decides_its_own_classes_and_the_intensities_the_others():
    labels, image = phantom()
    scores = coarse_scores(labels)
    model = model_of(image, scores)
    automatic = labels_of(scores, model)
    labelmap = np.zeros(FINE, np.uint8)
    # The refiner gives the second class half of a plane, and nothing of the rest.
    values = torch.zeros(2, *FINE)
    values[0] = 1
    values[:, 12, :20] = torch.tensor([0.0, 1.0])[:, None, None]
    write_labels(
        scores, VALUES, labelmap, Progress(), shares=Shares(values, (2,)), intensities=model
    )
    mine = np.zeros(FINE, bool)
    mine[12, :20] = True
    np.testing.assert_array_equal(labelmap == VALUES[2], mine)
    others = ~mine & (automatic != VALUES[2])
    np.testing.assert_array_equal(labelmap[others], automatic[others])


class CoarseModel(Network):
    """Network that roughly outlines intensities above 58.

    Args:
        mean: value added to the scaled input, such as the mean that a z-score subtracted.
        spread: factor of the input, such as the deviation that a z-score divided by.
    """

    def __init__(self, mean: float = 0.0, spread: float = 1.0) -> None:
        super().__init__(NetworkConfig(1, 1, (4, 8, 8)))
        self.mean, self.spread = mean, spread

    def encode(self, images: Tensor) -> Embedding:
        return Embedding(images)

    def decode(self, embedding: Embedding, prompts: BoxPrompts | None = None) -> ClassScores:
        bright = torch.sigmoid((embedding.images * self.spread + self.mean - 58) / 6)
        bright = F.avg_pool3d(bright, 3, 1, 1, count_include_pad=False)
        return ClassScores(torch.cat([1 - bright, bright], 1))


def coarse_segmenter(
    orientation: str = "SPL",
    weight: float = 0.5,
    network: CoarseModel | None = None,
    **plan: object,
) -> MaskSegmenter:
    chosen = replace(plan_for(orientation=orientation, spacing=(2, 2, 2)), **plan)
    label = Label(3, "bright", (1.0, 0.0, 0.0))
    network = network or CoarseModel()
    inference = InferenceSettings(intensity_weight=weight)
    return MaskSegmenter(network, chosen, [label], device="cpu", inference=inference)


def bright_volume(matrix: np.ndarray) -> Volume:
    _, image = phantom()
    return Volume(image, matrix, "phantom")


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.2, 1.6), (2.5, 0.8, 0.8)])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_volume_is_sharpened_along_its_own_axes(name: str, spacing: tuple[float, ...]):
    """The outline follows the intensities, also in oblique, left-handed and anisotropic volumes."""
    labels, _ = phantom()
    volume = bright_volume(GEOMETRIES[name] @ np.diag([*spacing, 1.0]))
    plain, sharp = (
        coarse_segmenter(weight=weight).segment(volume).labelmap == 3 for weight in (0.0, 0.5)
    )
    truth = labels == 2
    scores = [float(dice_scores(one, truth, [1])[0]) for one in (plain, sharp)]
    assert scores[1] > max(0.9, scores[0])


def test_a_mirrored_array_of_the_same_head_has_the_same_result():
    volume = bright_volume(np.eye(4))
    known = coarse_segmenter().segment(volume).labelmap
    mirrored = replace(
        volume,
        array=np.ascontiguousarray(volume.array[:, :, ::-1]),
        ijk_to_ras=volume.ijk_to_ras
        @ np.array([[-1.0, 0, 0, FINE[2] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    )
    again = coarse_segmenter().segment(mirrored).labelmap[:, :, ::-1]
    assert np.mean(known != again) < 1e-3


def test_ensembles_and_rois_are_sharpened_too():
    volume = bright_volume(np.eye(4))
    alone = coarse_segmenter().segment(volume).labelmap
    plain = coarse_segmenter(weight=0.0).segment(volume).labelmap
    pair = EnsembleSegmenter([coarse_segmenter(), coarse_segmenter()]).segment(volume).labelmap
    assert (alone != plain).sum() > 100
    assert np.mean(alone != pair) < 1e-3
    roi = Box("", (10.0, 4.0, 2.0), (40.0, 36.0, 22.0))
    inside = coarse_segmenter().segment(volume, roi=roi).labelmap
    assert not inside[:, :, :10].any()
    part = roi.slices()
    assert np.mean(inside[part] != alone[part]) < 0.05


@pytest.mark.parametrize("value", [-32768.0, 32767.0])
@pytest.mark.parametrize("size", ["padding", "outliers"])
def test_padding_and_outliers_count_as_little_as_in_the_network(value: float, size: str):
    volume = bright_volume(np.eye(4))
    changed = np.zeros(FINE, bool)
    if size == "padding":
        changed[:, :6] = True
    else:
        changed[3:5, 3, 3] = True
    others = volume.array[~changed]
    if size == "padding":
        usual = others.min() if value > 0 else 0
    else:
        usual = others.max() if value > 0 else others.min()
    replaced, array = (np.where(changed, np.float32(v), volume.array) for v in (usual, value))
    segmenter = coarse_segmenter(
        network=CoarseModel(float(replaced.mean()), float(replaced.std())),
        normalization=(ChannelNormalization("zscore"),),
    )
    found = [segmenter.segment(replace(volume, array=a)).labelmap for a in (replaced, array)]
    assert (found[0] == 3).sum() > 1000
    np.testing.assert_array_equal(*found)


def test_intensities_may_have_half_precision():
    volume = bright_volume(np.eye(4))
    known = coarse_segmenter().segment(volume).labelmap
    # The squares of these intensities are too large for float16.
    large = replace(volume, array=(100 * volume.array).astype(np.float16))
    segmenter = coarse_segmenter(network=CoarseModel(spread=0.01))
    assert np.mean(segmenter.segment(large).labelmap != known) < 1e-3

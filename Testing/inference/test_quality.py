"""Expected Dice of results: which classes have one, doubts, and the place of the weakest slice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from MaskSAMCore.geometry import Box
from MaskSAMCore.inference import MaskSegmenter, scoring
from MaskSAMCore.inference import result_features as features_module
from MaskSAMCore.inference.quality import Rating, rate
from MaskSAMCore.inference.result_features import (
    CLASS_FEATURES,
    IMAGE_FEATURES,
    ResultFeatures,
    result_features,
)
from MaskSAMCore.inference.results import Instance
from MaskSAMCore.inference.scoring import Shares
from MaskSAMCore.labels import Label
from MaskSAMCore.models.expected_dice import DiceEstimator, ExpectedDice, FeatureGroup
from Testing.helpers.estimators import known_estimator
from Testing.helpers.threshold_model import (
    GEOMETRIES,
    LABELS,
    ThresholdModel,
    plan_for,
    two_blobs,
    volume_of,
)


def rated_segmenter(estimator: DiceEstimator | None) -> MaskSegmenter:
    return MaskSegmenter(ThresholdModel(), plan_for(), LABELS, device="cpu", estimator=estimator)


@pytest.mark.parametrize("geometry", sorted(GEOMETRIES))
def test_each_class_has_its_expected_dice_and_a_place_in_one_of_its_slices(geometry: str):
    segmenter = rated_segmenter(known_estimator([0.9, 0.6]))
    volume = volume_of(two_blobs(), GEOMETRIES[geometry])
    result = segmenter.segment(volume)
    assert [one.expected_dice for one in result.instances] == pytest.approx([0.9, 0.6])
    assert [one.expected_dice_low for one in result.instances] == pytest.approx([0.8, 0.5])
    for one in result.instances:
        assert one.weakest_place is not None
        i, j, k = (int(edge) for edge in one.weakest_place)
        assert result.labelmap[k, j, i] == one.value


def test_the_labelmap_does_not_depend_on_the_estimator():
    volume = volume_of(two_blobs())
    plain = rated_segmenter(None).segment(volume)
    rated = rated_segmenter(known_estimator([0.9, 0.6], doubtful_below=1.0)).segment(volume)
    assert np.array_equal(plain.labelmap, rated.labelmap)
    assert [one.expected_dice for one in plain.instances] == [None, None]
    assert plain.notes == ()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_class_that_a_box_of_the_user_decides_has_no_estimate(overwrite: bool):
    segmenter = rated_segmenter(known_estimator([0.9, 0.6]))
    box = Box("Anterior", (2, 2, 2), (9, 9, 6))
    with segmenter.open(volume_of(two_blobs())) as session:
        edited = session.segment([box], overwrite=overwrite)
        assert [one.expected_dice for one in edited.instances] == pytest.approx([None, 0.6])
        automatic = session.segment()
        assert [one.expected_dice for one in automatic.instances] == pytest.approx([0.9, 0.6])


def test_a_doubtful_result_has_one_note_that_names_what_is_odd():
    position = CLASS_FEATURES.index("position_depth")
    group = FeatureGroup("orientation", (position,), (), 1e-6)
    usual = (0.9, 0.8)
    estimator = known_estimator([0.4, 0.2], 0.1, "", 0.5, (group,), usual)
    notes = rated_segmenter(estimator).segment(volume_of(two_blobs())).notes
    assert len(notes) == 1
    assert "0.30" in notes[0]
    assert "orientation" in notes[0]
    other = FeatureGroup("modality", (CLASS_FEATURES.index("intensity"),), (), 1e-6)
    both = known_estimator([0.4, 0.2], 0.1, "", 0.5, (group, other), usual)
    (note,) = rated_segmenter(both).segment(volume_of(two_blobs())).notes
    assert "orientation" in note
    assert "modality" in note
    sure = known_estimator([0.9, 0.8], doubtful_below=0.5, groups=(group,))
    assert rated_segmenter(sure).segment(volume_of(two_blobs())).notes == ()


def test_a_doubt_names_the_two_most_unusual_groups():
    limits = {"orientation": 1.0, "modality": 0.5, "field of view": 0.8}
    groups = tuple(FeatureGroup(name, (0,), (), limit) for name, limit in limits.items())
    estimator = known_estimator([0.6, 0.4], 0.1, "", 0.51, groups, (0.9, 0.8))

    def doubts(distance: float, estimator: DiceEstimator = estimator) -> tuple[str, ...]:
        classes = np.full(estimator.class_centre.shape, distance)
        nowhere = np.full((2, 3), np.nan)
        return rate(estimator, ResultFeatures(classes, estimator.image_centre, nowhere)).doubts

    (all_odd,) = doubts(2.0)
    assert all_odd.index("modality") < all_odd.index("field of view")
    assert "orientation" not in all_odd
    (one_odd,) = doubts(0.6)
    assert "modality" in one_odd and "field of view" not in one_odd
    (none_odd,) = doubts(0.1)
    assert none_odd.endswith(": look at the segments.")
    assert doubts(2.0, replace(estimator, doubtful_below=0.49)) == ()


def test_a_class_too_small_for_the_grid_of_the_plan_is_expected_to_be_wrong():
    tiny = Instance(1, "Anterior", 0.6, Box("Anterior", (0, 0, 0), (1, 1, 1)), 1)
    large = Instance(2, "Posterior", 0.9, Box("Posterior", (0, 0, 0), (9, 9, 9)), 500)
    rating = Rating((None, ExpectedDice(0.9, 0.8)), np.full((2, 3), np.nan), ())
    places = [None, (4.0, 4.0, 4.5)]
    found = rating.applied_to([tiny, large], LABELS, places, set())
    assert [(one.expected_dice, one.expected_dice_low) for one in found] == [(0, 0), (0.9, 0.8)]
    assert [one.weakest_place for one in found] == places
    assert rating.applied_to([tiny, large], LABELS, places, {2})[1] == large


def test_an_roi_of_the_user_is_no_reason_for_doubts():
    estimator = known_estimator([0.4, 0.2], doubtful_below=0.5)
    roi = Box("", (0, 0, 0), (20, 15, 10))
    result = rated_segmenter(estimator).segment(volume_of(two_blobs()), roi=roi)
    assert result.notes == ()
    assert result.instances[0].expected_dice == pytest.approx(0.4)


def scores_of(classes: np.ndarray, probability: float, count: int) -> torch.Tensor:
    """Return scores (count, D, R, C) where each voxel's class has the given probability."""
    scores = torch.full((count, *classes.shape), (1 - probability) / (count - 1))
    scores.scatter_(0, torch.from_numpy(classes)[None], probability)
    return scores


def test_features_tell_unsure_results_fragments_and_cut_structures():
    names = ("left blob", "right blob", "nothing")
    labels = tuple(Label(v, name, (1.0, 1.0, 1.0)) for v, name in enumerate(names, 1))
    classes = np.zeros((12, 14, 16), np.int64)
    classes[2:8, 3:9, 2:6] = 1
    classes[2:8, 3:9, 10:16] = 2
    classes[10, 12, 2] = 1
    image = np.where(classes > 0, 2.0, 0.0).astype(np.float32)[None]
    sure, unsure = (
        result_features(scores_of(classes, p, 4), image, (2.0, 1.0, 1.0), labels)
        for p in (0.99, 0.6)
    )

    def value(features, name: str, index: int) -> float:
        return float(features.classes[index, CLASS_FEATURES.index(name)])

    assert np.isnan(sure.classes[2]).all()
    assert np.isnan(sure.weakest[2]).all()
    assert not np.isnan(sure.classes[:2]).any()
    assert value(sure, "soft_dice", 0) > value(unsure, "soft_dice", 0)
    assert value(unsure, "unsure_share", 0) == 1
    assert value(sure, "fragments", 0) == pytest.approx(1 / 145)
    assert value(sure, "fragments", 1) == 0
    assert value(sure, "border_share", 0) == 0
    assert value(sure, "border_share", 1) == pytest.approx(1 / 6)
    assert value(sure, "log_volume", 1) == pytest.approx(np.log(6 * 6 * 6 * 2 / 1000))
    smaller, larger = (value(sure, "asymmetry", index) for index in (0, 1))
    assert smaller < 0
    assert larger == pytest.approx(-smaller)
    assert value(sure, "outline_contrast", 0) > value(sure, "inner_contrast", 0)
    assert sure.image[IMAGE_FEATURES.index("found_share")] == pytest.approx(2 / 3)


def test_a_component_that_is_removed_from_the_result_has_no_influence():
    labels = (Label(1, "blob", (1.0, 1.0, 1.0)), Label(2, "scattered", (1.0, 1.0, 1.0)))
    single = np.zeros((12, 14, 16), np.int64)
    single[2:8, 3:9, 2:6] = 1
    single[2, 11, 11:15] = single[9, 11, 11:15] = 2
    scattered = single.copy()
    scattered[10:, 2:5, 10:12] = 1
    image = np.where(single > 0, 2.0, 0.0).astype(np.float32)[None]
    alone, cleaned, kept = (
        result_features(
            scores_of(classes, 0.9, 3), image, (2.0, 1.0, 1.0), labels, largest_component=largest
        )
        for classes, largest in ((single, {1}), (scattered, {1}), (scattered, set()))
    )
    fragments, soft = (CLASS_FEATURES.index(name) for name in ("fragments", "soft_dice"))
    assert cleaned.classes[0] == pytest.approx(alone.classes[0], abs=0.005)
    assert cleaned.classes[1] == pytest.approx(alone.classes[1])
    assert cleaned.classes[1, fragments] == 0.5
    assert kept.classes[0, fragments] > 0.05
    assert kept.classes[0, soft] < alone.classes[0, soft]


def test_the_weakest_place_lies_in_the_least_sure_slice():
    classes = np.zeros((10, 8, 8), np.int64)
    classes[2:8, 2:6, 1:5] = 1
    scores = scores_of(classes, 0.95, 2)
    scores[:, 5] = scores_of(classes, 0.6, 2)[:, 5]
    labels = (Label(1, "blob", (1.0, 1.0, 1.0)),)
    features = result_features(scores, np.zeros((1, 10, 8, 8), np.float32), (1, 1, 1), labels)
    assert features.weakest[0].tolist() == [5.5, 4.0, 3.0]


def test_a_large_grid_is_looked_at_with_steps_and_nothing_moves(monkeypatch: pytest.MonkeyPatch):
    classes = np.zeros((20, 24, 24), np.int64)
    classes[4:16, 4:16, 4:20] = 1
    labels = (Label(1, "blob", (1.0, 1.0, 1.0)),)
    image = np.where(classes > 0, 1.0, 0.0).astype(np.float32)[None]
    scores = scores_of(classes, 0.9, 2)
    whole = result_features(scores, image, (1, 1, 1), labels)
    monkeypatch.setattr(features_module, "_LARGEST", 2000)
    part = result_features(scores, image, (1, 1, 1), labels)
    volume = CLASS_FEATURES.index("log_volume")
    assert part.classes[0, volume] == pytest.approx(whole.classes[0, volume], abs=0.05)
    assert np.abs(part.weakest - whole.weakest)[0, 1:].max() <= 1


def test_the_decisions_of_a_refiner_are_merged_where_a_large_grid_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
):
    """The refiner has the classes in another order, on a grid of half the voxel size."""
    classes = np.zeros((20, 24, 24), np.int64)
    classes[4:16, 4:16, 4:20] = 1
    labels = tuple(Label(value, f"{value}", (1.0, 1.0, 1.0)) for value in (1, 2))
    values = torch.zeros(3, 40, 48, 48)
    values[0], values[1, 8:20, 8:32, 8:40], values[2, 20:32, 8:32, 8:40] = 0.1, 0.9, 0.9
    shares = Shares(values / values.sum(0), (2, 1))
    scores = torch.cat([scores_of(classes, 0.8, 2), torch.zeros(1, *classes.shape)]).half()
    sizes: list[int] = []
    merged = scoring.merged

    def measured(found: torch.Tensor, *arguments: Any) -> torch.Tensor:
        sizes.append(found[0, 0].numel())
        return merged(found, *arguments)

    monkeypatch.setattr(scoring, "merged", measured)
    image = np.zeros((1, *classes.shape), np.float32)
    for largest, tolerance in ((1 << 22, 1e-3), (2000, 0.05)):
        monkeypatch.setattr(features_module, "_LARGEST", largest)
        found = result_features(scores, image, (1, 1, 1), labels, shares=shares)
        ml = np.exp(found.classes[:, CLASS_FEATURES.index("log_volume")])
        np.testing.assert_allclose(ml, 6 * 12 * 16 / 1000, rtol=tolerance)
        confidence = found.classes[:, CLASS_FEATURES.index("confidence")]
        np.testing.assert_allclose(confidence, 0.9, atol=0.02)
        assert found.weakest[0, 0] > 10 > found.weakest[1, 0]
    assert sizes[0] == classes.size and sizes[1] <= 2000

"""Estimators of the Dice: their file in a bundle, and how they are applied."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.inference.quality import rate
from MaskSAMCore.inference.result_features import CLASS_FEATURES, IMAGE_FEATURES, ResultFeatures
from MaskSAMCore.models import add_model, load_bundle
from MaskSAMCore.models.expected_dice import (
    QUALITY,
    DiceEstimator,
    FeatureGroup,
    RefinedEstimator,
    TreeSum,
    write_estimator,
)
from Testing.helpers.estimators import known_estimator
from Testing.helpers.small_bundle import small_bundle


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    folder = small_bundle(tmp_path / "small")
    write_estimator(folder, known_estimator([0.9, 0.6], 0.1, load_bundle(folder).weights_sha256))
    return folder


def change(folder: Path, **changes: object) -> None:
    path = folder / QUALITY
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_estimator_is_the_same_after_writing_and_reading(rated: Path):
    estimator = load_bundle(rated).estimator
    assert estimator is not None
    values = json.loads((rated / QUALITY).read_text())
    assert estimator.to_json() == values
    features = np.ones(estimator.class_centre.shape)
    features[1] = np.nan
    found, missing = estimator.rate(features, estimator.image_centre)
    assert missing is None
    assert found is not None
    assert (found.dice, found.low) == pytest.approx((0.9, 0.8))


def test_an_estimator_is_carried_over_to_a_model_with_other_classes(rated: Path):
    estimator = known_estimator([0.9, 0.6], 0.1, "0" * 64)
    new = estimator.carried_over([1, None, 0], [2], load_bundle(rated).weights_sha256)
    assert new.unrated == (1, 2)
    features, image = np.ones(estimator.class_centre.shape), estimator.image_centre
    _, second = estimator.rate(features, image)
    found = new.rate(
        np.vstack([features[1], np.full_like(features[0], np.nan), features[0]]), image
    )
    assert found[0] == second and found[1] is None
    again = type(new).from_json(json.loads(json.dumps(new.to_json())), 3)
    assert again.to_json() == new.to_json()
    assert new.carried_over([0, 1, 2], [], "1" * 64).unrated == (1, 2)


def with_refined(estimator: DiceEstimator, classes: tuple[int, ...]) -> DiceEstimator:
    """Return the estimator with a refined estimator of some classes, whose expected Dice is 0.7."""
    own = known_estimator([0.7] * len(classes), 0.1, estimator.weights_sha256, 0.8)
    return replace(estimator, unrated=(1,), refined=RefinedEstimator(classes, own))


def test_refined_classes_have_an_estimator_of_their_own():
    estimator = with_refined(known_estimator([0.9, 0.6]), (1,))
    again = DiceEstimator.from_json(json.loads(json.dumps(estimator.to_json())), 2)
    assert again.to_json() == estimator.to_json() and again.unknown == frozenset()
    assert estimator.carried_over([0, 1], [], "").unknown == {1}
    classes, nowhere = np.ones((2, len(CLASS_FEATURES))), np.full((2, 3), np.nan)
    own = ResultFeatures(classes[:1], np.zeros(len(IMAGE_FEATURES)), np.array([[1.0, 2, 3]]))
    features = ResultFeatures(classes, own.image, nowhere, own)
    first, second = rate(again, features).classes
    assert first is not None and second is not None
    assert (first.dice, second.dice) == pytest.approx((0.9, 0.7))
    assert rate(again, features).weakest[1].tolist() == [1, 2, 3]
    # The refined class is doubtful, which counts only if no class of the base was found.
    assert not rate(again, features).doubts
    (doubt,) = rate(again, replace(features, classes=np.full_like(classes, np.nan))).doubts
    assert "0.70" in doubt


def test_a_bundle_without_an_estimator_has_none(tmp_path: Path):
    bundle = load_bundle(small_bundle(tmp_path / "small"))
    assert bundle.estimator is None
    assert not MaskSegmenter.from_bundle(bundle, device="cpu").estimates_dice


def test_a_zip_of_a_bundle_brings_the_estimator_along(rated: Path, tmp_path: Path):
    archive = shutil.make_archive(str(tmp_path / "zip"), "zip", rated)
    assert add_model(Path(archive)).estimator is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "newer MaskSAM"),
        ({"format_version": None}, "damaged"),
        ({"usual_dice": [0.5]}, "damaged"),
        ({"class_scale": "none"}, "damaged"),
        ({"factor": [0.1, float("nan")]}, "damaged"),
        (
            {"mean": {"base": 0, "columns": [[9999]], "thresholds": [[0]], "values": [[0, 1]]}},
            "damaged",
        ),
        ({"mean": {"base": 0, "columns": [[0]], "thresholds": [[0]], "values": [[0]]}}, "damaged"),
        ({"groups": [{"name": "orientation"}]}, "damaged"),
        ({"unrated": [2]}, "damaged"),
        ({"refined": {"classes": [1], "estimator": known_estimator([0.7]).to_json()}}, "damaged"),
        ({"refined": {"classes": [1], "estimator": {}}, "unrated": [1]}, "damaged"),
        (
            {
                "refined": {
                    "classes": [1],
                    "estimator": {
                        **known_estimator([0.7]).to_json(),
                        "unrated": [0],
                        "refined": {"classes": [0], "estimator": known_estimator([0.7]).to_json()},
                    },
                },
                "unrated": [1],
            },
            "damaged",
        ),
        ({"weights_sha256": "0" * 64}, "other weights"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_in_one_line(rated: Path, changes, message: str):
    change(rated, **changes)
    with pytest.raises(MaskSAMError, match=message) as error:
        load_bundle(rated)
    assert QUALITY in str(error.value)
    assert "\n" not in str(error.value)


def test_an_estimator_for_other_features_is_refused_when_the_model_is_loaded(rated: Path):
    values = json.loads((rated / QUALITY).read_text())
    change(rated, class_features=["other", *values["class_features"][1:]])
    with pytest.raises(MaskSAMError, match="another version"):
        MaskSegmenter.from_bundle(load_bundle(rated), device="cpu")
    group = {"name": "coil", "class_columns": [0], "image_columns": [], "limit": 1}
    change(rated, class_features=values["class_features"], groups=[group])
    with pytest.raises(MaskSAMError, match="another version"):
        MaskSegmenter.from_bundle(load_bundle(rated), device="cpu")


def constant(value: float) -> TreeSum:
    return TreeSum(value, np.zeros((1, 1), int), np.zeros((1, 1)), np.zeros((1, 2)))


def test_the_bound_lies_below_the_expected_dice_by_the_errors_of_its_class():
    estimator = replace(known_estimator([0.9, 0.6]), factor=np.array([10.0, 20.0]))
    # The expected error of a Dice is at least 0.01.
    estimator = replace(estimator, error=constant(0.001))
    classes, image = np.zeros_like(estimator.class_centre), estimator.image_centre

    def rated(estimator: DiceEstimator) -> list[tuple[float, float] | None]:
        found = estimator.rate(classes, image)
        return [None if one is None else (one.dice, one.low) for one in found]

    assert rated(estimator) == [pytest.approx((0.9, 0.8)), pytest.approx((0.6, 0.4))]
    less_sure = replace(estimator, error=constant(0.02))
    assert rated(less_sure) == [pytest.approx((0.9, 0.7)), pytest.approx((0.6, 0.2))]
    assert rated(replace(estimator, error=constant(1.0))) == [(0.9, 0), (0.6, 0)]
    assert [one[0] for one in rated(replace(estimator, mean=constant(1.5)))] == [1, 1]
    classes[0] = np.nan
    assert rated(estimator) == [None, pytest.approx((0.6, 0.4))]


def test_trees_compare_the_same_columns_for_ever():
    estimator = known_estimator([0.9, 0.6])
    estimator = replace(estimator, class_scale=2 * estimator.class_scale)
    first = np.arange(len(estimator.class_features)) - 4.0
    classes = np.stack([first, np.full_like(first, 3.0)])
    image = np.linspace(-1, 1, len(estimator.image_features))
    # Features in standard deviations are clipped at 8.
    own = np.clip(first / 2, -8, 8)
    expected = [*first, *own, *(own + 1.5) / 2, *(abs(own) + 1.5) / 2, *image, 0.9]
    np.testing.assert_allclose(estimator.rows(classes, image)[0], expected)


def test_groups_beyond_their_limit_are_odd_the_most_unusual_first():
    groups = (
        FeatureGroup("orientation", (0, 1), (), 2.0),
        FeatureGroup("modality", (), (0, 1), 1.0),
        FeatureGroup("field of view", (2,), (2,), 1.0),
    )
    estimator = known_estimator([0.9, 0.6], groups=groups)
    classes, image = (
        np.zeros_like(one) for one in (estimator.class_centre, estimator.image_centre)
    )
    assert estimator.oddities(classes, image) == ()
    # The mean distance is 3 standard deviations for the first group and 0.75 for the last group.
    classes[:, 0], classes[:, 1], classes[:, 2], image[2] = -3, 3, 1, 0.5
    assert estimator.oddities(classes, image) == ("orientation",)
    image[:2] = -4, 0
    assert estimator.oddities(classes, image) == ("modality", "orientation")
    classes[1] = np.nan
    assert estimator.oddities(classes, image) == ("modality", "orientation")
    wider = replace(estimator, image_scale=3 * estimator.image_scale)
    assert wider.oddities(classes, image) == ("orientation",)


def test_trees_add_the_values_of_the_leaves_that_a_row_reaches():
    trees = TreeSum(
        1.0,
        np.array([[0, 1, 1], [1, 0, 0]]),
        np.array([[0.0, -1.0, 1.0], [0.0, 0.0, 0.0]]),
        np.array([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]]),
    )
    rows = np.array([[-1.0, -2.0], [-1.0, 5.0], [1.0, 1.0], [1.0, 1.5]])
    assert trees(rows).tolist() == [1 + 1 + 10, 1 + 2 + 30, 1 + 3 + 40, 1 + 4 + 40]

"""Plans: the grid and the intensities, chosen from the training cases."""

from __future__ import annotations

import json

import numpy as np
import pytest

from MaskSAMCore.data import ChannelNormalization, Plan
from MaskSAMCore.data.planning import (
    CaseFingerprint,
    case_fingerprint,
    make_plan,
    summarize,
    target_spacing,
)
from MaskSAMCore.data.preprocessing import normalize
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.modeling.presets import PRESETS
from MaskSAMCore.training.data import query_count

WINDOW = (16, 64, 64)


def fingerprint(
    i: float, j: float, k: float, shape: tuple[int, int, int] = (30, 32, 34)
) -> CaseFingerprint:
    """A case with this spacing along I, J, K, towards right, anterior and superior."""
    matrix = np.diag([i, j, k, 1.0])
    return CaseFingerprint(shape, (k, j, i), matrix, np.ones((1, 10)))


def test_spacing_is_the_median_but_not_for_an_axis_that_is_much_coarser():
    shapes = np.array([[20, 200, 200]] * 4)
    spacings = np.array([[5.0, 1, 1], [5, 1, 1.2], [7, 1, 1.2], [3, 0.8, 1]])
    spacing = target_spacing(spacings, shapes)
    assert spacing[0] == pytest.approx(np.percentile([5, 5, 7, 3], 10))
    assert spacing[1:] == pytest.approx([1.0, 1.1])
    isotropic = np.ones((3, 3))
    assert target_spacing(isotropic, shapes[:3]) == pytest.approx([1, 1, 1])


def test_a_plan_puts_depth_along_the_coarsest_axis_wherever_it_is_stored():
    volume = Volume(np.random.default_rng(0).normal(size=(30, 32, 12)), np.diag([4.0, 1, 1, 1]))
    label = np.ones(volume.shape, np.uint8)
    plan = make_plan([case_fingerprint([volume], label, 0)], ["MR"], 4, WINDOW)
    assert plan.orientation == "RSA"
    assert plan.spacing == pytest.approx((4, 1, 1))
    assert plan.window == (12, 32, 32)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_one_case_of_another_kind_does_not_turn_the_whole_dataset():
    usual = [fingerprint(1, 1, 5), fingerprint(0.9, 0.9, 5), fingerprint(1, 1, 6)]
    assert make_plan([fingerprint(5, 1, 1), *usual], ["MR"], 4, WINDOW).orientation == "SAR"
    assert make_plan([fingerprint(1, 1, 1)], ["MR"], 4, WINDOW).orientation == "SAR"


def test_a_wanted_orientation_is_kept_and_a_wrong_one_refused():
    cases = [fingerprint(1, 1, 5)]
    plan = make_plan(cases, ["MR"], 4, WINDOW, "RSA")
    assert plan.orientation == "RSA"
    assert plan.spacing == pytest.approx((1, 5, 1))
    with pytest.raises(MaskSAMError, match="orientation 'RRA' must name"):
        make_plan(cases, ["MR"], 4, WINDOW, "RRA")


def test_a_window_is_no_larger_than_the_largest_case_but_keeps_whole_tokens():
    cases = [fingerprint(1, 1, 1, (40, 20, 30)), fingerprint(1, 1, 1, (10, 37, 30))]
    assert make_plan(cases, ["MR"], 8, (16, 256, 24)).window == (16, 40, 24)


def test_a_window_has_no_more_slices_than_the_dataset():
    # Slices of 0.7 mm: their extent over their spacing is a little more than 12 in floats.
    cases = [fingerprint(0.7, 0.7, 0.7, (12, 40, 40)), fingerprint(0.7, 0.7, 0.7, (9, 40, 40))]
    assert make_plan(cases, ["MR"], 4, (26, 64, 64)).window == (12, 40, 40)
    assert make_plan(cases, ["MR"], 4, (4, 64, 64)).window == (4, 40, 40)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("tiny", {1: 4, 2: 4, 3: 5, 5: 8}),
        ("acdc", {1: 8, 3: 8, 4: 8, 7: 11}),
        ("synapse", {4: 8, 8: 24, 13: 20}),
        ("amos", {4: 8, 15: 24, 16: 24}),
    ],
)
def test_queries_follow_the_classes_but_a_presets_own_classes_keep_its_own(
    name: str, counts: dict[int, int]
):
    assert {classes: query_count(classes, PRESETS[name]) for classes in counts} == counts
    # Every class and the background may lie in one slice.
    assert all(query_count(classes, PRESETS[name]) > classes for classes in range(1, 40))


def test_a_fingerprint_tells_sizes_and_intensities_in_plain_types():
    values = np.linspace(0, 200, 201)[None]
    case = CaseFingerprint((8, 9, 10), (3.0, 1.0, 1.0), np.eye(4), values)
    found = json.loads(json.dumps(summarize(["one"], [case], ["CT"])))
    assert found["cases"] == {"one": {"shape": [8, 9, 10], "spacing": [3, 1, 1]}}
    ct = found["foreground_intensities"]["CT"]
    assert (ct["min"], ct["median"], ct["mean"], ct["max"]) == (0, 100, 100, 200)
    assert ct["percentile_99_5"] == pytest.approx(199)
    empty = CaseFingerprint((8, 9, 10), (3.0, 1.0, 1.0), np.eye(4), values[:, :0])
    assert summarize(["one"], [empty], ["CT"])["foreground_intensities"] == {"CT": None}


def test_ct_is_clipped_and_normalised_by_the_training_foreground():
    values = np.r_[np.linspace(-1000, 1000, 2001), 9000.0][None]
    case = CaseFingerprint((8, 8, 8), (1.0, 1.0, 1.0), np.eye(4), values)
    (how,) = make_plan([case], ["CT"], 4, (8, 8, 8)).normalization
    assert how.kind == "ct"
    assert (how.lower, how.upper) == pytest.approx(np.percentile(values, (0.5, 99.5)))
    assert (how.mean, how.std) == pytest.approx((values.mean(), values.std()))
    image = np.array([[[-5000.0, how.mean, 5000.0]]], np.float32)
    expected = [(how.lower - how.mean) / how.std, 0, (how.upper - how.mean) / how.std]
    np.testing.assert_allclose(normalize(image, how)[0, 0], expected, atol=1e-5)


def test_channels_are_normalised_each_in_its_own_way():
    foreground = np.random.default_rng(0).random((2, 50)) * [[1], [9]]
    case = CaseFingerprint((8, 8, 8), (1.0, 1.0, 1.0), np.eye(4), foreground)
    mr, ct = make_plan([case], ["T1", "ct"], 4, (8, 8, 8)).normalization
    assert mr == ChannelNormalization()
    assert ct.kind == "ct"
    assert ct.mean == pytest.approx(foreground[1].mean())


def test_intensities_come_from_the_foreground_alone_and_a_case_may_have_none():
    image = np.zeros((6, 6, 6))
    image[2] = 50
    volume = Volume(image, np.eye(4))
    label = (image > 0).astype(np.uint8)
    assert set(case_fingerprint([volume], label, 0).foreground[0]) == {50.0}
    empty = case_fingerprint([volume], np.zeros_like(label), 0)
    assert empty.foreground.shape == (1, 0)
    assert make_plan([empty], ["CT"], 4, (8, 8, 8)).normalization[0].kind == "zscore"


def test_nothing_can_be_planned_from_nothing():
    with pytest.raises(MaskSAMError, match="no training case"):
        make_plan([], ["MR"], 4, WINDOW)


def test_a_plan_needs_exactly_its_fields():
    values = make_plan([fingerprint(1, 1, 1)], ["MR"], 4, WINDOW).to_dict()
    with pytest.raises(ValueError, match="a plan needs exactly"):
        Plan.from_dict({**values, "extra": 1})
    del values["spacing"]
    with pytest.raises(ValueError, match="a plan needs exactly"):
        Plan.from_dict(values)

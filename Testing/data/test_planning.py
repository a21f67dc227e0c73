"""Plans, chosen from fingerprints of the training cases."""

from __future__ import annotations

import json

import numpy as np
import pytest

from MaskSAMCore.data import ChannelNormalization, Plan, preprocess
from MaskSAMCore.data.dataset import load_cases, open_dataset
from MaskSAMCore.data.planning import (
    CaseFingerprint,
    case_fingerprint,
    field_of_view,
    make_plan,
    summarize,
    target_spacing,
    with_ct_window,
)
from MaskSAMCore.data.preprocessing import normalize
from MaskSAMCore.data.splits import split_cases
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from Testing.helpers.paths import SHARED_DATA

WINDOW = (16, 64, 64)


def fingerprint(
    i: float, j: float, k: float, shape: tuple[int, int, int] = (30, 32, 34)
) -> CaseFingerprint:
    """Return the fingerprint of a case with I, J, K to R, A, S and a spacing of i, j, k in mm."""
    matrix = np.diag([i, j, k, 1.0])
    return CaseFingerprint(shape, (k, j, i), matrix, np.ones((1, 10)))


def test_spacing_is_the_median_except_along_a_much_coarser_axis():
    shapes = np.array([[20, 200, 200]] * 4)
    spacings = np.array([[5.0, 1, 1], [5, 1, 1.2], [7, 1, 1.2], [3, 0.8, 1]])
    spacing = target_spacing(spacings, shapes)
    assert spacing[0] == pytest.approx(np.percentile([5, 5, 7, 3], 10))
    assert spacing[1:] == pytest.approx([1.0, 1.1])
    isotropic = np.ones((3, 3))
    assert target_spacing(isotropic, shapes[:3]) == pytest.approx([1, 1, 1])


def test_depth_is_the_coarsest_axis_in_any_order_on_disk():
    volume = Volume(np.random.default_rng(0).normal(size=(30, 32, 12)), np.diag([4.0, 1, 1, 1]))
    label = np.ones(volume.shape, np.uint8)
    plan = make_plan([case_fingerprint([volume], label, 0)], ["MR"], 4, WINDOW)
    assert plan.orientation == "RSA"
    assert plan.spacing == pytest.approx((4, 1, 1))
    assert plan.window == (12, 32, 32)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_orientation_follows_most_cases():
    usual = [fingerprint(1, 1, 5), fingerprint(0.9, 0.9, 5), fingerprint(1, 1, 6)]
    assert make_plan([fingerprint(5, 1, 1), *usual], ["MR"], 4, WINDOW).orientation == "SAR"
    assert make_plan([fingerprint(1, 1, 1)], ["MR"], 4, WINDOW).orientation == "SAR"


def test_a_required_orientation_is_kept_and_an_invalid_one_refused():
    cases = [fingerprint(1, 1, 5)]
    plan = make_plan(cases, ["MR"], 4, WINDOW, "RSA")
    assert plan.orientation == "RSA"
    assert plan.spacing == pytest.approx((1, 5, 1))
    with pytest.raises(MaskSAMError, match="orientation 'RRA' must name"):
        make_plan(cases, ["MR"], 4, WINDOW, "RRA")


def test_a_window_shrinks_to_the_largest_case_in_whole_tokens():
    cases = [fingerprint(1, 1, 1, (40, 20, 30)), fingerprint(1, 1, 1, (10, 37, 30))]
    assert make_plan(cases, ["MR"], 8, (16, 256, 24)).window == (16, 40, 24)


def test_a_window_has_no_more_slices_than_the_dataset():
    # With slices of 0.7 mm, extent over spacing is slightly more than 12 in floating point.
    cases = [fingerprint(0.7, 0.7, 0.7, (12, 40, 40)), fingerprint(0.7, 0.7, 0.7, (9, 40, 40))]
    assert make_plan(cases, ["MR"], 4, (26, 64, 64)).window == (12, 40, 40)
    assert make_plan(cases, ["MR"], 4, (4, 64, 64)).window == (4, 40, 40)


def test_a_fingerprint_summarises_shapes_and_intensities_for_json():
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
    (ct,) = make_plan([case], ["CT"], 4, (8, 8, 8)).normalization
    assert ct.kind == "ct"
    assert (ct.lower, ct.upper) == pytest.approx(np.percentile(values, (0.5, 99.5)))
    assert (ct.mean, ct.std) == pytest.approx((values.mean(), values.std()))
    image = np.array([[[-5000.0, ct.mean, 5000.0]]], np.float32)
    expected = [(ct.lower - ct.mean) / ct.std, 0, (ct.upper - ct.mean) / ct.std]
    np.testing.assert_allclose(normalize(image, ct)[0, 0], expected, atol=1e-5)


def test_each_channel_has_its_own_normalisation():
    foreground = np.random.default_rng(0).random((2, 50)) * [[1], [9]]
    case = CaseFingerprint((8, 8, 8), (1.0, 1.0, 1.0), np.eye(4), foreground)
    mr, ct = make_plan([case], ["T1", "ct"], 4, (8, 8, 8)).normalization
    assert mr == ChannelNormalization()
    assert ct.kind == "ct"
    assert ct.mean == pytest.approx(foreground[1].mean())


def test_intensities_are_sampled_from_the_foreground_which_may_be_empty():
    image = np.zeros((6, 6, 6))
    image[2] = 50
    volume = Volume(image, np.eye(4))
    label = (image > 0).astype(np.uint8)
    assert set(case_fingerprint([volume], label, 0).foreground[0]) == {50.0}
    empty = case_fingerprint([volume], np.zeros_like(label), 0)
    assert empty.foreground.shape == (1, 0)
    assert make_plan([empty], ["CT"], 4, (8, 8, 8)).normalization[0].kind == "zscore"


def test_a_plan_needs_a_training_case():
    with pytest.raises(MaskSAMError, match="no training case"):
        make_plan([], ["MR"], 4, WINDOW)


def test_a_plan_needs_exactly_its_fields():
    values = make_plan([fingerprint(1, 1, 1)], ["MR"], 4, WINDOW).to_dict()
    with pytest.raises(ValueError, match="a plan needs exactly"):
        Plan.from_dict({**values, "extra": 1})
    del values["spacing"]
    with pytest.raises(ValueError, match="a plan needs exactly"):
        Plan.from_dict(values)


def test_the_hippocampus_data_are_planned_from_their_training_cases():
    folder = SHARED_DATA / "Dataset004_Hippocampus"
    if not folder.is_dir():
        pytest.skip("the hippocampus data are not beside this checkout")
    dataset = open_dataset(folder)
    split = split_cases(dataset, folder / "splits.json")
    assert (len(split["train"]), len(split["val"])) == (165, 18)
    cases = load_cases(dataset, split["train"][:8])
    prints = [case_fingerprint(c.channels, c.labelmap, n) for n, c in enumerate(cases)]
    plan = make_plan(prints, dataset.channels, 4, (16, 40, 56), "RSA")
    assert plan.spacing == pytest.approx((1, 1, 1))
    assert plan.window == (16, 40, 52)
    for case in cases:
        prepared = preprocess(case.channels, plan, case.labelmap)
        assert prepared.labelmap is not None
        assert prepared.image.shape[1:] == prepared.labelmap.shape
        assert abs(float(prepared.image.mean())) < 0.5
        # Depth towards right, rows superior, columns anterior: the head lies before the body.
        head, body = (np.argwhere(prepared.labelmap == value).mean(0) for value in (1, 2))
        assert head[2] > body[2]


def test_ct_is_clipped_to_a_given_window_and_other_channels_are_not():
    random = np.random.default_rng(0)
    labelmap = np.ones((6, 8, 8), np.uint8)
    ct, mr = (
        Volume(random.normal(0, 400, labelmap.shape).astype(np.float32), np.eye(4))
        for _ in range(2)
    )
    fingerprints = [case_fingerprint([ct, mr], labelmap, 0)]
    plan = make_plan(fingerprints, ["CT", "MR"], 4, (5, 8, 8))
    changed = with_ct_window(plan, fingerprints, (-200.0, 250.0))
    normalization = changed.normalization[0]
    assert (normalization.lower, normalization.upper) == (-200.0, 250.0)
    clipped = np.clip(ct.array, -200, 250)
    assert normalization.mean == pytest.approx(clipped.mean(), abs=1)
    assert normalization.std == pytest.approx(clipped.std(), abs=1)
    assert changed.normalization[1] == plan.normalization[1]


def test_the_field_of_view_is_that_of_the_patient_whatever_the_axes():
    labelmap = np.zeros((10, 20, 30), np.uint8)
    labelmap[2:5, 3:9, 4:24] = 1
    # I runs along superior, J along right, K along anterior.
    matrix = np.array([[0, 2.0, 0, 0], [0, 0, 3.0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])
    volume = Volume(labelmap.astype(np.float32), matrix)
    case = case_fingerprint([volume], labelmap, seed=0)
    assert field_of_view([case]) == [[12.0, 40.0], [9.0, 30.0], [20.0, 30.0]]
    empty = case_fingerprint([volume], np.zeros_like(labelmap), seed=0)
    assert field_of_view([case, empty]) == field_of_view([case])
    assert field_of_view([empty]) == [[0.0, 40.0], [0.0, 30.0], [0.0, 30.0]]

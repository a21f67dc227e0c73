"""Robust scores of the volumes of a cohort."""

from __future__ import annotations

import numpy as np
import pytest

from MaskSAMCore.cohort.report.outliers import FEWEST_VALUES, OUTLIER, class_volumes, robust_scores


def test_scores_of_normal_values_are_their_distances_in_standard_deviations():
    values = np.random.default_rng(0).normal(50, 4, 20_000)
    np.testing.assert_allclose(robust_scores(values), (values - 50) / 4, atol=0.25)


def test_outliers_do_not_hide_one_another():
    values = [*np.linspace(9, 11, 20), 30, 30, 30, 0]
    scores = robust_scores(values)
    assert (np.abs(scores[-4:]) > OUTLIER).all()
    assert (np.abs(scores[:-4]) < OUTLIER).all()


@pytest.mark.parametrize(("values", "marked"), [([2.0] * 12, 0), ([0.0] * 11 + [3.0], 1)])
def test_equal_values_are_no_outliers_but_the_one_that_differs_is(values: list, marked: int):
    assert (np.abs(robust_scores(values)) > OUTLIER).sum() == marked


def test_where_most_values_are_equal_scores_follow_from_the_mean_deviation():
    scores = robust_scores([4.0] * 9 + [14.0])
    np.testing.assert_allclose(scores, [0.0] * 9 + [10 / 1.2533], rtol=1e-3)


def test_a_class_that_a_case_lacks_counts_as_no_volume_and_few_cases_have_no_scores():
    cases = {f"c{n}": {"a": 10 + n / 10, "b": 1.0} for n in range(FEWEST_VALUES)}
    cases["lost"] = {"a": 0.0}
    first, second = class_volumes(cases)
    assert first.name == "a" and first.scores["lost"] < -OUTLIER
    assert first.median == pytest.approx(10.4)
    assert set(second.ml) == set(cases) - {"lost"}
    assert class_volumes({"one": {"a": 1.0}})[0].scores == {}

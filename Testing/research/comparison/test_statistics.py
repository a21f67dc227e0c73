"""Tests of the differences between systems."""

from __future__ import annotations

import math

import numpy as np
import pytest

from MaskSAMCore.research.comparison.statistics import Row, compared_pairs, holm, over_seeds
from Testing.research.comparison.helpers import row_of


def test_pairs_are_tested_over_cases_with_correction():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.6, 0.9, 20)
    rows = [
        row_of("a", list(base)),
        row_of("b", list(base - rng.uniform(0.01, 0.03, 20))),
        row_of("same", list(base)),
    ]
    pairs = {(p.first, p.second): p for p in compared_pairs(rows)}
    # With 20 differences of one sign, p is 2 / 2^20.
    assert pairs["a", "b"].p == pytest.approx(2 / 2**20, rel=0.5)
    assert 0.01 < pairs["a", "b"].difference < 0.03
    assert pairs["a", "b"].p_holm > pairs["a", "b"].p
    assert pairs["a", "same"].p == 1
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_cases_without_a_figure_and_failed_systems_are_not_tested():
    rows = [
        row_of("a", [0.5, math.nan, 0.7]),
        row_of("b", [0.4, 0.5, 0.6]),
        Row("c", "unet", problem="no luck"),
    ]
    (pair,) = compared_pairs(rows)
    assert (pair.first, pair.second, pair.cases) == ("a", "b", 2)


def test_rows_over_seeds_have_the_means_and_the_spread_between_seeds():
    rows = {
        0: [row_of("a", [0.5, 0.7], iterations=10.0), row_of("sam", [0.4, 0.4])],
        1: [row_of("a", [0.7, 0.9], iterations=20.0)],
        2: [Row("a", "tiny", problem="no luck")],
    }
    a, sam = over_seeds(rows)
    assert a.system == "a" and a.problem == ""
    assert a.mean == pytest.approx(0.7) and a.iterations == 15
    assert a.spread == pytest.approx(np.std([0.6, 0.8], ddof=1))
    assert a.dice["A"] == pytest.approx((0.7, a.spread))
    assert a.per_case == pytest.approx({"case_0": 0.6, "case_1": 0.8})
    assert a.seeds == pytest.approx({0: 0.6, 1: 0.8, 2: math.nan}, nan_ok=True)
    assert a.seed_problems == {2: "no luck"}
    # A system without a training has no spread between seeds.
    assert sam.mean == pytest.approx(0.4) and math.isnan(sam.spread)
    (failed,) = over_seeds({0: [Row("b", "tiny", problem="no luck")]})
    assert failed.problem == "no luck"

"""Fit of estimators: rank correlation, bound, and the results that a fit needs."""

from __future__ import annotations

import errno
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from MaskSAMCore.data.corrections import append_case
from MaskSAMCore.data.dataset import Dataset, examine_dataset
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.inference import Segmenter
from MaskSAMCore.inference.quality import rate
from MaskSAMCore.io import read_volume
from MaskSAMCore.models.expected_dice import DiceEstimator
from MaskSAMCore.quality import bundles, fit
from MaskSAMCore.quality.bundles import SampleRequest, fit_bundle
from MaskSAMCore.quality.evaluate import draw_scatter, measure
from MaskSAMCore.quality.fit import fit_estimator
from MaskSAMCore.quality.samples import Sample
from MaskSAMCore.training.adapt import AdaptOptions, adapt
from Testing.helpers.generated import generated_case, write_dataset
from Testing.helpers.small_bundle import small_bundle
from Testing.quality.helpers import samples_of_known_dice


@pytest.fixture(scope="module")
def estimator() -> DiceEstimator:
    return fit_estimator(samples_of_known_dice(120), "sha", {"results": 120})


def test_expected_dice_follows_the_true_dice_and_the_bound_holds_on_new_results(estimator):
    measures = measure(estimator, samples_of_known_dice(300, seed=1), ("one", "two"))
    assert measures.mean_rank_correlation > 0.9
    assert measures.mean_error < 0.1
    assert 0.85 <= measures.coverage <= 0.97
    assert measures.detected > 0.9


def samples_of_unlike_cases(first: int, cases: int = 15, each: int = 8) -> list[Sample]:
    """Return results whose Dice depends on the case only.

    The first feature is the same in all results of a case: it identifies the case, but is unrelated
    to the Dice. The other features are random.
    """
    samples = []
    for case in range(first, first + cases):
        rng = np.random.default_rng(case)
        dice, mark = rng.uniform(0.2, 0.9), rng.uniform(0, 1)
        for sample in samples_of_known_dice(each, seed=case):
            sample.features.classes[:, 0] = mark
            samples.append(replace(sample, case=f"case {case}", dice=np.full(2, dice)))
    return samples


def test_the_bound_holds_on_cases_that_are_unlike_those_of_the_fit():
    estimator = fit_estimator(samples_of_unlike_cases(0), "sha", {})
    assert measure(estimator, samples_of_unlike_cases(100), ("one", "two")).coverage > 0.8


def test_results_without_a_class_to_measure_are_refused(estimator):
    unknown = [replace(one, dice=np.full(2, np.nan)) for one in samples_of_known_dice(3)]
    for samples in (unknown, []):
        with pytest.raises(MaskSAMError, match="an expected and a true Dice"):
            measure(estimator, samples, ("one", "two"))


def test_failed_results_that_look_good_are_counted_as_not_detected(estimator):
    bad = [replace(one, dice=0.2 * one.dice) for one in samples_of_known_dice(600, seed=4)]
    looks_good = [one for one in bad if one.features.classes[:, 0].min() > 0.85]
    assert measure(estimator, looks_good, ("one", "two")).detected < 0.5


def test_an_empty_result_of_an_image_without_structures_is_no_failure(estimator):
    samples = samples_of_known_dice(60, seed=5)
    (empty,) = samples_of_known_dice(1, seed=6)
    empty.features.classes[:] = np.nan
    empty = replace(empty, dice=np.full(2, np.nan))
    before, after = (
        measure(estimator, each, ("one", "two")) for each in (samples, [*samples, empty])
    )
    assert (after.failed, after.detected, after.false_alarms) == (
        before.failed,
        before.detected,
        before.false_alarms,
    )
    thresholds = [
        fit_estimator(each, "sha", {}).doubtful_below
        for each in (samples, [*samples, *[empty] * 60])
    ]
    assert thresholds[0] == thresholds[1]


def test_an_estimator_is_the_same_whatever_the_order_of_its_file(estimator):
    again = DiceEstimator.from_json(estimator.to_json(), 2)
    sample = samples_of_known_dice(1, seed=2)[0].features
    expected = estimator.rate(sample.classes, sample.image)
    for one, other in zip(expected, again.rate(sample.classes, sample.image), strict=True):
        assert one is not None
        assert other is not None
        assert (one.dice, one.low) == pytest.approx((other.dice, other.low), abs=1e-4)


def test_a_doubt_about_a_model_whose_usual_results_are_poor_does_not_blame_the_image(estimator):
    def doubts(estimator: DiceEstimator) -> list[str]:
        results = samples_of_known_dice(100, seed=9)
        return [doubt for one in results for doubt in rate(estimator, one.features).doubts]

    poor = [replace(one, dice=0.4 * one.dice) for one in samples_of_known_dice(120)]
    found = doubts(fit_estimator(poor, "sha", {}))
    assert len(found) == 100
    assert all("more cases" in doubt and "in the file" not in doubt for doubt in found)
    assert doubts(estimator) and not any("more cases" in doubt for doubt in doubts(estimator))


def test_a_class_that_is_never_found_does_not_prevent_a_fit():
    samples = []
    for sample in samples_of_known_dice(60):
        sample.features.classes[1] = np.nan
        samples.append(replace(sample, dice=np.array([sample.dice[0], np.nan])))
    found = fit_estimator(samples, "sha", {})
    one, two = found.rate(samples[0].features.classes, samples[0].features.image)
    assert one is not None
    assert two is None


def test_results_in_which_nothing_was_found_tell_nothing_of_what_is_usual():
    samples = samples_of_known_dice(60)
    empty = [
        replace(
            sample,
            corruption="clean",
            features=replace(
                sample.features, classes=np.full_like(sample.features.classes, np.nan)
            ),
            dice=np.array([0.0, np.nan]),
        )
        for sample in samples_of_known_dice(60, seed=7)
    ]
    without_clean = [replace(sample, corruption="noise") for sample in samples]
    found = fit_estimator([*without_clean, *empty], "sha", {})
    np.testing.assert_array_equal(
        found.class_centre, fit_estimator(without_clean, "sha", {}).class_centre
    )
    with pytest.raises(MaskSAMError, match="0 results of 0 cases"):
        fit_estimator(empty, "sha", {})
    with pytest.raises(MaskSAMError, match="19 results"):
        fit_estimator([*samples[:19], *empty], "sha", {})


def test_bounds_of_classes_of_unknown_truth_do_not_count(estimator):
    """A dataset may show only some classes of a model."""
    samples = samples_of_known_dice(200, seed=8)
    for number, sample in enumerate(samples):
        # The better the known class is, the worse is the class of unknown truth.
        sample.features.classes[1, 0] = 1 - sample.features.classes[0, 0]
        samples[number] = replace(sample, dice=np.array([sample.dice[0], np.nan]))
    sure = replace(estimator, doubtful_below=0.0)
    failed = [sample for sample in samples if sample.mean_dice < 0.6]
    worst = sorted(failed, key=lambda sample: sample.mean_dice)[:10]
    good = [sample for sample in samples if sample.mean_dice > 0.9][:20]
    measures = measure(sure, [*worst[:3], *good], ("one", "two"))
    assert measures.failed == 3 and measures.detected == pytest.approx(2 / 3)
    worst[0].features.classes[0] = np.nan
    alone = replace(worst[0], dice=np.array([0.0, np.nan]))
    assert measure(sure, [alone, *good[:3]], ("one", "two")).detected == 1


def adapted_model(folder: Path, classes: dict[str, int]) -> Path:
    """Return a model that finds "Bright" and "Dark" and has been adapted to some classes."""
    image, labelmap = generated_case(1)
    volume = Volume(image, np.diag([1.0, 1.0, 2.0, 1.0]))
    only = labelmap * np.isin(labelmap, [*classes.values()])
    append_case(folder / "cases", [volume], only, classes, [*classes], "case")
    model = small_bundle(folder / "small")
    chosen = AdaptOptions(
        model, folder / "cases", folder / "ours", "ours", holdout=0, device="cpu", steps=1
    )
    adapt(chosen, report=lambda _: None)
    return folder / "ours"


def cases_of(folder: Path, classes: dict[str, int]) -> Dataset:
    """Return cases that show some of the classes "Bright" and "Dark"."""
    for seed in (2, 3):
        image, labelmap = generated_case(seed)
        volume = Volume(image, np.diag([1.0, 1.0, 2.0, 1.0]))
        only = labelmap * np.isin(labelmap, [*classes.values()])
        append_case(folder, [volume], only, classes, [*classes], "case")
    dataset, problems = examine_dataset(folder)
    assert not problems
    return dataset


def request_for(dataset: Dataset) -> SampleRequest:
    return SampleRequest(dataset, [case.name for case in dataset.cases], 20)


def test_classes_that_an_adaptation_learned_have_no_expected_dice_without_cases_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = adapted_model(tmp_path, {"Dark": 2})
    dataset = cases_of(tmp_path / "data", {"Bright": 1})
    samples = samples_of_known_dice(60)
    for sample in samples:
        sample.features.classes[1] = np.nan
    monkeypatch.setattr(bundles, "make_samples", lambda *_: samples)
    _, estimator = fit_bundle(model, request_for(dataset), "cpu")
    assert estimator.unrated == (1,) and estimator.unknown == {1}
    volume = read_volume(dataset.cases[0].images[0])
    found = Segmenter.from_model(model, device="cpu").segment(volume).instances
    assert [one.expected_dice for one in found if one.name == "Dark"] == [None]


def test_a_model_whose_classes_were_all_learned_in_an_adaptation_is_refused(tmp_path: Path):
    model = adapted_model(tmp_path, {"Bright": 1, "Dark": 2})
    dataset, _ = examine_dataset(write_dataset(tmp_path / "data", 2))
    with pytest.raises(MaskSAMError, match="nothing to fit"):
        fit_bundle(model, request_for(dataset), "cpu")


@pytest.mark.parametrize("case", ["results", "cases", "scikit-learn", "cannot write"])
def test_what_a_fit_lacks_is_told_before_results_are_made(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = small_bundle(tmp_path / "small")
    request = request_for(examine_dataset(write_dataset(tmp_path / "data", 2))[0])
    if case == "results":
        request = replace(request, count=19)
    if case == "cases":
        request = replace(request, names=request.names[:1])
    if case == "scikit-learn":
        monkeypatch.setattr(fit, "find_spec", lambda _name: None)
    if case == "cannot write":
        error = PermissionError(errno.EACCES, "Permission denied")
        monkeypatch.setattr(tempfile, "TemporaryDirectory", Mock(side_effect=error))
    monkeypatch.setattr(bundles, "make_samples", Mock(side_effect=AssertionError))
    with pytest.raises(MaskSAMError, match=f"{case}.* too few|{case}"):
        fit_bundle(model, request, "cpu")


@pytest.mark.parametrize(("count", "cases"), [(10, 5), (60, 1)])
def test_too_few_results_or_cases_are_refused(count: int, cases: int):
    with pytest.raises(MaskSAMError, match="too few"):
        fit_estimator(samples_of_known_dice(count, cases=cases), "sha", {})


def test_the_scatter_plot_is_written(estimator, tmp_path):
    path = tmp_path / "scatter.png"
    draw_scatter(estimator, samples_of_known_dice(20, seed=3), "two classes of $\\unknown$", path)
    assert path.read_bytes().startswith(b"\x89PNG")

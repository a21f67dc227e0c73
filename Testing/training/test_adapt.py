"""Adaptation of a model to corrected cases: classes, partial labels, acceptance and resuming."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from MaskSAMCore.data.corrections import append_case
from MaskSAMCore.data.dataset import examine_dataset
from MaskSAMCore.errors import Cancelled, CannotResume, MaskSAMError
from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.inference import MaskSegmenter, Segmenter
from MaskSAMCore.inference.mask_session import MaskSession
from MaskSAMCore.inference.result_features import CLASS_FEATURES, ResultFeatures
from MaskSAMCore.io.files import read_json, write_json
from MaskSAMCore.modeling import MaskSAM
from MaskSAMCore.modeling.masksam.inheritance import inherited_network
from MaskSAMCore.models import load_bundle
from MaskSAMCore.models.catalog import DESCRIPTION
from MaskSAMCore.models.expected_dice import QUALITY, RefinedEstimator, write_estimator
from MaskSAMCore.models.unfinished import STATE, learning_folder, unfinished_learning
from MaskSAMCore.quality.bundles import SampleRequest, evaluate_bundle, fit_bundle, make_samples
from MaskSAMCore.quality.corruptions import FITTED
from MaskSAMCore.quality.fit import FEWEST_SAMPLES
from MaskSAMCore.quality.samples import Sample
from MaskSAMCore.training import adapt as adaptation
from MaskSAMCore.training import adapt_preparation
from MaskSAMCore.training.adapt import AdaptOptions, AdaptResult, adapt
from MaskSAMCore.training.adapt_clock import Clock
from MaskSAMCore.training.adapt_estimator import results_to_fit
from MaskSAMCore.training.adapt_preparation import prepare
from MaskSAMCore.training.adapt_task import AdaptationState, Task
from MaskSAMCore.training.export import export_run
from Testing.helpers.estimators import known_estimator
from Testing.helpers.generated import generated_case, write_dataset
from Testing.helpers.small_bundle import small_bundle

VALUES = {"Bright": 10, "Dark": 300}
GRID = np.diag([1.0, 1.0, 2.0, 1.0])
TURN = np.array([[0.8, -0.6, 0, 4], [0.6, 0.8, 0, -9], [0, 0, -1, 31], [0, 0, 0, 1]])
# The voxels are half as long as those of the model for bodies four times as long.
FINE, FINE_SHAPE = TURN @ np.diag([2.0, 2.0, 4.0, 1.0]), (28, 52, 60)


@pytest.fixture(scope="session")
def base(trained: Path, made_once: Callable[..., Path]) -> Path:
    """Return a bundle that finds both classes."""
    card = {"intracranial": "all"}
    made = made_once("intracranial-base", lambda folder: export_run(trained, folder / "base", card))
    return made / "base"


def upper_half(labelmap: np.ndarray, value: int, new: int) -> np.ndarray:
    """Return a labelmap in which the upper half of a class has another value."""
    changed = labelmap.astype(np.uint16)
    k = np.nonzero(labelmap == value)[0]
    changed[(labelmap == value) & (np.arange(len(labelmap)) > np.median(k))[:, None, None]] = new
    return changed


@pytest.fixture(scope="session")
def caps(made_once: Callable[..., Path]) -> Path:
    """Return corrected cases whose only checked class is new: the upper half of the bright body."""

    def fill(folder: Path) -> None:
        for seed in range(20, 24):
            image, labelmap = generated_case(seed)
            cap = upper_half(labelmap, 1, 7)
            cap[cap != 7] = 0
            append_case(folder / "caps", [Volume(image, GRID)], cap, {"Cap": 7}, ["Cap"], "case")

    return made_once("caps", fill) / "caps"


@pytest.fixture(scope="session")
def adapted(base: Path, caps: Path, made_once: Callable[..., Path]) -> Path:
    """Return a bundle that has learned the new class."""

    def fill(folder: Path) -> None:
        result = adapt(options(base, caps, folder / "ours", steps=60), report=lambda _: None)
        assert result.kept

    return made_once("adapted", fill) / "ours"


@pytest.fixture(scope="session")
def fine(base: Path, made_once: Callable[..., Path]) -> Path:
    """Return a folder with three parts.

    "coarse" is a bundle for bodies four times as long, "cases" are oblique and left-handed cases
    with voxels half as long as those of the bundle, and "first" is the bundle adapted to the cases.
    """

    def fill(folder: Path) -> None:
        coarse = Path(shutil.copytree(base, folder / "coarse"))
        facts = read_json(coarse / DESCRIPTION)
        facts["plan"]["spacing"] = [4 * mm for mm in facts["plan"]["spacing"]]
        write_json(coarse / DESCRIPTION, facts)
        for seed in range(20, 22):
            image, labelmap = generated_case(seed, FINE_SHAPE)
            only = (labelmap == 1).astype(np.uint8)
            append_case(
                folder / "cases", [Volume(image, FINE)], only, {"Bright": 1}, ["Bright"], "case"
            )
        run(options(coarse, folder / "cases", folder / "first", holdout=0, steps=40))

    return made_once("fine", fill)


def options(base: Path, cases: Path, output: Path, **changes: object) -> AdaptOptions:
    """Return options of a short adaptation."""
    plain = AdaptOptions(base, cases, output, "ours", device="cpu", steps=2)
    return dataclasses.replace(plain, **changes)


def run(chosen: AdaptOptions, **callbacks: object) -> AdaptResult:
    """Adapt without any report."""
    return adapt(chosen, report=lambda _: None, **callbacks)


def test_a_new_class_is_learned_and_the_others_lose_only_its_voxels(base: Path, adapted: Path):
    image, labelmap = generated_case(31)
    volume = Volume(image, GRID)
    old = Segmenter.from_model(base, device="cpu").segment(volume).labelmap
    new = Segmenter.from_model(adapted, device="cpu").segment(volume).labelmap
    truth = upper_half(labelmap, 1, 7) == 7
    cap = new == 7
    assert 2 * (cap & truth).sum() / (cap.sum() + truth.sum()) > 0.6
    np.testing.assert_array_equal(new[~cap], old[~cap])


def test_small_structures_are_learned_in_the_voxels_of_their_images(fine: Path, tmp_path: Path):
    bundle, old = load_bundle(fine / "first"), load_bundle(fine / "coarse")
    assert bundle.plan == old.plan and bundle.config.base == old.config
    assert bundle.config.subdivision == (2, 2, 2)
    image, labelmap = generated_case(31, FINE_SHAPE)
    volume = Volume(image, FINE)
    found = Segmenter.from_model(fine / "first", device="cpu").segment(volume).labelmap
    truth, bright = labelmap == 1, found == VALUES["Bright"]
    assert 2 * (bright & truth).sum() / (bright.sum() + truth.sum()) > 0.8
    # Where neither model finds the refined class, the results are equal.
    before = Segmenter.from_model(fine / "coarse", device="cpu").segment(volume).labelmap
    free = ~bright & (before != VALUES["Bright"])
    np.testing.assert_array_equal(found[free], before[free])
    # A second adaptation to the same class keeps the voxel size.
    again = run(options(fine / "first", fine / "cases", tmp_path / "again", holdout=0))
    assert again.kept and load_bundle(tmp_path / "again").config == bundle.config
    cap = upper_half(labelmap, 1, 7)
    cap[cap != 7] = 0
    append_case(tmp_path / "caps", [volume], cap, {"Cap": 7}, ["Cap"], "case")
    with pytest.raises(MaskSAMError, match="has learned bright in smaller voxels"):
        run(options(tmp_path / "again", tmp_path / "caps", tmp_path / "third", holdout=0))


def test_a_small_image_is_decided_in_smaller_voxels_as_a_whole(fine: Path):
    image, _ = generated_case(31, FINE_SHAPE)
    small = image[:, 8:34, 8:38].copy()
    # In the larger voxels of the base, this dark voxel hardly shows.
    small[5, 6, 7] = small.min() - 100
    with Segmenter.from_model(fine / "first", device="cpu").open(Volume(small, FINE)) as session:
        shares = session.scores().shares
    assert shares.classes == (1,) and shares.values.shape == (2, *small.shape)
    sums = shares.values.sum(0).numpy()
    assert (sums > 0.99).sum() >= small.size - 1


@pytest.mark.parametrize("mirrored", [False, True])
def test_boxes_of_a_class_that_was_learned_in_smaller_voxels(fine: Path, mirrored: bool):
    image, labelmap = generated_case(31, FINE_SHAPE)
    matrix = FINE @ np.diag([-1.0, 1.0, 1.0, 1.0]) if mirrored else FINE
    volume = Volume(image, matrix)
    (k, j, i) = (int(v) for v in np.argwhere(labelmap == 1).mean(0))
    box = Box("Bright", (i - 3, j - 4, k - 2), (i + 4, j + 3, k + 3))
    outside = np.ones(FINE_SHAPE, bool)
    outside[k - 2 : k + 3, j - 4 : j + 3, i - 3 : i + 4] = False
    with Segmenter.from_model(fine / "first", device="cpu").open(volume) as session:
        plain = session.segment().labelmap
        near = session.segment([box]).labelmap
        whole = session.segment([box], overwrite=True).labelmap
    for found in (near, whole):
        bright = found == VALUES["Bright"]
        assert bright.any() and not bright[outside].any()
    was_bright, was_dark = (plain == VALUES[name] for name in ("Bright", "Dark"))
    np.testing.assert_array_equal(near == VALUES["Dark"], was_dark)
    # With ``overwrite``, the two classes exchange voxels only with each other.
    bright, dark = (whole == VALUES[name] for name in ("Bright", "Dark"))
    assert was_bright[dark & ~was_dark].all() and bright[was_dark & ~dark].all()
    assert (was_dark | dark)[bright != (near == VALUES["Bright"])].all()


def test_the_new_bundle_tells_where_it_comes_from(base: Path, adapted: Path):
    bundle = load_bundle(adapted)
    assert [label.name for label in bundle.labels] == ["Bright", "Dark", "Cap"]
    assert [label.value for label in bundle.labels] == [10, 300, 7]
    facts = bundle.card["adapted"]
    assert facts["from"] == "base" and facts["weights_sha256"] == load_bundle(base).weights_sha256
    assert facts["cases"] == 3 and facts["held_out"] == 1
    assert facts["dice_before"] == {"Cap": 0.0} and facts["dice_after"]["Cap"] > 0.6
    assert bundle.estimator is None and not learning_folder(adapted).exists()
    # It is unknown whether the new class lies inside the skull.
    assert load_bundle(base).intracranial and not bundle.intracranial


def test_classes_that_were_not_learned_keep_their_expected_dice(
    base: Path, caps: Path, tmp_path: Path
):
    rated = Path(shutil.copytree(base, tmp_path / "rated"))
    sha256 = load_bundle(rated).weights_sha256
    write_estimator(rated, known_estimator([0.9, 0.6], 0.1, sha256))
    lines: list[str] = []
    adapt(options(rated, caps, tmp_path / "ours", holdout=0, steps=60), report=lines.append)
    assert any("expected Dice" in line for line in lines)
    volume = Volume(generated_case(31)[0], GRID)
    before, after = (
        {one.name: one for one in Segmenter.from_model(m, device="cpu").segment(volume).instances}
        for m in (rated, tmp_path / "ours")
    )
    assert before["Bright"].expected_dice is not None and before["Dark"].expected_dice is not None
    assert after["Dark"].expected_dice == before["Dark"].expected_dice
    assert after["Dark"].expected_dice_low == before["Dark"].expected_dice_low
    # Much of the bright class has become the new one.
    assert after["Bright"].voxel_count < 0.9 * before["Bright"].voxel_count
    assert after["Bright"].expected_dice is None and after["Cap"].expected_dice is None
    # The features that the expected Dice follows from are the same, too.
    features = []
    for model in (rated, tmp_path / "ours"):
        with Segmenter.from_model(model, device="cpu").open(volume) as session:
            session.segment()
            features.append(session.features())
    np.testing.assert_array_equal(features[0].image, features[1].image)
    np.testing.assert_array_equal(features[0].classes, features[1].classes[:2])
    assert np.isnan(features[1].classes[2]).all() and np.isnan(features[1].weakest[2]).all()


def test_the_expected_dice_of_learned_classes_is_fitted_where_a_case_is_held_out(
    base: Path, caps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(adapt_preparation, "_MOST_RESULTS", 30)
    rated = Path(shutil.copytree(base, tmp_path / "rated"))
    former = known_estimator([0.9, 0.6], 0.1, load_bundle(rated).weights_sha256)
    write_estimator(rated, former)
    lines: list[str] = []
    stages: list[str] = []
    result = adapt(
        options(rated, caps, tmp_path / "ours", steps=60),
        report=lines.append,
        progress=lambda stage, *_: stages.append(stage),
    )
    assert result.kept and len(result.held_out) == 1
    assert stages.count("Estimating the Dice") == 30
    assert any("results of 4 case(s)" in line for line in lines)
    estimator = load_bundle(tmp_path / "ours").estimator
    assert estimator is not None and estimator.refined is not None
    assert estimator.refined.classes == (2,) and estimator.unknown == frozenset()
    # A class found with less confidence than usual has no higher expected Dice.
    own = estimator.refined.estimator
    poor = own.class_centre.copy()
    confident = [CLASS_FEATURES.index(name) for name in ("soft_dice", "confidence", "margin")]
    poor[:, confident] = 0
    (usual,), (worse,) = (own.rate(each, own.image_centre) for each in (own.class_centre, poor))
    assert usual is not None and worse is not None and usual.dice >= worse.dice
    assert usual.dice == pytest.approx(result.after["Cap"], abs=0.25)


def test_learned_classes_get_an_estimator_of_their_own(adapted: Path, caps: Path, tmp_path: Path):
    model = Path(shutil.copytree(adapted, tmp_path / "ours"))
    dataset, _ = examine_dataset(caps)
    request = SampleRequest(dataset, [case.name for case in dataset.cases], FEWEST_SAMPLES)
    with pytest.raises(MaskSAMError, match="nothing to fit"):
        fit_bundle(model, request, "cpu")
    others = known_estimator([0.9, 0.6, 0.0], 0.1, load_bundle(model).weights_sha256)
    write_estimator(model, dataclasses.replace(others, unrated=(2,)))
    with pytest.raises(MaskSAMError, match="no expected Dice"):
        evaluate_bundle(model, request, "cpu")
    chosen = {name: FITTED[name] for name in ("clean", "noise", "bias")}
    fit_bundle(model, dataclasses.replace(request, corruptions=chosen), "cpu")
    with Segmenter.from_model(model, device="cpu").open(Volume(generated_case(31)[0], GRID)) as one:
        result = one.segment()
        features = one.features().refined
    expected = {instance.name: instance.expected_dice for instance in result.instances}
    # The learned class takes voxels from the bright class, whose estimate no longer applies.
    assert expected["Bright"] is None and expected["Dark"] == pytest.approx(0.6)
    cap = next(instance for instance in result.instances if instance.name == "Cap")
    assert cap.expected_dice is not None and cap.expected_dice_low is not None
    assert 0 <= cap.expected_dice_low <= cap.expected_dice <= 1 and cap.expected_dice > 0.2
    # The features describe the result of the refiner.
    assert features is not None and len(features.classes) == 1
    ml = np.exp(features.classes[0, CLASS_FEATURES.index("log_volume")])
    assert ml == pytest.approx(cap.voxel_count * 2 / 1000, rel=0.05)
    assert cap.weakest_place is not None
    assert (result.labelmap[int(cap.weakest_place[2])] == cap.value).any()
    _, samples, measures = evaluate_bundle(
        model, dataclasses.replace(request, count=4, seed=1, corruptions=chosen), "cpu"
    )
    assert list(measures.rank_correlation) == ["Cap"] and measures.results == len(samples) == 4
    again = [Sample.from_json(json.loads(json.dumps(one.to_json()))) for one in samples]
    assert [one.to_json() for one in again] == [one.to_json() for one in samples]


def test_results_of_an_earlier_version_have_no_features_of_learned_classes(
    adapted: Path, caps: Path, tmp_path: Path
):
    dataset, _ = examine_dataset(caps)
    names = [case.name for case in dataset.cases]
    file = tmp_path / "results.jsonl"
    request = SampleRequest(dataset, names, 1, file=file)
    segmenter = Segmenter.from_model(adapted, device="cpu")
    (sample,) = make_samples(segmenter, request, known=[2])
    assert sample.features.refined is not None and np.isnan(sample.dice[:2]).all()
    first, line = map(json.loads, file.read_text().splitlines())
    assert first.pop("refined") == ["Cap"]
    line.pop("refined")
    file.write_text(f"{json.dumps(first)}\n{json.dumps(line)}\n")
    with pytest.raises(MaskSAMError, match="remove the file"):
        make_samples(segmenter, request, known=[2])


def test_classes_of_an_earlier_learning_have_no_expected_dice_after_another_one(
    adapted: Path, tmp_path: Path
):
    rated = Path(shutil.copytree(adapted, tmp_path / "rated"))
    sha256 = load_bundle(rated).weights_sha256
    others = dataclasses.replace(known_estimator([0.9, 0.6, 0.0], 0.1, sha256), unrated=(2,))
    own = RefinedEstimator((2,), known_estimator([0.7], 0.1, sha256))
    write_estimator(rated, dataclasses.replace(others, refined=own))
    for seed in (20, 21):
        image, labelmap = generated_case(seed)
        dark = upper_half(labelmap, 2, 9)
        dark[dark != 9] = 0
        volume = Volume(image, GRID)
        append_case(tmp_path / "cases", [volume], dark, {"Tip": 9}, ["Tip"], "case")
    run(options(rated, tmp_path / "cases", tmp_path / "ours", holdout=0))
    estimator = load_bundle(tmp_path / "ours").estimator
    assert estimator is not None and estimator.refined is None and estimator.unknown == {2, 3}
    # A fit needs the classes of the first model only.
    dataset, _ = examine_dataset(write_dataset(tmp_path / "data", 2))
    request = SampleRequest(dataset, [case.name for case in dataset.cases], FEWEST_SAMPLES)
    chosen = {name: FITTED[name] for name in ("clean", "noise")}
    _, fitted = fit_bundle(tmp_path / "ours", dataclasses.replace(request, corruptions=chosen))
    assert fitted.unknown == {2, 3} and fitted.refined is None
    volume = Volume(generated_case(31)[0], GRID)
    found = Segmenter.from_model(tmp_path / "ours", device="cpu").segment(volume).instances
    expected = {instance.name: instance.expected_dice for instance in found}
    # Both new classes were parts of the first two.
    assert set(expected) >= {"Bright", "Cap"} and set(expected.values()) == {None}


@pytest.mark.parametrize(
    ("rated", "changes", "partial", "results"),
    [
        (True, {}, 0, 60),
        (True, {"minutes": 1e-6}, 0, 0),
        (True, {"holdout": 0}, 0, 0),
        (False, {}, 0, 0),
        (True, {}, 2, 60),
        (True, {}, 3, 0),
    ],
)
def test_results_to_fit_to_need_an_estimator_time_and_complete_cases(
    base: Path,
    tmp_path: Path,
    rated: bool,
    changes: dict[str, object],
    partial: int,
    results: int,
):
    model = Path(shutil.copytree(base, tmp_path / "model"))
    if rated:
        write_estimator(model, known_estimator([0.9, 0.6], 0.1, load_bundle(model).weights_sha256))
    names = {"Bright": 1, "Dark": 2}
    for number in range(4):
        image, labelmap = generated_case(20 + number)
        checked = ["Bright"] if number < partial else [*names]
        labels = labelmap.astype(np.uint8)
        append_case(tmp_path / "cases", [Volume(image, GRID)], labels, names, checked, f"c{number}")
    write_json(tmp_path / "held.json", ["c3"])
    plain = options(model, tmp_path / "cases", tmp_path / "ours", holdout=tmp_path / "held.json")
    chosen = dataclasses.replace(plain, minutes=1e6)
    chosen = dataclasses.replace(chosen, **changes)
    task = Task.of(chosen, load_bundle(model))
    state = prepare(task, tmp_path / "work", Clock(chosen.minutes, None, None))
    assert state.results == results


def test_results_to_fit_to_end_with_the_time_and_are_left_by_a_cancelled_learning(
    base: Path, caps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rated = Path(shutil.copytree(base, tmp_path / "rated"))
    write_estimator(rated, known_estimator([0.9, 0.6], 0.1, load_bundle(rated).weights_sha256))
    monkeypatch.setattr(adapt_preparation, "_MOST_RESULTS", 30)
    chosen = options(rated, caps, tmp_path / "ours", steps=20, minutes=1e6)
    finished: list[bool] = []
    own = MaskSession.features

    def features(session: MaskSession) -> ResultFeatures:
        finished.append(True)
        return own(session)

    monkeypatch.setattr(MaskSession, "features", features)
    stages: list[str] = []
    with pytest.raises(Cancelled):
        run(
            chosen,
            progress=lambda stage, *_: stages.append(stage),
            cancelled=lambda: "Estimating the Dice" in stages,
        )
    assert not finished and not chosen.output.exists()
    work = learning_folder(chosen.output)
    state = AdaptationState.from_dict(read_json(work / STATE))
    assert state.results == 30
    # The minutes are spent; with a number of steps, no time limit applies.
    late = Clock(1e-9, None, None)
    few = dataclasses.replace(state, results=2)
    for steps, count in ((None, 0), (2, 2)):
        task = Task.of(dataclasses.replace(chosen, steps=steps), load_bundle(rated))
        start, origins = task.source(state.origins)
        refiner = inherited_network(start, state.window, origins, state.queries)
        new = MaskSegmenter(
            task.refined(state, refiner), task.plan, task.labels_of(state), device="cpu"
        )
        assert len(results_to_fit(task, few, new, late)) == len(finished) == count
    finished.clear()
    # A state of an earlier version has no results to fit to.
    facts = read_json(work / STATE)
    facts.pop("results")
    write_json(work / STATE, facts)
    lines: list[str] = []
    result = adapt(dataclasses.replace(chosen, resume=True), report=lines.append)
    assert result.kept and not finished and "the learned ones have none" in lines[-1]


def test_a_model_that_learned_small_images_does_not_warn_of_small_images(
    base: Path, tmp_path: Path
):
    large = Path(shutil.copytree(base, tmp_path / "large"))
    facts = read_json(large / DESCRIPTION)
    facts["card"]["field_of_view_mm"] = [[100.0, 200.0]] * 3
    write_json(large / DESCRIPTION, facts)
    for seed in (20, 21):
        image, labelmap = generated_case(seed)
        _, j, i = np.argwhere(labelmap == 1).min(0)
        part = np.s_[:, max(j - 2, 0) : j + 8, max(i - 2, 0) : i + 8]
        only = (labelmap[part] == 1).astype(np.uint8)
        small = Volume(np.ascontiguousarray(image[part]), GRID)
        append_case(tmp_path / "cases", [small], only, {"Bright": 1}, ["Bright"], "case")
    run(options(large, tmp_path / "cases", tmp_path / "ours", holdout=0))
    warning = "its structures together measured"
    for model, warned in ((large, True), (tmp_path / "ours", False)):
        notes = Segmenter.from_model(model, device="cpu").segment(small).notes
        assert any(warning in note for note in notes) == warned
    assert load_bundle(tmp_path / "ours").card["field_of_view_mm"] == [[0.0, 200.0]] * 3


def test_a_learning_that_ends_before_its_estimator_leaves_no_bundle_and_is_continued(
    base: Path, caps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rated = Path(shutil.copytree(base, tmp_path / "rated"))
    write_estimator(rated, known_estimator([0.9, 0.6], 0.1, load_bundle(rated).weights_sha256))
    chosen = options(rated, caps, tmp_path / "ours", holdout=0)
    present: list[bool] = []

    def end(*_arguments: object) -> str:
        present.append(chosen.output.exists())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(adaptation, "write_adapted_estimator", end)
        with pytest.raises(KeyboardInterrupt):
            run(chosen)
    # A process killed here cannot remove a bundle, so none may exist yet.
    assert present == [False] and not chosen.output.exists()
    assert run(dataclasses.replace(chosen, resume=True)).kept
    assert load_bundle(chosen.output).estimator is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "rated"]


def test_a_damaged_estimator_does_not_hinder_learning(base: Path, caps: Path, tmp_path: Path):
    damaged = Path(shutil.copytree(base, tmp_path / "damaged"))
    (damaged / QUALITY).write_text("{}")
    lines: list[str] = []
    adapt(options(damaged, caps, tmp_path / "ours", holdout=0), report=lines.append)
    assert "have no expected Dice" in lines[-1] and "damaged" in lines[-1]
    assert load_bundle(tmp_path / "ours").estimator is None


def test_a_model_that_is_not_better_is_not_written(base: Path, tmp_path: Path):
    for seed in range(20, 23):
        image, labelmap = generated_case(seed)
        only = np.where(labelmap == 1, 1, 0).astype(np.uint8)
        append_case(
            tmp_path / "cases", [Volume(image, GRID)], only, {"Bright": 1}, ["Bright"], "case"
        )
    result = run(options(base, tmp_path / "cases", tmp_path / "ours", steps=1))
    assert not result.kept and result.bundle is None and "not better" in result.message
    assert set(result.before) == set(result.after) == {"Bright"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases"]


@pytest.mark.parametrize(
    ("held_out", "dice", "message"),
    [
        (["case21"], {}, "cannot be compared"),
        (["case20", "case21"], {"Lesion": 0.5}, "0.500 before, 0.500 after"),
    ],
)
def test_to_find_nothing_in_a_held_out_case_without_the_class_is_right(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    held_out: list[str],
    dice: dict[str, float],
    message: str,
):
    for seed in range(20, 23):
        image, labelmap = generated_case(seed)
        lesion = (labelmap == 1).astype(np.uint8) * (seed != 21)
        volume = Volume(image, GRID)
        append_case(tmp_path / "cases", [volume], lesion, {"Lesion": 1}, ["Lesion"], f"case{seed}")

    def refiner_that_finds_nothing(task: Task, state: AdaptationState, *_: object) -> MaskSAM:
        source, origins = task.source(state.origins)
        refiner = inherited_network(source, state.window, origins, state.queries)
        with torch.no_grad():
            refiner.decoder.class_head.bias[0] += 1000
        return refiner.eval()

    monkeypatch.setattr(adaptation, "fit_refiner", refiner_that_finds_nothing)
    write_json(tmp_path / "split.json", held_out)
    small = small_bundle(tmp_path / "small")
    cases, output = tmp_path / "cases", tmp_path / "ours"
    result = run(options(small, cases, output, holdout=tmp_path / "split.json"))
    assert result.before == dice and result.after == dice
    assert message in result.message and "no case was held out" not in result.message
    assert result.kept == output.exists() == (not dice)


@pytest.mark.parametrize(("checkpoints", "left"), [(True, 1), (False, 4)])
def test_a_stopped_learning_is_continued(
    base: Path, caps: Path, tmp_path: Path, checkpoints: bool, left: int
):
    """A process may also be killed before its first checkpoint."""
    chosen = options(base, caps, tmp_path / "ours", steps=4, holdout=0)
    stages: list[str] = []
    with pytest.raises(Cancelled):
        run(
            chosen,
            progress=lambda stage, *_: stages.append(stage),
            cancelled=lambda: stages.count("Learning") >= 2,
        )
    assert unfinished_learning(chosen.output) is not None and not chosen.output.exists()
    if not checkpoints:
        for path in learning_folder(chosen.output).glob("*.ckpt"):
            path.unlink()
    stages.clear()
    result = run(
        dataclasses.replace(chosen, resume=True), progress=lambda stage, *_: stages.append(stage)
    )
    assert result.kept and result.held_out == () and stages.count("Learning") == left
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours"]


def test_a_learning_is_continued_with_its_own_held_out_cases_only(
    base: Path, caps: Path, tmp_path: Path
):
    begun = options(base, caps, tmp_path / "ours", holdout=1, seed=2)
    stages: list[str] = []
    with pytest.raises(Cancelled):
        run(
            begun,
            progress=lambda stage, *_: stages.append(stage),
            cancelled=lambda: "Learning" in stages,
        )
    again = dataclasses.replace(begun, resume=True)
    for changes, option in (({"holdout": 0}, "--holdout"), ({"seed": 0}, "--seed")):
        with pytest.raises(MaskSAMError, match=f"was begun with another {option}: leave it out"):
            run(dataclasses.replace(again, **changes))
    held_out = run(again).held_out
    assert len(held_out) == 1


def test_a_learning_is_stopped_while_the_held_out_cases_are_validated(
    base: Path, caps: Path, tmp_path: Path
):
    chosen = options(base, caps, tmp_path / "ours", steps=1, holdout=1)
    stages: list[str] = []
    validations: list[float] = []
    with pytest.raises(Cancelled):
        run(
            chosen,
            progress=lambda stage, *_: stages.append(stage),
            cancelled=lambda: "Learning" in stages,
            on_validation=lambda _, dice: validations.append(dice),
        )
    assert validations == [] and "Comparing" not in stages
    assert unfinished_learning(chosen.output) is not None and not chosen.output.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": Path(__file__).parent}, "exists"),
        ({"resume": True}, "no unfinished learning"),
        ({"name": "a b"}, "cannot be a model's name"),
        ({"holdout": 4}, "none is left to learn"),
        ({"minutes": 0.0}, "more than 0"),
        ({"minutes": 1e-6, "steps": None}, "too few"),
    ],
)
def test_a_bad_choice_gets_one_line_and_leaves_nothing(
    base: Path, caps: Path, tmp_path: Path, changes: dict[str, object], message: str
):
    with pytest.raises(MaskSAMError, match=message) as caught:
        run(dataclasses.replace(options(base, caps, tmp_path / "ours"), **changes))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_other_cases_cannot_continue_a_learning(base: Path, caps: Path, tmp_path: Path):
    cases = Path(shutil.copytree(caps, tmp_path / "cases"))
    chosen = options(base, cases, tmp_path / "ours", steps=2)
    stages: list[str] = []
    with pytest.raises(Cancelled):
        run(
            chosen,
            progress=lambda stage, *_: stages.append(stage),
            cancelled=lambda: "Learning" in stages,
        )
    image, labelmap = generated_case(5)
    append_case(cases, [Volume(image, GRID)], labelmap * 0, {"Cap": 7}, ["Cap"], "another")
    with pytest.raises(CannotResume, match="have changed since"):
        run(dataclasses.replace(chosen, resume=True))

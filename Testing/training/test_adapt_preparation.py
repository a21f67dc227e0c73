"""Preparation of an adaptation: partial labels, held-out cases and the place of the refiner."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from MaskSAMCore.data import PreparedCase, preprocess
from MaskSAMCore.data.case_cache import StoredArrays
from MaskSAMCore.data.corrections import append_case
from MaskSAMCore.data.window_numbers import WindowNumbers
from MaskSAMCore.data.windows import CachedCase
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.modeling import ClassScores, Network, NetworkConfig
from MaskSAMCore.models import load_bundle
from MaskSAMCore.training import adapt_task
from MaskSAMCore.training.adapt_clock import Clock
from MaskSAMCore.training.adapt_fit import CorrectedWindows, held_out_evaluator
from MaskSAMCore.training.adapt_preparation import indexed_case, prepare
from MaskSAMCore.training.adapt_task import UNDIVIDED, AdaptOptions, Task
from MaskSAMCore.training.run_folder import CASES
from Testing.helpers.generated import change_description, generated_case
from Testing.helpers.small_bundle import small_bundle

# The grid is oblique and left-handed and has the model's voxel size.
TURN = np.array([[0.8, -0.6, 0, 4], [0.6, 0.8, 0, -9], [0, 0, -1, 31], [0, 0, 0, 1]])
GRID = TURN @ np.diag([1.0, 1.0, 2.0, 1.0])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("base") / "small")


def task(base: Path, cases: Path, **choices: object) -> Task:
    """Return the task of adapting a model that finds "Bright" and "Dark"."""
    options = AdaptOptions(base, cases, cases.with_name("ours"), "ours", device="cpu", **choices)
    return Task.of(options, load_bundle(base))


def add(folder: Path, seed: int, labels: dict[str, int], checked: list[str]) -> np.ndarray:
    """Add a generated case and return its labelmap."""
    image, labelmap = generated_case(seed)
    append_case(folder, [Volume(image, GRID)], labelmap, labels, checked, f"case{seed}")
    return labelmap


def test_voxels_of_an_unchecked_class_are_unknown_where_the_model_finds_it(
    base: Path, tmp_path: Path
):
    cases, work = tmp_path / "cases", tmp_path / "work"
    labels = {"Bright": 1, "Dark": 2}
    add(cases, 1, labels, ["Bright"])
    add(cases, 2, labels, ["Bright", "Dark"])
    work.mkdir()
    own = task(base, cases, holdout=0)
    state = prepare(own, work, Clock(60.0, None, None))
    assert state.classes == ("Bright", "Dark") and state.held_out == ()
    found = own.measure(own.segmenter(), "case1", Clock(60.0, None, None)).found
    labelmap = StoredArrays(work / CASES / "case1").read("labelmap")
    bright = labelmap == 1
    assert bright.any() and not (labelmap == 2).any()
    np.testing.assert_array_equal(labelmap == 3, (found == 2) & ~bright)
    both = StoredArrays(work / CASES / "case2").read("labelmap")
    assert set(np.unique(both)) == {0, 1, 2}
    windows = CorrectedWindows(
        2, [CachedCase(StoredArrays(work / CASES / "case1"))], own.plan, 0.0, (), 1.0, 0
    )
    windows.numbers = WindowNumbers(1)
    seen = next(iter(windows))[1]
    assert seen.min() == -1 and seen.max() <= 2


def test_a_class_is_learned_by_its_name_whatever_its_value(base: Path, tmp_path: Path):
    cases, work = tmp_path / "cases", tmp_path / "work"
    work.mkdir()
    labelmap = add(cases, 4, {"Spot": 1, "dark": 2}, ["Spot", "dark"])
    own = task(base, cases, holdout=0)
    state = prepare(own, work, Clock(60.0, None, None))
    assert state.classes == ("Spot", "dark")
    assert [label.name for label in own.labels_of(state)] == ["Bright", "Dark", "Spot"]
    # The value of the new class in the folder already belongs to a class of the model.
    assert [label.value for label in own.labels_of(state)] == [1, 2, 3]
    assert state.anchors and set(state.anchors) <= {1, 2} and 2 in state.anchors
    stored = StoredArrays(work / CASES / "case4").read("labelmap")
    assert [(stored == value).sum() for value in (1, 2)] == [
        (labelmap == value).sum() for value in (1, 2)
    ]


@pytest.mark.parametrize(
    ("spellings", "expected"),
    [(("bright", "Bright"), "Bright"), (("Lesion", "lesion"), "Lesion")],
)
def test_two_spellings_of_a_class_are_one_class(
    base: Path, tmp_path: Path, spellings: tuple[str, str], expected: str
):
    """The spelling of the model is kept, else the spelling with the smaller value."""
    cases, work = tmp_path / "cases", tmp_path / "work"
    work.mkdir()
    bodies = []
    for seed, value in ((1, 1), (2, 2)):
        image, labelmap = generated_case(seed)
        bodies.append(labelmap == 1)
        values = {"one": 1, "two": 2}
        name = tuple(values)[value - 1]
        only = bodies[-1] * np.uint8(value)
        append_case(cases, [Volume(image, GRID)], only, values, [name], f"case{seed}")
    one, two = spellings
    change_description(
        cases,
        labels={"background": 0, one: 1, two: 2},
        checked={"case1": [one], "case2": [two]},
    )
    own = task(base, cases, holdout=0)
    state = prepare(own, work, Clock(60.0, None, None))
    assert state.classes == (expected,)
    names = [label.name for label in own.labels_of(state)]
    assert names == ["Bright", "Dark"] + ["Lesion"] * (expected == "Lesion")
    for name, body in zip(("case1", "case2"), bodies, strict=True):
        labelmap = StoredArrays(work / CASES / name).read("labelmap")
        assert (labelmap == 1).sum() == body.sum() and labelmap.max() == 1


def test_from_small_images_nothing_is_learned_about_large_ones(base: Path, tmp_path: Path):
    cases, work = tmp_path / "cases", tmp_path / "work"
    work.mkdir()
    labels = {"Spot": 1, "Dark": 2}
    for seed, checked in ((1, ["Spot", "Dark"]), (2, ["Dark"])):
        image, labelmap = generated_case(seed, (8, 12, 13))
        append_case(cases, [Volume(image, GRID)], labelmap, labels, checked, f"case{seed}")
    state = prepare(task(base, cases, holdout=0), work, Clock(60.0, None, None))
    # "Dark" is a class of the model, "Spot" is new.
    assert state.classes == ("Spot", "Dark") and state.anchors == (2,)
    (tmp_path / "other").mkdir()
    spots = tmp_path / "spots"
    for seed, checked in ((1, ["Spot", "Rim"]), (2, ["Spot"])):
        image, labelmap = generated_case(seed, (8, 12, 13))
        values = {"Spot": 1, "Rim": 2}
        append_case(spots, [Volume(image, GRID)], labelmap, values, checked, f"case{seed}")
    state = prepare(task(base, spots, holdout=0), tmp_path / "other", Clock(60.0, None, None))
    assert state.anchors == ()
    # In a case without a checked rim, any other voxel may belong to the rim.
    stored = StoredArrays(tmp_path / "other" / CASES / "case2").read("labelmap")
    assert set(np.unique(stored)) == {1, 3}


@pytest.mark.parametrize(
    ("holdout", "expected"),
    [("auto", 1), (0, 0), (2, 2)],
)
def test_cases_are_held_out_as_chosen(
    base: Path, tmp_path: Path, holdout: str | int, expected: int
):
    cases, work = tmp_path / "cases", tmp_path / "work"
    work.mkdir()
    for seed in range(3):
        add(cases, seed, {"Bright": 1, "Dark": 2}, ["Bright"])
    state = prepare(task(base, cases, holdout=holdout), work, Clock(60.0, None, None))
    assert len(state.held_out) == expected
    assert sorted((*state.train, *state.held_out)) == ["case0", "case1", "case2"]


def test_a_file_names_the_held_out_cases(base: Path, tmp_path: Path):
    cases, work, file = tmp_path / "cases", tmp_path / "work", tmp_path / "split.json"
    work.mkdir()
    for seed in range(2):
        add(cases, seed, {"Bright": 1, "Dark": 2}, ["Bright"])
    file.write_text(json.dumps({"train": [], "val": ["case1"]}), encoding="utf-8")
    state = prepare(task(base, cases, holdout=file), work, Clock(60.0, None, None))
    assert state.train == ("case0",) and state.held_out == ("case1",)


def add_patients(folder: Path) -> None:
    """Add two cases of each of three patients."""
    for seed in range(6):
        image, labelmap = generated_case(seed)
        name = f"patient{seed // 2}_frame{seed % 2}"
        append_case(
            folder, [Volume(image, GRID)], labelmap, {"Bright": 1, "Dark": 2}, ["Bright"], name
        )


@pytest.mark.parametrize(("holdout", "expected"), [("auto", 2), (1, 2), (2, 2), (3, 2), (4, 4)])
def test_the_cases_of_a_patient_are_held_out_together(
    base: Path, tmp_path: Path, holdout: str | int, expected: int
):
    add_patients(tmp_path / "cases")
    (tmp_path / "work").mkdir()
    own = task(base, tmp_path / "cases", holdout=holdout, minutes=1e-3, steps=1)
    state = prepare(own, tmp_path / "work", Clock(1e-3, None, None))
    sides = [{name.split("_")[0] for name in side} for side in (state.train, state.held_out)]
    assert not sides[0] & sides[1] and len(state.held_out) == expected
    assert len(state.train) + expected == 6


def test_a_file_that_parts_the_cases_of_a_patient_is_refused(base: Path, tmp_path: Path):
    add_patients(tmp_path / "cases")
    file = tmp_path / "held.json"
    file.write_text(json.dumps(["patient1_frame0"]), encoding="utf-8")
    own = task(base, tmp_path / "cases", holdout=file)
    with pytest.raises(MaskSAMError, match=r"1 patient has cases .* 'patient1_frame0' in .*held"):
        prepare(own, tmp_path / "work", Clock(60.0, None, None))


@pytest.mark.parametrize("minutes", [60.0, 1e-6])
def test_cases_without_the_class_may_come_first(base: Path, tmp_path: Path, minutes: float):
    cases, work = tmp_path / "cases", tmp_path / "work"
    work.mkdir()
    for seed in range(9):
        image, labelmap = generated_case(seed)
        lesion = (labelmap == 1).astype(np.uint8) * (seed == 8)
        append_case(cases, [Volume(image, GRID)], lesion, {"Lesion": 1}, ["Lesion"], f"case{seed}")
    own = task(base, cases, holdout=0, steps=1)
    state = prepare(own, work, Clock(minutes, None, None))
    assert state.classes == ("Lesion",) and len(state.train) == 9 and state.anchors


class FindsBothBodies(Network):
    """A network that finds the bright and the dark body of generated volumes."""

    def __init__(self, window: tuple[int, int, int]) -> None:
        super().__init__(NetworkConfig(2, 1, window))

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, embedding: Tensor, prompts: object = None) -> ClassScores:
        values = embedding[:, 0]
        masks = [values.abs() < 2, values >= 2, values <= -2]
        return ClassScores(torch.stack(masks, 1).float())


def test_only_the_checked_classes_of_a_held_out_case_are_validated(base: Path, tmp_path: Path):
    cases, work, file = tmp_path / "cases", tmp_path / "work", tmp_path / "split.json"
    work.mkdir()
    both = ["Bright", "Dark"]
    for seed, checked in ((20, both), (21, both), (22, ["Bright"])):
        image, labelmap = generated_case(seed)
        if checked != both:
            labelmap[labelmap == 2] = 0
        labels = {"Bright": 1, "Dark": 2}
        append_case(cases, [Volume(image, GRID)], labelmap, labels, checked, f"case{seed}")
    for held_out, validated in ((["case22"], {"Bright"}), (["case21", "case22"], {*both})):
        file.write_text(json.dumps(held_out), encoding="utf-8")
        own = task(base, cases, holdout=file)
        state = prepare(own, work, Clock(60.0, None, None))
        network = FindsBothBodies(state.window)
        scores = held_out_evaluator(own, state, work / CASES).score(network, "cpu")
        assert set(scores.dice) == validated and min(scores.dice.values()) > 0.9


@pytest.mark.parametrize("corner", [(0, 1, 0), (11, 22, 26)])
def test_the_validated_part_of_a_case_is_a_window_at_the_border_too(
    base: Path, tmp_path: Path, corner: tuple[int, int, int]
):
    cases, work = tmp_path / "cases", tmp_path / "work"
    work.mkdir()
    add(cases, 1, {"Bright": 1, "Dark": 2}, ["Bright"])
    own = task(base, cases, holdout=0)
    state = prepare(own, work, Clock(60.0, None, None))
    labelmap = np.zeros((14, 26, 30), np.uint8)
    k, j, i = corner
    labelmap[k : k + 2, j : j + 3, i : i + 3] = 1
    prepared = PreparedCase(np.zeros((1, *labelmap.shape), np.float32), labelmap)
    case = indexed_case(own, state, "case1", prepared, None, True)
    assert case.reference is not None
    assert case.reference.shape == case.image.shape[1:] == state.window
    assert (case.reference == 1).sum() == 18


def test_every_case_is_preprocessed_once(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cases, work = tmp_path / "cases", tmp_path / "work"
    work.mkdir()
    for seed in range(4):
        add(cases, seed, {"Bright": 1, "Dark": 2}, ["Bright", "Dark"])
    own = task(base, cases, holdout=1, steps=1)
    expected = {name: own.prepared(own.load(name), UNDIVIDED) for name in own.corrections.checked}
    made = []

    def counted(*arguments: object):
        made.append(preprocess(*arguments))
        return made[-1]

    monkeypatch.setattr(adapt_task, "preprocess", counted)
    # In so little time only the first case is measured.
    state = prepare(own, work, Clock(1e-6, None, None))
    assert state.subdivision == UNDIVIDED and len(made) == len(expected) == 4
    for name in state.train:
        stored = StoredArrays(work / CASES / name)
        np.testing.assert_array_equal(stored.read("image"), expected[name].image)
        np.testing.assert_array_equal(stored.read("labelmap"), expected[name].labelmap)

"""Label schemes, read from the description of a labelmap dataset."""

from __future__ import annotations

import copy
import math

import pytest

from MaskSAMCore.data.label_scheme import read_scheme
from Testing.helpers.labelled_heads import DESCRIPTION, LABELS


def changed(**parts) -> dict:
    """Return the description of the generated heads with some keys replaced."""
    return {**copy.deepcopy(DESCRIPTION), **parts}


def test_labels_pair_by_their_names_and_merge_into_classes():
    scheme, problems = read_scheme(DESCRIPTION)
    assert not problems and scheme is not None
    assert scheme.classes == ("left side", "middle", "right side")
    assert scheme.class_values == (3, 14, 42)
    names = list(scheme.names)
    assert [names[scheme.mirrored[names.index(n)]] for n in ("left core", "middle", "skin")] == [
        "right core",
        "middle",
        "skin",
    ]
    assert scheme.targets[names.index("skin")] == 0
    assert [names[i] for i in scheme.surroundings] == ["skin"]
    assert scheme.tissues[names.index("left core")] == scheme.tissues[names.index("right core")]


def test_without_targets_every_label_is_a_class():
    scheme, _ = read_scheme({"labels": LABELS})
    assert scheme is not None and len(scheme.classes) == len(LABELS) - 1


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("Left-Thalamus", "Right-Thalamus"),
        ("thalamus_left", "thalamus_right"),
        ("LEFT A", "RIGHT A"),
        ("lobe, left upper", "lobe, right upper"),
    ],
)
def test_the_words_left_and_right_pair_labels(name: str, other: str):
    scheme, problems = read_scheme({"labels": {"background": 0, name: 1, other: 2, "rightful": 3}})
    assert not problems and scheme is not None and scheme.mirrored == (0, 2, 1, 3)


def test_a_contrast_covers_both_sides_and_leaves_other_labels_open():
    kinds = {"T1": {"left half": 0.8, "middle": 0}, "T2": {"right half": 0.3, "left half": 0.2}}
    scheme, problems = read_scheme({**DESCRIPTION, "contrasts": kinds})
    assert not problems and scheme is not None and scheme.description["contrasts"] == kinds
    one, two = (dict(zip(scheme.names, grey, strict=True)) for grey in scheme.contrasts)
    assert (one["left half"], one["right half"], one["middle"]) == (0.8, 0.8, 0)
    assert (two["left half"], two["right half"]) == (0.2, 0.3)
    assert math.isnan(one["skin"]) and math.isnan(two["middle"])
    plain, _ = read_scheme(DESCRIPTION)
    assert plain is not None and plain.contrasts == ()


def test_lesions_of_a_side_apply_to_the_other():
    scheme, _ = read_scheme(changed(lesions={"left half": "left core"}))
    assert scheme is not None
    lesion = {name: scheme.names[scheme.lesions[i]] for i, name in enumerate(scheme.names)}
    assert lesion["left half"] == "left core" and lesion["right half"] == "right core"
    assert lesion["middle"] == "middle"
    named, _ = read_scheme(
        changed(lesions={"right half": "left core", "left half": "middle", "middle": "left core"})
    )
    assert named is not None
    lesion = {name: named.names[named.lesions[i]] for i, name in enumerate(named.names)}
    assert (lesion["right half"], lesion["left half"]) == ("left core", "middle")
    assert lesion["middle"] == "left core"
    plain, _ = read_scheme(DESCRIPTION)
    assert plain is not None and plain.lesions == ()


def test_given_pairs_replace_the_words_in_names():
    labels = {"background": 0, "left atrium": 1, "right atrium": 2}
    scheme, _ = read_scheme({"labels": labels, "pairs": []})
    assert scheme is not None and not scheme.paired
    scheme, _ = read_scheme({"labels": {**labels, "odd": 3}, "pairs": [["left atrium", "odd"]]})
    assert scheme is not None and scheme.mirrored == (0, 3, 2, 1)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({}, "'labels' must map names"),
        (changed(labels={"background": 0, "a": 1, "b": 1}), "different values"),
        (changed(labels={"background": 0, "a": 1, "A": 2}), "'a' and 'A', which differ only"),
        (
            changed(targets=["left half", "nose"]),
            "'targets' has names that are not in 'labels': nose",
        ),
        (changed(targets={"all": ["background"]}), "class 'all' contains the background"),
        (changed(targets=[]), "'targets' must be a list"),
        (changed(targets={"middle": []}), "class 'middle' has no label"),
        (changed(targets={"a": ["middle"], "b": ["middle"]}), "'middle' is in two classes"),
        (
            changed(targets={"a": ["left half", "left core"], "b": ["right half"]}),
            "both sides alike",
        ),
        (changed(surroundings=["hat"]), "'surroundings' has names that are not in 'labels'"),
        (changed(pairs=[["left half"]]), "'pairs' must be"),
        (
            changed(pairs=[["left half", "right half"], ["left core", "right half"]]),
            "'pairs' has 'right half' twice: list each label in one pair",
        ),
        (changed(tissues=["left half"]), "tissues"),
        (changed(lesions=["middle"]), "'lesions' must map"),
        (changed(lesions={"middle": 3}), "'lesions' must map"),
        (changed(lesions={"middle": "background"}), "the background neither has lesions nor is"),
        (
            changed(lesions={"middle": "nose"}),
            "'lesions' has names that are not in 'labels': nose",
        ),
        (changed(contrasts=[0.5]), "'contrasts' must map"),
        (changed(contrasts={"T1": {"middle": 1.5}}), "'contrasts' must map"),
        (
            changed(contrasts={"T1": {"nose": 0.5}}),
            "'contrasts' has names that are not in 'labels': nose",
        ),
        (
            {"labels": {"background": 0, "left eye": 1}},
            "'left eye' but not its other side: name that label with the word 'right'",
        ),
    ],
)
def test_each_problem_of_a_description_has_a_message(description: dict, message: str):
    scheme, problems = read_scheme(description)
    assert scheme is None
    assert message in "; ".join(problems)

"""Datasets of label maps alone: what their labels are, and what is wrong with them, in words."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore import MaskSAMError
from MaskSAMCore.data.dataset import examine_dataset, load_cases, open_dataset
from MaskSAMCore.data.synthesis.label_scheme import read_scheme
from MaskSAMCore.geometry import reorient
from MaskSAMCore.labels import Label
from MaskSAMCore.resources import resources
from Testing.helpers.generated import write_dataset
from Testing.helpers.labelled_heads import DESCRIPTION, LABELS, head, write_label_maps
from Testing.helpers.paths import ROOT


def changed(**parts) -> dict:
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
def test_sides_are_told_by_a_word(name: str, other: str):
    scheme, problems = read_scheme({"labels": {"background": 0, name: 1, other: 2, "rightful": 3}})
    assert not problems and scheme is not None and scheme.mirrored == (0, 2, 1, 3)


def test_contrasts_hold_for_both_sides_and_leave_open_what_is_not_named():
    kinds = {"T1": {"left half": 0.8, "middle": 0}, "T2": {"right half": 0.3, "left half": 0.2}}
    scheme, problems = read_scheme({**DESCRIPTION, "contrasts": kinds})
    assert not problems and scheme is not None and scheme.description["contrasts"] == kinds
    one, two = (dict(zip(scheme.names, grey, strict=True)) for grey in scheme.contrasts)
    assert (one["left half"], one["right half"], one["middle"]) == (0.8, 0.8, 0)
    assert (two["left half"], two["right half"]) == (0.2, 0.3)
    assert math.isnan(one["skin"]) and math.isnan(two["middle"])
    plain, _ = read_scheme(DESCRIPTION)
    assert plain is not None and plain.contrasts == ()


def test_given_pairs_count_instead_of_names():
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
        (changed(targets=["left half", "nose"]), "'targets' names no label of 'labels': nose"),
        (changed(targets={"all": ["background"]}), "holds the background"),
        (changed(targets=[]), "'targets' must be a list"),
        (changed(targets={"a": ["middle"], "b": ["middle"]}), "'middle' is in two classes"),
        (
            changed(targets={"a": ["left half", "left core"], "b": ["right half"]}),
            "both sides alike",
        ),
        (changed(surroundings=["hat"]), "'surroundings' names no label"),
        (changed(pairs=[["left half"]]), "'pairs' must be"),
        (changed(tissues=["left half"]), "tissues"),
        (changed(contrasts=[0.5]), "'contrasts' must map"),
        (changed(contrasts={"T1": {"middle": 1.5}}), "'contrasts' must map"),
        (changed(contrasts={"T1": {"nose": 0.5}}), "'contrasts' names no label of 'labels': nose"),
        (
            {"labels": {"background": 0, "left eye": 1}},
            "'left eye' but not its other side: name that with the word 'right'",
        ),
    ],
)
def test_what_is_wrong_is_said(description: dict, message: str):
    scheme, problems = read_scheme(description)
    assert scheme is None
    assert message in "; ".join(problems)


def test_label_maps_become_cases_with_all_labels_and_the_classes(tmp_path: Path):
    dataset = open_dataset(write_label_maps(tmp_path, 2, DESCRIPTION))
    assert dataset.classes == ("left side", "middle", "right side") and dataset.scheme is not None
    for number, case in enumerate(load_cases(dataset, ["head_00", "head_01"])):
        labels = reorient(case.channels[0], "SAR").array
        np.testing.assert_array_equal(np.array(dataset.scheme.values)[labels], head(number))
        assert set(np.unique(case.label)) == {0, 1, 2, 3}


def test_a_file_beside_says_what_the_folder_does_not(tmp_path: Path):
    folder = write_label_maps(tmp_path / "maps", 2)
    with pytest.raises(MaskSAMError, match=r"no dataset.json: write one .* or give .* --targets"):
        open_dataset(folder)
    file = tmp_path / "labels.json"
    file.write_text(json.dumps(DESCRIPTION), encoding="utf-8")
    dataset, problems = examine_dataset(folder, file)
    assert not problems and len(dataset.cases) == 2
    assert (
        "no images: 3 classes are learned on images synthesised from 6 labels" in dataset.notes[0]
    )


def test_a_file_beside_a_dataset_with_images_is_refused(tmp_path: Path):
    folder = write_dataset(tmp_path / "images", 2)
    with pytest.raises(MaskSAMError, match="--targets is for label maps without images"):
        examine_dataset(folder, tmp_path / "labels.json")


def test_an_empty_folder_of_images_is_not_a_dataset_without_images(tmp_path: Path):
    folder = write_dataset(tmp_path, 2)
    for path in (folder / "imagesTr").iterdir():
        path.unlink()
    dataset = open_dataset(folder)
    assert dataset.scheme is None
    with pytest.raises(MaskSAMError, match="is missing"):
        load_cases(dataset, ["case_00"])


def test_no_label_maps_and_unknown_labels_are_told(tmp_path: Path):
    folder = tmp_path / "none"
    (folder / "labelsTr").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(DESCRIPTION), encoding="utf-8")
    with pytest.raises(MaskSAMError, match="no label map: labelsTr holds no"):
        open_dataset(folder)
    fewer = {name: value for name, value in LABELS.items() if name != "skin"}
    other = write_label_maps(tmp_path / "few", 1, {"labels": fewer})
    with pytest.raises(MaskSAMError, match=r"holds labels \[90\] that are in no class"):
        load_cases(open_dataset(other), ["head_00"])


def test_the_brain_models_labels_card_and_split_fit_together():
    description = json.loads((ROOT / "Docs/brain/labels.json").read_text(encoding="utf-8"))
    scheme, problems = read_scheme(description)
    assert not problems and scheme is not None and len(scheme.classes) == 29
    path = resources() / "Models/cards/brain.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    assert set(card["labels"]) == set(scheme.classes)
    labels = [Label.from_json({**card["labels"][n], "value": 1}) for n in scheme.classes]
    kinds = set()
    for label in labels:
        assert label.terminology is not None
        side = label.terminology.type_modifier
        assert (side.meaning.lower() if side else "") in ("", label.name.split()[0])
        kinds.add((label.terminology.type, side))
    assert len(kinds) == 29
    split = json.loads((ROOT / "Docs/brain/splits.json").read_text(encoding="utf-8"))
    assert len(split["train"]) == 14 and len(split["val"]) == 2
    assert not set(split["train"]) & set(split["val"])

"""Dice of classes that a reference lacks, by the rules of different papers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.evaluation import EMPTY_RULES, class_names, evaluate
from Testing.helpers.generated import write_image


def pair(folder: Path, name: str, predicted: list[int], known: list[int]) -> None:
    """Write a prediction and a reference with a voxel of each value."""
    for part, values in (("predictions", predicted), ("references", known)):
        array = np.zeros((2, 3, 4), np.uint8)
        array.flat[: len(values)] = values
        write_image(array, folder / part / f"{name}.nii.gz")


@pytest.mark.parametrize(
    ("rule", "neither", "predicted", "mean"),
    [
        ("nnunet", math.nan, 0.0, 0.5),
        ("nnformer", 1.0, 0.0, 2 / 3),
        ("transunet", 0.0, 1.0, 2 / 3),
    ],
)
def test_each_rule_counts_empty_references_in_its_way(
    tmp_path: Path, rule: str, neither: float, predicted: float, mean: float
):
    pair(tmp_path, "a", [1, 2], [1, 2])
    pair(tmp_path, "b", [1, 0], [1, 0])
    pair(tmp_path, "c", [1, 2], [1, 0])
    summary = evaluate(
        tmp_path / "predictions", tmp_path / "references", surfaces=False, empty=rule
    )
    cases = [case["metrics"]["2"] for case in summary["metric_per_case"]]
    assert cases[1]["Dice"] == pytest.approx(neither, nan_ok=True)
    assert cases[2]["Dice"] == predicted
    assert summary["mean"]["2"]["Dice"] == pytest.approx(mean)
    assert summary["mean"]["1"]["Dice"] == 1


@pytest.mark.parametrize("rule", EMPTY_RULES)
def test_a_missed_class_counts_zero_by_every_rule(tmp_path: Path, rule: str):
    pair(tmp_path, "a", [1, 0], [1, 2])
    summary = evaluate(
        tmp_path / "predictions", tmp_path / "references", surfaces=False, empty=rule
    )
    assert summary["mean"]["2"]["Dice"] == 0


def test_names_of_classes_come_from_the_dataset_of_the_references(tmp_path: Path):
    references = tmp_path / "labelsTs"
    references.mkdir()
    assert class_names(references) == {}
    file = tmp_path / "dataset.json"
    for content in ("{", "[]", '{"labels": {"a": [1, 2]}}'):
        file.write_text(content, encoding="utf-8")
        assert class_names(references) == {}
    file.write_text('{"labels": {"background": 0, "liver": 1}}', encoding="utf-8")
    assert class_names(references) == {0: "background", 1: "liver"}

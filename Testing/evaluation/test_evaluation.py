"""Metrics compared with SimpleITK's and with values calculated by hand."""

from __future__ import annotations

import gc
import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.evaluation import (
    dice_scores,
    evaluate,
    overlap_metrics,
    read_summary,
    summarize,
    surface_metrics,
    write_summary,
)
from MaskSAMCore.geometry import Volume
from MaskSAMCore.io import write_labelmap
from MaskSAMCore.labels import Label
from Testing.helpers.generated import generated_case, write_image
from Testing.helpers.json_documents import changed, read_or_refuse
from Testing.helpers.threshold_model import GEOMETRIES


@pytest.mark.parametrize("seed", range(4))
def test_overlap_metrics_equal_those_of_simpleitk(seed: int):
    random = np.random.default_rng(seed)
    a, b = random.random((2, 9, 11, 13)) > 0.7
    ours = overlap_metrics(a, b)
    theirs = sitk.LabelOverlapMeasuresImageFilter()
    theirs.Execute(*(sitk.GetImageFromArray(m.astype(np.uint8)) for m in (a, b)))
    assert ours["Dice"] == pytest.approx(theirs.GetDiceCoefficient(1))
    assert ours["IoU"] == pytest.approx(theirs.GetJaccardCoefficient(1))
    assert ours["FN"] / ours["n_ref"] == pytest.approx(
        theirs.GetFalseNegativeError(1), abs=1e-9
    ) or (ours["FP"] / ours["n_ref"] == pytest.approx(theirs.GetFalseNegativeError(1), abs=1e-9))
    assert ours["TP"] + ours["FP"] + ours["FN"] + ours["TN"] == a.size
    assert (ours["n_pred"], ours["n_ref"]) == (a.sum(), b.sum())


def test_dice_is_nan_for_two_empty_masks_and_zero_for_one():
    empty, full = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    assert math.isnan(overlap_metrics(empty, empty)["Dice"])
    assert overlap_metrics(empty, full)["Dice"] == 0
    assert overlap_metrics(full, full)["Dice"] == 1
    assert math.isnan(surface_metrics(empty, empty, (1, 1, 1))["hd95_mm"])
    one_sided = surface_metrics(empty, full, (1, 1, 1))
    assert one_sided == {"surface_dice_1mm": 0.0, "hd95_mm": math.inf}


def test_the_dice_of_all_values_equals_that_of_each_mask():
    random = np.random.default_rng(0)
    found, known = random.choice([0, 1, 3, 7, 300], (2, 9, 11, 13)).astype(np.uint16)
    known[known == 7] = 0
    scores = dice_scores(found, known, [1, 2, 3, 7])
    each = [overlap_metrics(found == v, known == v)["Dice"] for v in (1, 2, 3, 7)]
    np.testing.assert_allclose(scores, each)
    assert math.isnan(scores[1]) and scores[3] == 0


def block(shift: int = 0) -> np.ndarray:
    mask = np.zeros((24, 24, 24), bool)
    mask[6 + shift : 14 + shift, 6:14, 6:14] = True
    return mask


def test_distances_are_in_millimetres_on_anisotropic_grids():
    # The block is moved by two slices of 2.5 mm.
    moved = surface_metrics(block(2), block(), (2.5, 1.0, 0.5))
    assert moved["hd95_mm"] == pytest.approx(5.0)
    same = surface_metrics(block(), block(), (2.5, 1.0, 0.5))
    assert same == {"surface_dice_1mm": pytest.approx(1.0), "hd95_mm": pytest.approx(0.0)}


def test_surface_dice_tolerates_at_most_one_millimetre():
    near = surface_metrics(block(1), block(), (0.9, 1.0, 1.0))["surface_dice_1mm"]
    far = surface_metrics(block(1), block(), (3.0, 1.0, 1.0))["surface_dice_1mm"]
    assert near == pytest.approx(1.0)
    assert far < 0.9
    beyond = surface_metrics(block(1), block(), (1.25, 1.0, 1.0))["surface_dice_1mm"]
    assert beyond < 0.9


def test_a_stray_voxel_counts_in_the_overlap_but_not_in_the_distance_of_95_percent():
    stray = block()
    stray[20, 20, 20] = True
    found = surface_metrics(stray, block(), (1.0, 1.0, 1.0))
    assert found["hd95_mm"] < 1
    assert 0.95 < found["surface_dice_1mm"] < 1


def test_surfaces_do_not_depend_on_the_background_around_them():
    moved, reference = block(1), block()
    near = slice(4, 17), slice(4, 16), slice(4, 16)
    for steps in ((1.0, 1.0, 1.0), (2.5, 1.0, 0.5)):
        whole = surface_metrics(moved, reference, steps)
        assert surface_metrics(moved[near], reference[near], steps) == pytest.approx(whole)


def test_the_mean_over_the_foreground_is_that_of_the_classes_not_of_the_cases():
    cases = [{"metrics": {"1": {"Dice": 0.5}, "2": {"Dice": math.nan}}}] * 3
    cases += [{"metrics": {"1": {"Dice": 0.5}, "2": {"Dice": 0.9}}}]
    assert summarize(cases, ["1", "2"])["foreground_mean"]["Dice"] == pytest.approx(0.7)
    nowhere = [{"metrics": {"1": {"Dice": 0.8}, "2": {"Dice": math.nan}}}]
    summary = summarize(nowhere, ["1", "2"])
    assert math.isnan(summary["mean"]["2"]["Dice"])
    assert summary["foreground_mean"]["Dice"] == pytest.approx(0.8)


def test_a_summary_has_the_form_of_nnunet_and_means_without_nan(tmp_path: Path):
    cases = [
        {"metrics": {"1": {"Dice": 0.5}, "2": {"Dice": math.nan}}},
        {"metrics": {"1": {"Dice": 0.7}, "2": {"Dice": 0.9}}},
    ]
    summary = summarize(cases, ["1", "2"])
    assert summary["mean"]["1"]["Dice"] == pytest.approx(0.6)
    assert summary["mean"]["2"]["Dice"] == pytest.approx(0.9)
    assert summary["foreground_mean"]["Dice"] == pytest.approx(0.75)
    assert set(summary) == {"foreground_mean", "mean", "metric_per_case"}
    write_summary(summary, tmp_path / "summary.json")
    again = read_summary(tmp_path / "summary.json")
    assert math.isnan(again["metric_per_case"][0]["metrics"]["2"]["Dice"])


def write_pair(folder: Path, name: str, spacing=(1.0, 1.0, 2.0)) -> None:
    _, label = generated_case(0)
    write_image(label, folder / "references" / f"{name}.nii.gz", spacing=spacing)
    moved = np.roll(label, 1, axis=2)
    write_image(moved, folder / "predictions" / f"{name}.nii.gz", spacing=spacing)


def test_folders_are_compared_by_case_name(tmp_path: Path):
    for name in ("a", "b"):
        write_pair(tmp_path, name)
    write_image(generated_case(1)[1], tmp_path / "references" / "unused.nii.gz")
    summary = evaluate(tmp_path / "predictions", tmp_path / "references")
    assert [c["prediction_file"] for c in summary["metric_per_case"]] == ["a.nii.gz", "b.nii.gz"]
    assert set(summary["mean"]) == {"1", "2"}
    assert 0.6 < summary["foreground_mean"]["Dice"] < 1
    assert summary["foreground_mean"]["surface_dice_1mm"] > 0.9
    keys = set(summary["mean"]["1"])
    assert {"Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref"} <= keys
    json.dumps(summary)


def test_a_value_that_only_some_cases_have_is_measured_in_all(tmp_path: Path):
    """One case lacks value 44 in both files, and another one in the reference only."""
    with_one = np.zeros((4, 5, 6), np.uint8)
    with_one[1:3, 1:3, 1:3] = 1
    with_both = with_one.copy()
    with_both[0, 0, 0] = 44
    for name, prediction, reference in (
        ("a", with_one, with_one),
        ("b", with_both, with_one),
        ("c", with_both, with_both),
    ):
        write_image(prediction, tmp_path / "predictions" / f"{name}.nii.gz")
        write_image(reference, tmp_path / "references" / f"{name}.nii.gz")
    summary = evaluate(tmp_path / "predictions", tmp_path / "references", surfaces=False)
    absent, invented, right = (c["metrics"]["44"] for c in summary["metric_per_case"])
    assert math.isnan(absent["Dice"])
    assert (absent["TN"], absent["n_pred"], absent["n_ref"]) == (120, 0, 0)
    assert (invented["Dice"], invented["FP"], right["Dice"]) == (0, 1, 1)
    assert summary["mean"]["44"]["Dice"] == 0.5
    chosen = evaluate(tmp_path / "predictions", tmp_path / "references", [0, 1], False)
    assert chosen["mean"]["0"]["n_ref"] == pytest.approx(120 - 8 - 1 / 3)
    assert list(chosen["mean"]) == ["0", "1"]


def write_segments(path: Path, labelmap: np.ndarray, values: dict[str, int]) -> None:
    """Write a labelmap with its values 1, 2, ... replaced by those of the names, in order."""
    changed = np.array([0, *values.values()], np.uint8)[labelmap]
    labels = [Label(value, name, (1.0, 0.0, 0.0)) for name, value in values.items()]
    path.parent.mkdir(exist_ok=True)
    write_labelmap(changed, Volume(changed, np.diag([1.0, 1.0, 2.0, 1.0])), path, labels)


@pytest.mark.parametrize("ending", [".seg.nrrd", ".nii.gz"])
def test_segments_are_compared_by_their_names(ending: str, tmp_path: Path):
    """3D Slicer numbers segments by their order, so values differ from file to file."""
    predictions, references = tmp_path / "predictions", tmp_path / "labelsTr"
    for name, of_prediction, of_reference in (
        ("a", {"Left": 2, "right": 1, "more": 3}, {"left": 7, "Right": 9}),
        ("b", {"Left": 9, "right": 2, "more": 7}, {"Right": 1, "left": 2}),
    ):
        label = generated_case(0)[1]
        label[0, 0, :2] = (0, 3)
        write_segments(predictions / f"{name}.seg.nrrd", label, of_prediction)
        label[0, 0, 1] = 0
        if ending == ".nii.gz":
            write_segments(references / f"{name}{ending}", label, {"left": 7, "Right": 9})
        elif name == "a":
            write_segments(references / f"{name}{ending}", label, of_reference)
        else:
            swapped = np.array([0, 2, 1], np.uint8)[label]
            write_segments(references / f"{name}{ending}", swapped, of_reference)
    if ending == ".nii.gz":
        known = {"labels": {"background": 0, "left": 7, "Right": 9}}
        (tmp_path / "dataset.json").write_text(json.dumps(known), encoding="utf-8")
    summary = evaluate(predictions, references, surfaces=False)
    assert summary["labels"] == {"7": "left", "9": "Right"}
    assert {value: mean["Dice"] for value, mean in summary["mean"].items()} == {"7": 1, "9": 1}
    (predictions / "b.seg.nrrd").unlink()
    write_segments(predictions / "b.seg.nrrd", label, {"liver": 7, "spleen": 9})
    with pytest.raises(MaskSAMError, match=r"b\.seg\.nrrd \(liver, spleen\).*rename them"):
        evaluate(predictions, references, surfaces=False)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("side", ["predictions", "references"])
def test_segments_may_be_cropped_to_their_voxels(geometry: str, side: str, tmp_path: Path):
    """3D Slicer can crop a file to the extent of its segments."""
    matrix, rng = GEOMETRIES[geometry], np.random.default_rng(3)
    label = np.zeros((9, 8, 7), np.uint8)
    label[2:6, 3:7, 1:5] = rng.integers(0, 2, (4, 4, 4))
    other = np.where(rng.random(label.shape) < 0.1, 1, label).astype(np.uint8)
    part = (slice(2, 7), slice(2, 8), slice(1, 5))
    inside = np.zeros(label.shape, bool)
    inside[part] = True
    cropped, whole = np.where(inside, label, 0), other
    moved = matrix.copy()
    moved[:3, 3] = (matrix @ [1, 2, 2, 1])[:3]
    names = [Label(1, "spleen", (1.0, 0.0, 0.0))]
    for name in ("predictions", "references"):
        (tmp_path / name).mkdir()
        array, grid = (label[part], moved) if name == side else (whole, matrix)
        write_labelmap(array, Volume(array, grid), tmp_path / name / "a.seg.nrrd", names)
    summary = evaluate(tmp_path / "predictions", tmp_path / "references")
    (metrics,) = summary["metric_per_case"][0]["metrics"].values()
    pair = (cropped == 1, whole == 1) if side == "predictions" else (whole == 1, cropped == 1)
    spacing = tuple(reversed(Volume(label, matrix).spacing))
    expected = {**overlap_metrics(*pair), **surface_metrics(*pair, spacing)}
    assert metrics == pytest.approx(expected)


@pytest.mark.parametrize("shift", [(0.3, 0.0, 0.0), (50.0, 0.0, 0.0)])
def test_segments_on_other_voxels_are_refused(shift: tuple[float, float, float], tmp_path: Path):
    label = np.ones((3, 4, 5), np.uint8)
    names = [Label(1, "spleen", (1.0, 0.0, 0.0))]
    for name, place in (("a", (0.0, 0.0, 0.0)), ("b", shift)):
        matrix = np.eye(4)
        matrix[:3, 3] = place
        write_labelmap(label, Volume(label, matrix), tmp_path / f"{name}.seg.nrrd", names)
    with pytest.raises(MaskSAMError, match="does not lie on the grid of"):
        evaluate(tmp_path / "a.seg.nrrd", tmp_path / "b.seg.nrrd")


def test_labelmaps_without_segments_are_not_taken_for_cropped_ones(tmp_path: Path):
    label = np.ones((3, 4, 5), np.uint8)
    write_labelmap(label, Volume(label, np.eye(4)), tmp_path / "a.nii.gz", [])
    part = label[:, 1:]
    matrix = np.eye(4)
    matrix[1, 3] = 1
    write_labelmap(part, Volume(part, matrix), tmp_path / "b.nii.gz", [])
    with pytest.raises(MaskSAMError, match="does not lie on the grid of"):
        evaluate(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")


def test_segments_whose_names_differ_only_in_case_are_refused(tmp_path: Path):
    label = generated_case(0)[1]
    for side, names in (("predictions", {"L": 2, "l": 1}), ("references", {"L": 1, "l": 2})):
        write_segments(tmp_path / side / "a.seg.nrrd", label, names)
    with pytest.raises(MaskSAMError, match=r"'L' and 'l' of .* rename one"):
        evaluate(tmp_path / "predictions", tmp_path / "references", surfaces=False)


def test_segments_without_names_of_references_keep_their_values(tmp_path: Path):
    label = generated_case(0)[1]
    write_segments(tmp_path / "predictions" / "a.seg.nrrd", label, {"left": 2, "right": 1})
    write_segments(tmp_path / "references" / "a.nii.gz", label, {"left": 2, "right": 1})
    summary = evaluate(tmp_path / "predictions", tmp_path / "references", surfaces=False)
    assert summary["foreground_mean"]["Dice"] == 1
    assert summary["labels"] == {"2": "left", "1": "right"}


@pytest.mark.parametrize(
    "later",
    [{"tumour": 2, "oedema": 1}, {"oedema": 1}, {"Tumour": 3}],
    ids=["swapped", "new", "moved"],
)
def test_names_of_predictions_alone_need_one_value_each(later: dict[str, int], tmp_path: Path):
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    label = (generated_case(0)[1] > 0).astype(np.uint8)
    for name, names in (("a", {"tumour": 1}), ("b", later)):
        write_segments(predictions / f"{name}.seg.nrrd", label, names)
        write_segments(references / f"{name}.nii.gz", label, {"tumour": 2})
    with pytest.raises(MaskSAMError, match=r"b\.seg\.nrrd has the value .*dataset\.json"):
        evaluate(predictions, references, surfaces=False)


def test_predictions_of_different_classes_are_compared_by_value(tmp_path: Path):
    label = (generated_case(0)[1] > 0).astype(np.uint8)
    for name, names in (("a", {"liver": 1}), ("b", {"spleen": 2})):
        write_segments(tmp_path / "predictions" / f"{name}.seg.nrrd", label, names)
        write_segments(tmp_path / "references" / f"{name}.nii.gz", label, names)
    summary = evaluate(tmp_path / "predictions", tmp_path / "references", surfaces=False)
    assert summary["labels"] == {"1": "liver", "2": "spleen"}
    assert summary["foreground_mean"]["Dice"] == 1


def test_memory_does_not_grow_with_the_number_of_cases(tmp_path: Path):
    label = np.zeros((64, 64, 64), np.uint16)
    label[20:40, 20:40, 20:40] = 1

    def peak(cases: int) -> int:
        for side in ("predictions", "references"):
            for number in range(cases):
                write_image(label, tmp_path / str(cases) / side / f"{number}.mha")
        gc.collect()
        tracemalloc.start()
        try:
            folder = tmp_path / str(cases)
            evaluate(folder / "predictions", folder / "references", surfaces=False)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # Modules that are imported on the way take memory too.
    few, many = peak(2), peak(8)
    assert many < few + label.size
    # The bound has room for two one-byte labelmaps, as read and as compared, and for their masks.
    assert many < 12 * label.size


def test_a_file_with_negative_values_is_not_a_labelmap(tmp_path: Path):
    label = generated_case(0)[1].astype(np.float32)
    write_image(label, tmp_path / "a.nii.gz")
    write_image(label + np.float32(1e-3), tmp_path / "nearly.nii.gz")
    write_image(-label, tmp_path / "negative.nii.gz")
    good = evaluate(tmp_path / "nearly.nii.gz", tmp_path / "a.nii.gz", surfaces=False)
    assert good["foreground_mean"]["Dice"] == 1
    with pytest.raises(MaskSAMError, match=r"negative\.nii\.gz is not a labelmap: .* from -2 to 0"):
        evaluate(tmp_path / "negative.nii.gz", tmp_path / "a.nii.gz")


def test_files_that_cannot_be_compared_are_refused(tmp_path: Path):
    write_pair(tmp_path, "a")
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    write_image(generated_case(0)[1], references / "a.nii.gz", spacing=(1.0, 1.0, 3.0))
    with pytest.raises(MaskSAMError, match="does not lie on the grid"):
        evaluate(predictions, references)
    (references / "a.nii.gz").unlink()
    with pytest.raises(MaskSAMError, match="has no reference of its name"):
        evaluate(predictions, references)
    with pytest.raises(MaskSAMError, match="does not exist"):
        evaluate(predictions, tmp_path / "none")
    with pytest.raises(MaskSAMError, match="not one of each"):
        evaluate(predictions / "a.nii.gz", references)


_SUMMARY = summarize([{"metrics": {"1": overlap_metrics(block(), block(1))}}], ["1"])


@settings(max_examples=40, deadline=None)
@given(document=changed(_SUMMARY))
def test_any_summary_is_read_or_refused(document: object, tmp_path_factory: pytest.TempPathFactory):
    read_or_refuse(document, tmp_path_factory.getbasetemp() / "any-summary.json", read_summary)

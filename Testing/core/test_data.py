"""Datasets, plans, preprocessing, augmentation: what reaches the network."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from MaskSAMCore.data import ChannelNormalization, Plan, Prepared, preprocess
from MaskSAMCore.data.augmentation import augment, build_augmentation
from MaskSAMCore.data.dataset import load_cases, open_dataset, split_cases
from MaskSAMCore.data.planning import case_fingerprint, make_plan
from MaskSAMCore.data.sampling import WindowDataset, cut
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume

from .generated import generated_case, write_dataset, write_image

RAS = np.diag([1.0, 1.0, 1.0, 1.0])


def plan_of(**changes: object) -> Plan:
    values = {
        "orientation": "SAR",
        "spacing": (1.0, 1.0, 1.0),
        "window": (8, 16, 16),
        "normalization": (ChannelNormalization(),),
        "channels": ("MR",),
    }
    return Plan(**{**values, **changes})  # type: ignore[arg-type]


# Dataset folders


def test_a_dataset_folder_is_read_as_it_is(tmp_path: Path):
    dataset = open_dataset(write_dataset(tmp_path, cases=3, channels=2))
    assert dataset.channels == ("MR0", "MR1")
    assert dataset.classes == ("Bright", "Dark")
    assert [case.name for case in dataset.cases] == ["case_00", "case_01", "case_02"]
    case = load_cases(dataset, ["case_01"])[0]
    assert len(case.channels) == 2
    assert set(np.unique(case.label)) == {0, 1, 2}
    assert case.channels[0].spacing == pytest.approx((1, 1, 2))


def test_all_problems_come_in_one_report_before_work_begins(tmp_path: Path):
    folder = write_dataset(tmp_path, cases=6)
    (folder / "imagesTr/case_00_0000.nii.gz").unlink()
    (folder / "imagesTr/case_01_0000.nii.gz").write_bytes(b"no image at all")
    image, label = generated_case(2)
    write_image(image[:-1], folder / "imagesTr/case_02_0000.nii.gz")
    write_image(label + 3, folder / "labelsTr/case_03.nii.gz")
    write_image(label * 0.5, folder / "labelsTr/case_04.nii.gz")
    dataset = open_dataset(folder)
    names = [case.name for case in dataset.cases]
    with pytest.raises(MaskSAMError, match="nothing was started") as report:
        load_cases(dataset, names)
    message = str(report.value)
    for part in (
        "imagesTr/case_00_0000.nii.gz is missing",
        "case_01_0000.nii.gz",
        "labelsTr/case_02.nii.gz is not on the grid of case_02_0000.nii.gz",
        "labelsTr/case_03.nii.gz holds labels [3, 4, 5] that are in no class",
        "labelsTr/case_04.nii.gz holds values that are no integers",
    ):
        assert part in message
    assert "case_05" not in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "'labels' is missing"),
        ({"labels": {"background": 0}}, "a class beside the background"),
        ({"labels": {"background": 0, "a": [1, 2]}}, "regions are not supported"),
        ({"labels": {"a": 1}}, "from 0"),
        ({"channel_names": {"1": "MR"}}, "channel_names"),
        ({"file_ending": "nii"}, "file_ending"),
    ],
)
def test_a_wrong_dataset_json_is_told_in_words(tmp_path: Path, change: dict, message: str):
    folder = write_dataset(tmp_path, cases=2)
    description = json.loads((folder / "dataset.json").read_text())
    description.update(change)
    description = {k: v for k, v in description.items() if v is not None}
    (folder / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(MaskSAMError, match=message):
        open_dataset(folder)


def test_a_folder_that_is_no_dataset_says_so(tmp_path: Path):
    with pytest.raises(MaskSAMError, match="no dataset folder"):
        open_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(MaskSAMError, match="cannot be read as JSON"):
        open_dataset(tmp_path)


def test_label_values_of_a_dataset_become_consecutive_classes(tmp_path: Path):
    folder = write_dataset(tmp_path, cases=2)
    _, label = generated_case(0)
    write_image(label.astype(np.float32) * 10, folder / "labelsTr/case_00.nii.gz")
    description = json.loads((folder / "dataset.json").read_text())
    description["labels"] = {"Dark": 20, "background": 0, "Bright": 10}
    (folder / "dataset.json").write_text(json.dumps(description))
    dataset = open_dataset(folder)
    assert dataset.classes == ("Bright", "Dark")
    np.testing.assert_array_equal(load_cases(dataset, ["case_00"])[0].label, label)


def test_splits_come_from_a_file_or_a_fixed_shuffle(tmp_path: Path):
    dataset = open_dataset(write_dataset(tmp_path / "data", cases=6))
    first = split_cases(dataset, None)
    assert first == split_cases(dataset, None)
    assert len(first["val"]) == 2
    assert sorted(first["train"] + first["val"]) == [case.name for case in dataset.cases]
    file = tmp_path / "splits.json"
    file.write_text(json.dumps({"train": ["case_00"], "val": ["case_01"], "test": ["case_02"]}))
    assert split_cases(dataset, file) == {"train": ["case_00"], "val": ["case_01"]}
    file.write_text(json.dumps([{"train": ["case_03"], "val": ["case_04"]}]))
    assert split_cases(dataset, file)["train"] == ["case_03"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["case_00"]}, "needs lists"),
        ({"train": ["case_00"], "val": ["nobody"]}, "not in the dataset"),
        ({"train": ["case_00"], "val": ["case_00"]}, "both sides"),
        ({"train": [], "val": ["case_00"]}, "empty"),
    ],
)
def test_a_wrong_split_is_refused(tmp_path: Path, content: dict, message: str):
    dataset = open_dataset(write_dataset(tmp_path / "data", cases=2))
    file = tmp_path / "splits.json"
    file.write_text(json.dumps(content))
    with pytest.raises(MaskSAMError, match=message):
        split_cases(dataset, file)


# Windows


def test_a_cut_is_filled_where_it_reaches_outside():
    array = np.arange(27).reshape(3, 3, 3)
    part = cut(array, (0, 1, 1), (4, 3, 3), -1)
    assert (part[:2] == -1).all()
    np.testing.assert_array_equal(part[2:], array[:2])


def test_without_augmentation_a_window_is_the_image_itself():
    image = np.random.default_rng(0).normal(size=(1, 12, 24, 24)).astype(np.float32)
    label = (image[0] > 0).astype(np.uint8)
    transforms = build_augmentation((8, 16, 16), (1.0, 1.0, 1.0), 0.0, ())
    window, labels = augment(transforms, image, label)
    np.testing.assert_allclose(window.numpy(), image[:, 2:10, 4:20, 4:20], atol=1e-5)
    np.testing.assert_array_equal(labels.numpy(), label[2:10, 4:20, 4:20])


def test_augmentation_moves_labels_with_their_image():
    label = np.zeros((12, 24, 24), np.uint8)
    label[3:9, 6:16, 8:20] = 1
    image = label[None].astype(np.float32)
    transforms = build_augmentation((8, 16, 16), (1.0, 1.0, 1.0), 1.0, (0,))
    np.random.seed(0)
    agreement = []
    for _ in range(20):
        window, labels = augment(transforms, image, label)
        inside, outside = window[0][labels == 1], window[0][labels == 0]
        if inside.numel() and outside.numel():
            agreement.append(float(inside.mean() - outside.mean()))
    assert np.mean(agreement) > 0.5


def prepared_cases() -> list[Prepared]:
    plan = plan_of()
    cases = []
    for seed in range(2):
        image, label = generated_case(seed)
        cases.append(preprocess([Volume(image, RAS)], plan, label))
    return cases


def test_windows_are_drawn_without_end_and_repeat_with_their_seed():
    def draw(seed: int) -> list[np.ndarray]:
        torch.manual_seed(seed)
        windows = WindowDataset(prepared_cases(), plan_of(), 1.0, (0,), 0.33, seed)
        return [x.numpy() for x, _ in itertools.islice(windows, 4)]

    first = draw(1)
    assert first[0].shape == (1, 8, 16, 16)
    assert all(np.isfinite(x).all() for x in first)
    assert all((a == b).all() for a, b in zip(first, draw(1), strict=True))
    assert any((a != b).any() for a, b in zip(first, draw(2), strict=True))


def test_a_share_of_the_windows_is_centred_on_foreground():
    image = np.zeros((1, 64, 64, 64), np.float32)
    label = np.zeros((64, 64, 64), np.uint8)
    label[50, 50, 50] = 1
    case = [Prepared(image, label)]
    plan = plan_of(window=(8, 8, 8))

    def share(wanted: float) -> float:
        windows = WindowDataset(case, plan, 0.0, (), wanted, 0)
        return float(np.mean([bool((y > 0).any()) for _, y in itertools.islice(windows, 60)]))

    assert share(1.0) == 1.0
    assert share(0.0) < 0.2


def test_each_worker_process_draws_its_own_windows():
    windows = WindowDataset(prepared_cases(), plan_of(), 1.0, (0,), 0.33, 0)
    loader = DataLoader(windows, 1, num_workers=2, multiprocessing_context="spawn")
    first, second = (x.numpy() for x, _ in itertools.islice(loader, 2))
    assert (first != second).any()


def test_the_hippocampus_data_are_planned_from_their_training_cases():
    folder = Path(__file__).resolve().parents[3] / "shared/data/Dataset004_Hippocampus"
    if not folder.is_dir():
        pytest.skip("the hippocampus data are not beside this checkout")
    dataset = open_dataset(folder)
    split = split_cases(dataset, folder / "splits.json")
    assert (len(split["train"]), len(split["val"])) == (165, 18)
    cases = load_cases(dataset, split["train"][:8])
    prints = [case_fingerprint(c.channels, c.label, n) for n, c in enumerate(cases)]
    plan = make_plan(prints, dataset.channels, 4, (16, 40, 56), "RSA")
    assert plan.spacing == pytest.approx((1, 1, 1))
    assert plan.window == (16, 40, 52)
    prepared = preprocess(cases[0].channels, plan, cases[0].label)
    assert prepared.label is not None
    # Depth towards right, rows superior, columns anterior: the head lies in front of the body.
    head, body = (np.argwhere(prepared.label == value).mean(0) for value in (1, 2))
    assert head[2] > body[2]

"""The bundled hippocampus model, on the MNI152 head of nilearn and on real validation volumes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from MaskSAMCore import Box, Volume, read_boxes, read_volume
from MaskSAMCore.data.dataset import LabelledCase, load_cases, open_dataset
from MaskSAMCore.geometry import box_on_grid, crop
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.resources import resources
from Testing.benchmarks.prompts import (
    AuxiliaryOnly,
    NotHeld,
    WholeWindow,
    engine_of,
    grown,
    measure,
    slice_boxes,
    whole_boxes,
)
from Testing.helpers.paths import ROOT, SHARED_DATA


@pytest.fixture(scope="module")
def segmenter() -> MaskSegmenter:
    return MaskSegmenter.from_model("hippocampus", device="cpu")


def test_the_bundle_is_small_and_states_its_labels_data_and_licence():
    folder = resources() / "Models" / "hippocampus"
    assert sum(p.stat().st_size for p in folder.iterdir()) < 25e6
    card = json.loads((folder / "masksam.json").read_text(encoding="utf-8"))
    assert [label["name"] for label in card["labels"]] == ["Anterior", "Posterior"]
    for label in card["labels"]:
        assert label["terminology"]["type"]["value"] == "5366008"
    (data,) = card["card"]["training_data"]
    assert data["licence"] == "CC-BY-SA-4.0"
    assert "Vanderbilt" in data["attribution"]
    assert "not for diagnosis" in card["card"]["intended_use"]


def test_the_demo_finds_one_plausible_hippocampus_on_each_side(demo: Path):
    """An adult hippocampus has about 2 to 5 ml; the right one lies at positive R, and the head of
    each lies anterior to its body."""
    volume = read_volume(demo / "hippocampi.nii.gz")
    voxels = np.argwhere(volume.array > 0)[:, ::-1]
    right = (voxels @ volume.ijk_to_ras[:3, :3].T + volume.ijk_to_ras[:3, 3])[:, 0] > 0
    ml = np.prod(volume.spacing) / 1000
    for side in (right, ~right):
        assert 1.5 < side.sum() * ml < 6.0
    assert set(np.unique(volume.array)) == {0, 1, 2, 3, 4}
    for anterior, posterior in ((1, 2), (3, 4)):
        head, body = (
            (np.argwhere(volume.array == v)[:, ::-1] @ volume.ijk_to_ras[:3, :3].T).mean(0)
            for v in (anterior, posterior)
        )
        assert head[1] > body[1] + 5
        both = np.isin(volume.array, (anterior, posterior))
        parts, count = ndimage.label(both, np.ones((3, 3, 3)))
        largest = np.bincount(parts.ravel())[1:].max()
        assert largest > 0.95 * both.sum(), f"{count} parts"


def test_the_demo_writes_named_segments_with_codes_for_slicer(demo: Path):
    names = {p.name for p in demo.iterdir()}
    assert names == {
        "mni152_t1.nii.gz",
        "brain.nii.gz",
        "brain.seg.nrrd",
        "brain.png",
        "hippocampi.nii.gz",
        "hippocampi.seg.nrrd",
        "hippocampi.png",
    }
    image = sitk.ReadImage(str(demo / "hippocampi.seg.nrrd"))
    found = [image.GetMetaData(f"Segment{n}_Name") for n in range(4)]
    assert found == ["Left anterior", "Left posterior", "Right anterior", "Right posterior"]
    assert "SCT^5366008^Hippocampus" in image.GetMetaData("Segment0_Tags")
    image = sitk.ReadImage(str(demo / "brain.seg.nrrd"))
    found = {image.GetMetaData(f"Segment{n}_Name") for n in range(31)}
    assert {"left hippocampus", "right cerebral cortex", "brain stem"} <= found


def test_the_demos_pictures_show_every_structure_in_its_colour(demo: Path):
    for name, count in (("brain", 31), ("hippocampi", 4)):
        segmentation = sitk.ReadImage(str(demo / f"{name}.seg.nrrd"))
        picture = sitk.GetArrayFromImage(sitk.ReadImage(str(demo / f"{name}.png")))
        for n in range(count):
            color = np.array(segmentation.GetMetaData(f"Segment{n}_Color").split(), float)
            assert (picture == np.round(255 * color)).all(-1).any(), (name, n)


def test_the_same_head_turned_and_tilted_gives_the_same_hippocampus(
    segmenter: MaskSegmenter, demo: Path
):
    """The head is stored with its axes in another order; the result has the same place in space."""
    volume = read_volume(demo / "mni152_t1.nii.gz")
    expected = np.isin(read_volume(demo / "hippocampi.nii.gz").array, (1, 2))
    flipped = type(volume)(
        np.ascontiguousarray(volume.array.transpose(2, 0, 1)[:, ::-1]),
        volume.ijk_to_ras @ _turned(volume.array.shape),
    )
    roi = box_on_grid(read_boxes(resources() / "SampleData/hippocampus-left.mrk.json")[0], flipped)
    found = segmenter.segment(flipped, roi=roi).labelmap
    back = found[:, ::-1].transpose(1, 2, 0)
    both = 2 * ((back > 0) & expected).sum() / ((back > 0).sum() + expected.sum())
    assert both > 0.99


def test_a_good_result_is_trusted_and_one_of_a_head_upside_down_is_doubtful(
    segmenter: MaskSegmenter, demo: Path
):
    volume = read_volume(demo / "mni152_t1.nii.gz")
    (box,) = read_boxes(resources() / "SampleData/hippocampus-left.mrk.json")
    part = crop(volume, box_on_grid(box, volume))
    turned = Volume(part.array, np.diag([1.0, -1, -1, 1]) @ part.ijk_to_ras)
    good, wrong = (segmenter.segment(one) for one in (part, turned))
    assert not any("doubtful" in note for note in good.notes)
    assert any("doubtful" in note for note in wrong.notes)
    assert min(one.expected_dice for one in good.instances) > 0.7
    assert all(one.expected_dice_low < 0.5 for one in wrong.instances)


def _turned(shape: tuple[int, ...]) -> np.ndarray:
    """Return the matrix from new to old IJK of transpose(2, 0, 1) with the second axis reversed."""
    step = np.zeros((4, 4))
    step[3, 3] = 1
    step[0, 2] = 1  # new K is old I
    step[2, 1], step[2, 3] = -1, shape[0] - 1  # new J is old K, reversed
    step[1, 0] = 1  # new I is old J
    return step


def test_the_python_example_of_the_readme_runs_on_the_demos_head(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(demo / "mni152_t1.nii.gz", "brain.nii.gz")
    roi = ROOT / "Resources" / "SampleData" / "hippocampus-left.mrk.json"
    shutil.copy(roi, "hippocampus.mrk.json")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [example] = re.findall(r"## In Python\n\n```python\n(.*?)```", readme, re.DOTALL)
    exec(example, {})
    assert capsys.readouterr().out.startswith("Anterior ") and Path("brain.seg.nrrd").is_file()


@pytest.fixture(scope="module")
def cases() -> list[LabelledCase]:
    """Return six validation cases of the hippocampus dataset."""
    folder = SHARED_DATA / "Dataset004_Hippocampus"
    if not folder.is_dir():
        pytest.skip("the hippocampus data are not beside this checkout")
    names = json.loads((folder / "splits.json").read_text(encoding="utf-8"))["val"][:6]
    return load_cases(open_dataset(folder), names)


@pytest.fixture(scope="module")
def slices(segmenter: MaskSegmenter) -> Callable[..., list[Box]]:
    """Return a function that gives the true boxes of a case on each slice, or shifted ones."""
    names = [label.name for label in segmenter.labels]
    return partial(slice_boxes, names=names, orientation=segmenter.plan.orientation)


@pytest.fixture(scope="module")
def scores(
    segmenter: MaskSegmenter, cases: list[LabelledCase], slices: Callable[..., list[Box]]
) -> dict[str, np.ndarray]:
    """Return the Dice (cases, classes) without boxes, with true boxes and with shifted ones."""
    names = [label.name for label in segmenter.labels]
    boxes = {
        "automatic": None,
        "true": slices,
        "one": lambda c: whole_boxes(c, names),
        "shifted": lambda c: whole_boxes(c, names, 6),
    }
    return measure(segmenter, cases, boxes)


@pytest.fixture(scope="module")
def prompted(
    segmenter: MaskSegmenter, cases: list[LabelledCase], slices: Callable[..., list[Box]]
) -> dict[str, np.ndarray]:
    """Return the Dice of two cases whose results are not limited to the boxes."""
    boxes = {"true": slices, "shifted": partial(slices, shift=6)}
    return measure(engine_of(segmenter, NotHeld), cases[:2], boxes)


def test_the_mean_dice_of_validation_volumes_is_high(scores: dict[str, np.ndarray]):
    assert scores["automatic"].mean() > 0.86


def test_true_boxes_raise_the_dice_and_shifted_ones_lower_it(scores: dict[str, np.ndarray]):
    automatic = scores["automatic"].mean()
    assert scores["true"].mean() > automatic + 0.02
    assert scores["one"].mean() > automatic + 0.005
    assert scores["shifted"].mean() < automatic - 0.1


def test_box_prompts_change_the_masks_of_the_decoder_itself(
    scores: dict[str, np.ndarray], prompted: dict[str, np.ndarray]
):
    """The result is not limited to the boxes, so every change comes from the mask decoder."""
    automatic = scores["automatic"][:2].mean()
    assert prompted["true"].mean() > automatic + 0.02
    assert prompted["shifted"].mean() < automatic - 0.2


def test_without_its_boxes_the_decoder_misses_a_class_that_a_box_finds(
    segmenter: MaskSegmenter, cases: list[LabelledCase]
):
    names = [label.name for label in segmenter.labels]
    boxes = {"missed": None, "box": lambda c: whole_boxes(c, names)}
    found = measure(engine_of(segmenter, WholeWindow), cases[:2], boxes)
    assert found["missed"].min(1).max() < 0.2
    assert found["box"].mean() > 0.8


def test_a_box_larger_than_a_structure_that_is_too_small_lets_it_grow_towards_the_truth(
    segmenter: MaskSegmenter, cases: list[LabelledCase]
):
    names = [label.name for label in segmenter.labels]
    volume, changed, dice, better = grown(segmenter, cases, names, 1.0, 0.95).mean(0)
    assert changed > volume + 0.02
    assert better > dice


def test_with_true_boxes_the_decoder_exceeds_the_prompt_generator(
    segmenter: MaskSegmenter, cases: list[LabelledCase], prompted: dict[str, np.ndarray]
):
    """Without boxes of the user, both have about the same Dice (Docs/results.md)."""
    auxiliary = measure(engine_of(segmenter, AuxiliaryOnly), cases[:2], {"auxiliary": None})
    assert prompted["true"].mean() > auxiliary["auxiliary"].mean() + 0.01

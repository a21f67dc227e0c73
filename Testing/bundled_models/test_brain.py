"""The bundled whole-head model, on the MNI152 head of nilearn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from nilearn.datasets.struct import GM_MNI152_FILE_PATH, MNI152_FILE_PATH, WM_MNI152_FILE_PATH

from MaskSAMCore import Box, Segmentation, Segmenter, Volume, read_volume
from MaskSAMCore.data.label_scheme import read_scheme
from MaskSAMCore.evaluation import dice_scores
from MaskSAMCore.geometry import crop, reorient
from MaskSAMCore.inference import Session
from MaskSAMCore.labels import Label
from MaskSAMCore.resources import resources
from MaskSAMCore.volumetry import structure_volumes
from Testing.benchmarks.brain_heads import GREY, WHITE, dice
from Testing.helpers.paths import ROOT

# Volumes in ml. The bounds are wide: they exclude a missing structure, and one that covers parts of
# its neighbours.
PLAUSIBLE = {
    "cerebral white matter": (130, 400),
    "cerebral cortex": (150, 450),
    "lateral ventricle": (2, 40),
    "cerebellar cortex": (30, 90),
    "thalamus": (4, 12),
    "caudate": (1.8, 7),
    "putamen": (2.5, 9),
    "pallidum": (0.7, 4),
    "hippocampus": (2, 8.5),
    "amygdala": (0.7, 3.5),
    "accumbens": (0.2, 1.5),
}


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_model("brain", device="cpu")


@pytest.fixture(scope="module")
def head() -> Volume:
    return read_volume(MNI152_FILE_PATH)


@pytest.fixture(scope="module")
def found(demo: Path, head: Volume) -> np.ndarray:
    """Return the labelmap of the demo, which segments the same head."""
    written = read_volume(demo / "brain.nii.gz")
    np.testing.assert_allclose(written.ijk_to_ras, head.ijk_to_ras, atol=1e-4)
    return written.array


@pytest.fixture(scope="module")
def deep(head: Volume) -> Volume:
    """Return the part of the head around the deep structures, one window of the network."""
    return crop(head, Box("", (20, 30, 38), (178, 204, 116)))


@pytest.fixture(scope="module")
def session(segmenter: Segmenter, deep: Volume) -> Iterator[Session]:
    """Open a session on the deep structures once for all tests."""
    with segmenter.open(deep) as opened:
        yield opened


@pytest.fixture(scope="module")
def session_on_head(segmenter: Segmenter, head: Volume) -> Iterator[Session]:
    """Open a session on the whole head, where windows overlap around the deep structures."""
    with segmenter.open(head) as opened:
        yield opened


@pytest.fixture(scope="module")
def automatic(session: Session) -> Segmentation:
    return session.segment()


def test_the_bundle_is_small_and_states_its_labels_data_and_licence():
    folder = resources() / "Models" / "brain"
    assert sum(p.stat().st_size for p in folder.iterdir()) < 25e6
    card = json.loads((folder / "masksam.json").read_text(encoding="utf-8"))
    names = [label["name"] for label in card["labels"]]
    assert len(names) == 31 and "left hippocampus" in names
    assert all(label["terminology"]["type"]["value"] for label in card["labels"])
    assert card["card"]["needs_roi"] is False
    (data,) = card["card"]["training_data"]
    assert data["licence"] == "Apache-2.0" and "Billot" in data["attribution"]


def test_structures_have_plausible_volumes_on_both_sides(
    segmenter: Segmenter, head: Volume, found: np.ndarray
):
    voxels = [(label.name, 1.0, int((found == label.value).sum())) for label in segmenter.labels]
    rows = {row.name: row for row in structure_volumes(voxels, head.voxel_ml)}
    for name, (low, high) in PLAUSIBLE.items():
        for side in ("left", "right"):
            assert low < rows[f"{side} {name}"].ml < high, rows[f"{side} {name}"]
    for row in rows.values():
        assert row.asymmetry is None or abs(row.asymmetry) < 25, row


def test_left_and_right_structures_lie_on_their_own_side(
    segmenter: Segmenter, head: Volume, found: np.ndarray
):
    upright = reorient(Volume(found, head.ijk_to_ras, ""), "RAS")
    for label in segmenter.labels:
        side = label.name.split()[0]
        if side not in ("left", "right"):
            continue
        middle = np.argwhere(upright.array == label.value).mean(0)[::-1]
        r = (upright.ijk_to_ras @ [*middle, 1])[0]
        assert (r > 3) if side == "right" else (r < -3), label.name


def test_white_and_grey_matter_agree_with_the_maps_of_the_template(
    segmenter: Segmenter, head: Volume, found: np.ndarray
):
    bars = ((WM_MNI152_FILE_PATH, WHITE, 0.9), (GM_MNI152_FILE_PATH, GREY, 0.9))
    for file, structures, bar in bars:
        values = [label.value for label in segmenter.labels if label.name.endswith(structures)]
        known = read_volume(file).array
        assert dice(np.isin(found, values), known > 0.5 * known.max()) > bar, file


def test_the_same_head_in_another_orientation_gives_the_same_structures(
    segmenter: Segmenter, deep: Volume, automatic: Segmentation
):
    turned = reorient(deep, "PIR")
    again = reorient(Volume(segmenter.segment(turned).labelmap, turned.ijk_to_ras, ""), "RAS").array
    known = reorient(Volume(automatic.labelmap, deep.ijk_to_ras, ""), "RAS").array
    inside = (known > 0) | (again > 0)
    assert (known == again)[inside].mean() > 0.98


def test_inverted_intensities_change_the_result_little(
    segmenter: Segmenter, deep: Volume, automatic: Segmentation
):
    """The model was trained on images of random contrast."""
    inverted = Volume(
        np.where(deep.array > 0, deep.array.max() - deep.array, 0), deep.ijk_to_ras, ""
    )
    other = segmenter.segment(inverted)
    values = [label.value for label in segmenter.labels]
    assert set(values) <= set(np.unique(automatic.labelmap))
    assert np.mean(dice_scores(automatic.labelmap, other.labelmap, values)) > 0.75


@pytest.mark.parametrize("name", ["left putamen", "left hippocampus"])
def test_a_segment_follows_a_side_of_its_box_that_is_dragged(session_on_head: Session, name: str):
    (one,) = [found for found in session_on_head.segment().instances if found.name == name]
    for axis in range(3):
        for mm in (4, -4):
            upper = list(one.box.upper)
            upper[axis] += mm
            box = Box(name, one.box.lower, tuple(upper))
            dragged = session_on_head.segment([box], overwrite=True).labelmap == one.value
            end = np.argwhere(dragged)[:, 2 - axis].max() + 1
            assert end <= upper[axis]
            assert end >= (one.box.upper[axis] + 2 if mm > 0 else upper[axis] - 2)


def test_a_good_result_is_trusted_and_noise_is_doubtful(
    segmenter: Segmenter, deep: Volume, automatic: Segmentation
):
    assert not any("doubtful" in note for note in automatic.notes)
    expected = {one.name: one.expected_dice for one in automatic.instances}
    assert all(expected[f"{side} thalamus"] > 0.75 for side in ("left", "right"))
    values = np.random.default_rng(0).rayleigh(10, deep.shape).astype(np.float32)
    noise = segmenter.segment(Volume(values, deep.ijk_to_ras, ""))
    assert any("doubtful" in note for note in noise.notes)
    assert all(one.expected_dice < 0.5 for one in noise.instances)


def test_the_label_scheme_the_card_and_the_split_of_the_training_agree():
    description = json.loads((ROOT / "Docs/brain/labels.json").read_text(encoding="utf-8"))
    scheme, problems = read_scheme(description)
    assert not problems and scheme is not None and len(scheme.classes) == 31
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
    assert len(kinds) == 31
    split = json.loads((ROOT / "Docs/brain/splits.json").read_text(encoding="utf-8"))
    assert len(split["train"]) == 14 and len(split["val"]) == 2
    assert not set(split["train"]) & set(split["val"])

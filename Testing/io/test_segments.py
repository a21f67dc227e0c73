"""Segmentations with named segments, on the grid of an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box, Volume, crop
from MaskSAMCore.io import write_labelmap, write_probabilities, write_volume
from MaskSAMCore.io.segments import (
    read_segment_labels,
    read_segment_values,
    read_segmentation,
)
from MaskSAMCore.labels import Code, Label, Terminology

LABELS = (Label(3, "left hippocampus", (1, 0, 0)), Label(7, "Läsion: neu", (0, 1, 0)))
# Oblique and left-handed, with three voxel sizes.
TURN = np.array([[0.8, -0.6, 0, 4], [0.6, 0.8, 0, -9], [0, 0, -1, 31], [0, 0, 0, 1]])
GRID = TURN @ np.diag([1.0, 1.5, 3.0, 1.0])


@pytest.fixture
def image() -> Volume:
    return Volume(np.random.default_rng(0).normal(size=(6, 8, 9)).astype(np.float32), GRID, "head")


@pytest.fixture
def labelmap(image: Volume) -> np.ndarray:
    labelmap = np.zeros(image.shape, np.uint8)
    labelmap[1:3, 2:5, 3:6], labelmap[4, 6, 7] = 3, 7
    return labelmap


def test_names_and_values_come_from_the_file(image: Volume, labelmap: np.ndarray, tmp_path: Path):
    write_labelmap(labelmap, image, tmp_path / "a.seg.nrrd", LABELS)
    found, values = read_segmentation(tmp_path / "a.seg.nrrd", image, {})
    np.testing.assert_array_equal(found, labelmap)
    assert values == {"left hippocampus": 3, "Läsion: neu": 7}


def test_colors_and_terminology_come_from_the_file(
    image: Volume, labelmap: np.ndarray, tmp_path: Path
):
    codes = Terminology(
        Code("SCT", "123037004", "Anatomical Structure"),
        Code("SCT", "5366008", "Hippocampus"),
        type_modifier=Code("SCT", "7771000", "Left"),
    )
    labels = (Label(3, "left", (0.25, 0.5, 1), codes), LABELS[1])
    write_labelmap(labelmap, image, tmp_path / "a.seg.nrrd", labels)
    assert read_segment_labels(tmp_path / "a.seg.nrrd") == labels


def test_a_segment_without_a_color_gets_one(image: Volume, labelmap: np.ndarray, tmp_path: Path):
    path = tmp_path / "a.seg.nrrd"
    write_labelmap(labelmap, image, path, LABELS)
    content = path.read_bytes()
    assert content.count(b"Segment0_Color:=1 0 0\n") == 1
    path.write_bytes(content.replace(b"Segment0_Color:=1 0 0\n", b"Segment0_Color:=red\n"))
    first, second = read_segment_labels(path)
    assert first.name == LABELS[0].name and max(first.color) > 0 and second == LABELS[1]


def test_names_with_backslashes_and_line_breaks_come_back(
    image: Volume, labelmap: np.ndarray, tmp_path: Path
):
    names = ("left\\right \\n", "two\nlines")
    labels = [Label(value, name, (1, 0, 0)) for value, name in zip((3, 7), names, strict=True)]
    write_labelmap(labelmap, image, tmp_path / "a.seg.nrrd", labels)
    assert read_segment_values(tmp_path / "a.seg.nrrd") == dict(zip(names, (3, 7), strict=True))


def test_segments_in_several_layers_are_refused_as_such(
    image: Volume, labelmap: np.ndarray, tmp_path: Path
):
    layers = np.stack([labelmap, labelmap // 3])
    write_probabilities(layers, Volume(labelmap, GRID), tmp_path / "a.nrrd")
    (tmp_path / "a.nrrd").rename(tmp_path / "a.seg.nrrd")
    with pytest.raises(MaskSAMError, match="segments that overlap: export it without"):
        read_segmentation(tmp_path / "a.seg.nrrd", image, {})


def test_a_cropped_segmentation_comes_back_to_the_grid_of_the_image(
    image: Volume, labelmap: np.ndarray, tmp_path: Path
):
    part = crop(Volume(labelmap, GRID), Box("", (2, 1, 1), (8, 8, 5)))
    write_labelmap(part.array, part, tmp_path / "a.seg.nrrd", LABELS)
    found, _ = read_segmentation(tmp_path / "a.seg.nrrd", image, {})
    np.testing.assert_array_equal(found, labelmap)


def test_a_labelmap_has_the_names_that_are_given(
    image: Volume, labelmap: np.ndarray, tmp_path: Path
):
    write_labelmap(labelmap, image, tmp_path / "a.nii.gz", LABELS)
    found, values = read_segmentation(tmp_path / "a.nii.gz", image, {"a": 3, "b": 7})
    np.testing.assert_array_equal(found, labelmap)
    assert values == {"a": 3, "b": 7}
    with pytest.raises(MaskSAMError, match=r"values without a class: \[7\]"):
        read_segmentation(tmp_path / "a.nii.gz", image, {"a": 3})


def test_a_segmentation_elsewhere_is_refused(image: Volume, labelmap: np.ndarray, tmp_path: Path):
    far = GRID.copy()
    far[0, 3] += 500
    write_labelmap(labelmap, Volume(labelmap, far), tmp_path / "a.seg.nrrd", LABELS)
    with pytest.raises(MaskSAMError, match="does not overlap the image 'head'"):
        read_segmentation(tmp_path / "a.seg.nrrd", image, {})


def test_files_without_usable_segments_are_refused(image: Volume, tmp_path: Path):
    plain = tmp_path / "a.seg.nrrd"
    write_volume(Volume(np.zeros(image.shape, np.uint8), GRID), tmp_path / "a.nrrd")
    (tmp_path / "a.nrrd").rename(plain)
    with pytest.raises(MaskSAMError, match="names no segments"):
        read_segment_values(plain)
    with pytest.raises(MaskSAMError, match="cannot be read"):
        read_segment_values(tmp_path / "none.seg.nrrd")
    write_labelmap(np.zeros(image.shape, np.uint8), image, tmp_path / "b.seg.nrrd", LABELS)
    content = (tmp_path / "b.seg.nrrd").read_bytes()
    for old, new, message in (
        (b"Segment1_Layer:=0", b"Segment1_Layer:=1", "overlap"),
        ("Läsion: neu".encode(), b"left hippocampus", "two segments named 'left hippocampus'"),
        (b"Segment1_LabelValue:=7", b"Segment1_LabelValue:=x", "has no value"),
    ):
        plain.write_bytes(content.replace(old, new))
        with pytest.raises(MaskSAMError, match=message):
            read_segment_values(plain)

"""Pictures of segmentations, for volumes with different axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MaskSAMCore.geometry import Volume
from MaskSAMCore.labels import Label
from MaskSAMCore.pictures import outline_picture
from Testing.helpers.generated import generated_case

LABELS = (Label(1, "Bright", (1.0, 0.0, 0.0)), Label(2, "Dark", (0.0, 0.0, 1.0)))


def draw(path: Path, matrix: np.ndarray, labelmap: np.ndarray, reference=None) -> np.ndarray:
    image, _ = generated_case(0)
    volume = Volume(image, matrix)
    outline_picture([("case", volume, labelmap, reference)], LABELS, path)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(int)


@pytest.mark.parametrize("matrix", [np.diag([1.0, 1.0, 2.0, 1.0]), np.diag([-1.0, 1.0, 1.5, 1.0])])
def test_each_class_is_outlined_in_its_colour(tmp_path: Path, matrix: np.ndarray):
    picture = draw(tmp_path / "a.png", matrix, generated_case(0)[1])
    red = (picture[..., 0] > 200) & (picture[..., 1:3].max(-1) < 60)
    blue = (picture[..., 2] > 200) & (picture[..., :2].max(-1) < 60)
    assert red.sum() > 100
    assert blue.sum() > 100


def test_similar_colours_of_many_classes_survive_saving(tmp_path: Path):
    """A palette chosen by frequency would give a small class the colour of a similar larger one."""
    labels = [
        Label(n + 1, f"class {n}", (0.9, 0.55 + 0.01 * n, 0.13 + 0.02 * n)) for n in range(29)
    ]
    labelmap = np.repeat(np.arange(1, 30), 4)[:100].reshape(1, 10, 10).repeat(8, 0).repeat(4, 1)
    array = np.random.default_rng(0).normal(0, 1, labelmap.shape).astype(np.float32)
    outline_picture([("", Volume(array, np.eye(4)), labelmap, None)], labels, tmp_path / "a.png")
    image = sitk.ReadImage(str(tmp_path / "a.png"))
    picture = sitk.GetArrayFromImage(image).reshape(-1, 3)
    for label in labels:
        color = np.round(255 * np.array(label.color))
        assert (picture == color).all(-1).sum() > 5, label.name


def test_names_with_dollar_signs_are_drawn_as_they_are(tmp_path: Path):
    image, labelmap = generated_case(0)
    row = "$^$", Volume(image, np.eye(4)), labelmap, None
    outline_picture([row], [Label(1, "$x_$", (1.0, 0.0, 0.0))], tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()


def test_an_empty_labelmap_gives_a_picture_without_outlines(tmp_path: Path):
    _, labelmap = generated_case(0)
    full = draw(tmp_path / "full.png", np.eye(4), labelmap)
    empty = draw(tmp_path / "empty.png", np.eye(4), np.zeros_like(labelmap))

    def red(picture: np.ndarray) -> int:
        return int(((picture[..., 0] > 200) & (picture[..., 1:3].max(-1) < 60)).sum())

    assert red(empty) < red(full) / 3


def test_a_reference_adds_outlines(tmp_path: Path):
    _, labelmap = generated_case(0)
    without = draw(tmp_path / "a.png", np.eye(4), labelmap)
    beside = draw(tmp_path / "b.png", np.eye(4), labelmap, np.roll(labelmap, 3, axis=2))
    assert without.shape != beside.shape or (without != beside).any()

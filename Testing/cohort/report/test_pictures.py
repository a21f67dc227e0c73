"""Pictures of labelmaps that were corrected after the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.cohort.report.pictures import draw_picture
from MaskSAMCore.geometry import Volume
from MaskSAMCore.io import write_labelmap, write_volume
from MaskSAMCore.labels import Label
from Testing.helpers.threshold_model import OBLIQUE

LABELS = (Label(1, "Big", (0.9, 0.2, 0.1)), Label(2, "Small", (0.1, 0.4, 0.9)))


@pytest.fixture
def labelmap() -> np.ndarray:
    values = np.zeros((8, 12, 10), np.uint8)
    values[2:5, 3:9, 2:8] = 1
    values[5:7, 4:7, 3:6] = 2
    return values


@pytest.fixture
def volume(labelmap: np.ndarray) -> Volume:
    return Volume(labelmap.astype(np.float32) * 50, OBLIQUE)


@pytest.fixture
def image(volume: Volume, tmp_path: Path) -> Path:
    write_volume(volume, tmp_path / "image.nii.gz")
    return tmp_path / "image.nii.gz"


def moved(volume: Volume, *ijk: int) -> Volume:
    """Return the volume with its first voxel moved to the place of voxel ``ijk``."""
    matrix = volume.ijk_to_ras.copy()
    matrix[:3, 3] += matrix[:3, :3] @ ijk
    return replace(volume, ijk_to_ras=matrix)


def test_a_correction_that_slicer_cropped_and_numbered_anew_has_the_same_picture(
    image: Path, volume: Volume, labelmap: np.ndarray, tmp_path: Path
):
    whole, cropped = tmp_path / "whole.nii.gz", tmp_path / "cropped.seg.nrrd"
    write_labelmap(labelmap, volume, whole, LABELS)
    renumbered = np.array([0, 2, 1], np.uint8)[labelmap][2:7, 3:9, 2:8]
    names = (replace(LABELS[1], value=1), replace(LABELS[0], value=2))
    write_labelmap(renumbered, replace(moved(volume, 2, 3, 2), array=renumbered), cropped, names)
    expected = draw_picture(image, whole, LABELS)
    assert expected and draw_picture(image, cropped, LABELS) == expected
    assert draw_picture(image, cropped, ()) != expected


def test_a_labelmap_on_another_grid_has_no_picture(
    image: Path, volume: Volume, labelmap: np.ndarray, tmp_path: Path
):
    output = tmp_path / "moved.nii.gz"
    write_labelmap(labelmap, moved(volume, 0, 1, 0), output, LABELS)
    assert draw_picture(image, output, LABELS) == b""
    assert draw_picture(None, output, LABELS) == b""

"""Labelmaps hold integers, in whatever type a file stores them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.io import write_volume
from MaskSAMCore.io.labelmaps import read_labelmap
from Testing.io.helpers import labelmap_on, oblique_volume


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_labelmap_is_read_as_integers_of_the_smallest_type(
    dtype: type, mirrored: bool, tmp_path: Path
) -> None:
    volume = oblique_volume(mirrored)
    labelmap = labelmap_on(volume)
    path = tmp_path / "labels.nrrd"
    write_volume(type(volume)(labelmap.astype(dtype), volume.ijk_to_ras), path)
    found = read_labelmap(path)
    assert found.array.dtype == np.uint16
    np.testing.assert_array_equal(found.array, labelmap)
    np.testing.assert_allclose(found.ijk_to_ras, volume.ijk_to_ras, atol=1e-5)


def test_an_image_or_a_probability_map_is_no_labelmap(tmp_path: Path) -> None:
    volume = oblique_volume()
    values = np.arange(volume.array.size).reshape(volume.shape)
    for array, message in (
        (volume.array, "values that are not integers"),
        (0.49 * (volume.array > 0), "values that are not integers"),
        (volume.array * 1e30, "is not a labelmap: its values range from"),
        (values.astype(np.int16), "1287 different values: give a labelmap, not an image"),
    ):
        path = tmp_path / "image.nrrd"
        write_volume(type(volume)(array, volume.ijk_to_ras), path, overwrite=True)
        with pytest.raises(MaskSAMError, match=message):
            read_labelmap(path)


def test_an_image_of_few_integers_is_no_labelmap_but_an_atlas_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(128, 30, (8, 16, 16)).clip(0, 255).astype(np.uint8)
    atlas = np.arange(1, 513, dtype=np.uint16).reshape(8, 8, 8).repeat(2, 0).repeat(2, 1)
    path = tmp_path / "a.nrrd"
    write_volume(Volume(image, np.eye(4)), path)
    with pytest.raises(MaskSAMError, match="different values: give a labelmap, not an image"):
        read_labelmap(path)
    write_volume(Volume(atlas, np.eye(4)), path, overwrite=True)
    np.testing.assert_array_equal(read_labelmap(path).array, atlas)

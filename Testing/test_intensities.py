"""Images without contrast, with padding, outliers or values beyond float32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.intensities import check_intensities, modality, usable_intensities
from MaskSAMCore.io import read_volume
from Testing.helpers.paths import ROOT

SHAPE = (20, 24, 18)


def tissue(dtype: str = "float32") -> NDArray[np.generic]:
    """Return intensities like those of an MR image of a head, with 0 around it."""
    rng = np.random.default_rng(3)
    array = np.zeros(SHAPE)
    array[3:17, 4:20, 3:15] = np.abs(rng.normal(500, 150, (14, 16, 12)))
    array[5, 6, 7] = 3000  # a vessel
    return array.astype(dtype)


def volume_of(array: NDArray[np.generic], stated: str = "") -> Volume:
    return Volume(array, np.eye(4), "head", modality=stated)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(SHAPE, np.int16), "no contrast \\(all voxels are 0\\)"),
        (np.full(SHAPE, 7, np.uint8), "all voxels are 7"),
        (np.full(SHAPE, 1e9, np.float32), "all voxels are 1e\\+09"),
        (tissue("float64") * 1e-14, "all voxels are between 0 and 3e-11"),
        (tissue("float64") * 1e-12, "no contrast"),
        (tissue("float64") * 1e36, "too large to compute with"),
        (np.where(tissue() == 0, -np.finfo(np.float64).max, tissue()), "voxels of -1.8e\\+308"),
        (np.where(tissue() == 0, np.finfo(np.float32).min, tissue()), "voxels of -3.4e\\+38"),
        (np.where(tissue() == 0, np.nan, tissue()), "not numbers"),
        (np.where(tissue() == 0, np.inf, tissue()), "not numbers"),
        (tissue().astype(np.complex64), "type complex64"),
        (np.zeros((0, 3, 4)), "has no voxels"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_an_image_that_a_network_cannot_use_is_refused(array, message: str):
    with pytest.raises(MaskSAMError, match=message) as error:
        check_intensities(array, "the volume 'head'")
    assert str(error.value).startswith("the volume 'head' has ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scale", [1e-10, 1e-3, 1.0, 1e3, 1e30])
@pytest.mark.parametrize("shift", [0.0, -1024.0, 1e6])
def test_scaled_and_shifted_images_are_used_as_they_are(scale: float, shift: float):
    array = (tissue("float64") + shift) * scale
    check_intensities(array, "the volume")
    usable = usable_intensities(volume_of(array))
    assert usable.array is array and usable.notes == ()


def test_a_network_with_limits_needs_contrast_between_them():
    check_intensities(tissue(), "the volume", (-100, 300))
    with pytest.raises(MaskSAMError, match="no contrast between -100 and 300"):
        check_intensities(tissue() + 400, "the volume", (-100, 300))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
def test_ordinary_images_are_the_same_array(dtype: str):
    array = (tissue("float64") / (12 if dtype == "uint8" else 1)).astype(dtype)
    for given in (array, array[3:17, 4:20, 3:15], array[::-1].T):
        usable = usable_intensities(volume_of(given))
        assert usable.array is given and usable.notes == ()


def test_the_images_in_the_repository_and_beside_it_are_ordinary():
    found = [*(ROOT / "Resources" / "SampleData").glob("*.nrrd")]
    shared = ROOT.parent / "shared" / "data"
    found += [*shared.glob("Dataset004*/imagesTr/*_00*.nii.gz")]
    found += [*shared.glob("Dataset50[24]*/imagesTr/*.nii.gz")][:3]
    if not found:
        pytest.skip("there are no images beside the repository")
    for path in found:
        volume = read_volume(path)
        usable = usable_intensities(volume)
        assert usable.array is volume.array, (path, usable.notes)


Change = Callable[[NDArray[np.generic]], None]


def outside(value: float) -> Change:
    def change(array: NDArray[np.generic]) -> None:
        array[:2] = value

    return change


def voxel(value: float) -> Change:
    def change(array: NDArray[np.generic]) -> None:
        array[8, 9, 10] = value

    return change


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (outside(-32768), "864 voxels of 'head' are -32768: ignored as padding"),
        (outside(-2000), "864 voxels of 'head' are -2000: ignored as padding"),
        (outside(-1e30), "864 voxels of 'head' are -1e+30: ignored as padding"),
        (outside(1e30), "864 voxels of 'head' are 1e+30: ignored as padding"),
        (outside(-1), None),  # too close to the intensities to matter
    ],
)
def test_padding_is_replaced_by_the_background(change: Change, note: str | None):
    array, expected = tissue(), tissue()
    change(array)
    usable = usable_intensities(volume_of(array))
    assert usable.notes == (() if note is None else (note,))
    if note is not None:
        np.testing.assert_array_equal(usable.array, expected)
    assert usable.array.dtype == array.dtype


def test_padding_is_found_among_integers_and_without_other_background():
    array = np.random.default_rng(0).integers(100, 900, SHAPE).astype(np.int16)
    array[:5] = -32768
    usable = usable_intensities(volume_of(array))
    assert usable.array.dtype == np.int16
    assert not usable.array[:5].any()
    np.testing.assert_array_equal(usable.array[5:], array[5:])


def test_interpolated_edges_of_padding_are_replaced_too():
    array = tissue()
    array[:2], array[2, 0] = -2000, np.linspace(-1999, -1, 18)
    usable = usable_intensities(volume_of(array))
    np.testing.assert_array_equal(usable.array, tissue())


def test_an_outlier_is_clipped_to_the_brightest_other_voxel():
    array = tissue()
    voxel(1e8)(array)
    usable = usable_intensities(volume_of(array))
    (note,) = usable.notes
    assert note == (
        "1 voxel of 'head', up to 1e+08, lay far from all others and was clipped to 3000"
    )
    expected = tissue()
    voxel(3000)(expected)
    np.testing.assert_array_equal(usable.array, expected)


def test_padding_and_outliers_of_both_signs_are_found_together():
    array = tissue()
    outside(-32768)(array)
    voxel(1e8)(array)
    array[9, 9, 9] = -1e7
    usable = usable_intensities(volume_of(array))
    assert len(usable.notes) == 3
    assert usable.array.min() == 0 and usable.array.max() == 3000


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (tissue(), ""),
        (tissue() - 1000, "CT"),
        (np.where(tissue() == 0, -32768, tissue()), ""),
        (np.where(tissue() == 0, -2000, tissue()), ""),
        (tissue("uint8"), ""),
    ],
)
def test_air_tells_ct_and_padding_does_not(array, expected: str):
    assert modality(volume_of(array)) == expected
    assert modality(volume_of(array, "OT")) == expected  # DICOM's term for other modalities
    assert modality(volume_of(array, "MR")) == "MR"


def test_ct_is_left_to_the_limits_of_its_network():
    array = np.where(tissue() == 0, -1000, tissue())
    array[:2] = -32768
    assert usable_intensities(volume_of(array)).array is array

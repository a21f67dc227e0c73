"""Image files: place in space, voxel types, file names, and inputs that are refused."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.io import read_volume, write_labelmap, write_volume
from MaskSAMCore.io.images import to_image
from Testing.io.helpers import LABELS, labelmap_on, oblique_volume


def tolerance_mm(suffix: str) -> float:
    """Return the precision of positions in a format; NIfTI stores them as float32."""
    return 1e-4 if suffix.startswith(".nii") else 1e-6


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_an_image_comes_back_at_its_place(tmp_path: Path, suffix: str, mirrored: bool) -> None:
    volume = oblique_volume(mirrored)
    write_volume(volume, tmp_path / f"brain{suffix}")
    again = read_volume(tmp_path / f"brain{suffix}")
    assert again.name == "brain"
    assert np.array_equal(again.array, volume.array)
    assert np.abs(again.ijk_to_ras - volume.ijk_to_ras).max() < tolerance_mm(suffix)
    assert (np.linalg.det(again.ijk_to_ras[:3, :3]) < 0) == mirrored


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_volume_may_have_one_slice_along_any_axis(tmp_path: Path, suffix: str, axis: int) -> None:
    volume = oblique_volume(mirrored=True)
    slab = Volume(volume.array.take([4], axis), volume.ijk_to_ras)
    write_volume(slab, tmp_path / f"slab{suffix}")
    again = read_volume(tmp_path / f"slab{suffix}")
    assert again.shape[axis] == 1
    assert np.array_equal(again.array, slab.array)
    assert np.abs(again.ijk_to_ras - slab.ijk_to_ras).max() < tolerance_mm(suffix)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_time_series_of_one_frame_is_a_volume(tmp_path: Path, suffix: str) -> None:
    volume = oblique_volume(mirrored=True)
    series = sitk.JoinSeries([to_image(volume.array, volume.ijk_to_ras)])
    sitk.WriteImage(series, str(tmp_path / f"series{suffix}"))
    again = read_volume(tmp_path / f"series{suffix}")
    assert np.array_equal(again.array, volume.array)
    assert np.abs(again.ijk_to_ras - volume.ijk_to_ras).max() < tolerance_mm(suffix)


def test_volumes_are_in_ras_and_files_in_lps(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), dtype=np.int16))
    image.SetOrigin((1, 2, 3))
    image.SetSpacing((4, 5, 6))
    sitk.WriteImage(image, str(tmp_path / "lps.nrrd"))
    expected = [[-4, 0, 0, -1], [0, -5, 0, -2], [0, 0, 6, 3], [0, 0, 0, 1]]
    assert np.array_equal(read_volume(tmp_path / "lps.nrrd").ijk_to_ras, expected)


def write_array(path: Path, array: np.ndarray, vector: bool = False) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path))


def write_truncated(path: Path) -> None:
    write_array(path, np.random.default_rng(0).normal(size=(20, 30, 40)))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def array_with(value: float) -> np.ndarray:
    array = np.zeros((4, 5, 6), np.float32)
    array[1, 2, 3] = value
    return array


COLOUR, COMPLEX = np.zeros((4, 5, 6, 3), np.uint8), np.zeros((4, 5, 6), np.complex64)
REFUSED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "missing.nii.gz": ("does not exist", lambda path: None),
    "empty.nii.gz": ("empty", lambda path: path.write_bytes(b"")),
    "text.nrrd": ("cannot be read", lambda path: path.write_text("hello")),
    "truncated.nii.gz": ("incomplete", write_truncated),
    "truncated.nii": ("incomplete", write_truncated),
    "truncated.nrrd": ("incomplete", write_truncated),
    "truncated.mha": ("incomplete", write_truncated),
    "folder": ("no DICOM series", lambda path: path.mkdir()),
    "flat.nii.gz": ("2D", lambda path: write_array(path, np.zeros((5, 6)))),
    "time.nii.gz": ("4D", lambda path: write_array(path, np.zeros((2, 4, 5, 6), np.int16))),
    "colour.nrrd": ("3 values", lambda path: write_array(path, COLOUR, vector=True)),
    "complex.nrrd": ("complex", lambda path: write_array(path, COMPLEX)),
    "nan.nrrd": ("1 voxels", lambda path: write_array(path, array_with(np.nan))),
    "infinite.mha": ("1 voxels", lambda path: write_array(path, array_with(np.inf))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unusable_input_is_refused_in_one_line_with_its_path(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    message, make = REFUSED[name]
    make(tmp_path / name)
    capfd.readouterr()
    with pytest.raises(MaskSAMError, match=message) as caught:
        read_volume(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinite_voxels_of_nifti_files_are_read_as_zero(
    tmp_path: Path, value: float
) -> None:
    write_array(tmp_path / "outside.nii.gz", array_with(value))
    assert not read_volume(tmp_path / "outside.nii.gz").array.any()


def test_a_nifti_file_with_scaled_integers_counts_as_complete(tmp_path: Path) -> None:
    path = tmp_path / "scaled.nii.gz"
    write_array(path, np.arange(120, dtype=np.int16).reshape(4, 5, 6))
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[112:116] = np.float32(0.5).tobytes()  # this is scl_slope
    path.write_bytes(gzip.compress(bytes(content)))
    assert read_volume(path).array.max() == 59.5


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".seg.nrrd"])
def test_a_labelmap_comes_back_on_the_grid_of_its_volume(tmp_path: Path, suffix: str) -> None:
    volume = oblique_volume(mirrored=True)
    labelmap = labelmap_on(volume)
    write_labelmap(labelmap, volume, tmp_path / f"case{suffix}", LABELS)
    again = read_volume(tmp_path / f"case{suffix}")
    assert again.array.dtype == np.uint16
    assert np.array_equal(again.array, labelmap)
    assert volume.same_grid(again)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".seg.nrrd"])
@pytest.mark.parametrize("change", [str, str.upper], ids=["as-named", "upper-case"])
def test_file_names_may_have_spaces_and_any_letters(
    tmp_path: Path, suffix: str, change: Callable[[str], str]
) -> None:
    folder = tmp_path / "Ablage Ü 海马"
    folder.mkdir()
    volume = oblique_volume()
    write_labelmap(labelmap_on(volume), volume, folder / change(f"größe {suffix}"), LABELS)
    (path,) = folder.iterdir()
    assert path.name == change(f"größe {suffix}")
    assert np.array_equal(read_volume(path).array, labelmap_on(volume))


@pytest.mark.parametrize("dtype", [">f4", "float16", "bool", "int64", "uint16"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_voxels_of_every_type_are_written(tmp_path: Path, suffix: str, dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    write_volume(Volume(array, np.eye(4)), tmp_path / f"x{suffix}")
    assert np.array_equal(read_volume(tmp_path / f"x{suffix}").array, array)


@pytest.mark.parametrize(
    ("array", "message"),
    [(np.full((2, 3, 4), np.nan), "NaN"), (np.zeros((0, 3, 4)), "no voxels")],
    ids=["nan", "empty"],
)
def test_a_volume_that_could_not_be_read_again_is_not_written(
    tmp_path: Path, array: np.ndarray, message: str
) -> None:
    with pytest.raises(MaskSAMError, match=message):
        write_volume(Volume(array, np.eye(4)), tmp_path / "x.nii.gz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [-1, 65536, 70000])
def test_a_labelmap_value_out_of_range_is_refused_rather_than_wrapped(
    tmp_path: Path, value: int
) -> None:
    volume = oblique_volume()
    labelmap = labelmap_on(volume)
    labelmap[0, 0, 0] = value
    with pytest.raises(MaskSAMError, match=str(value)):
        write_labelmap(labelmap, volume, tmp_path / "x.nrrd", LABELS)
    assert list(tmp_path.iterdir()) == []


def test_a_labelmap_on_another_grid_is_refused(tmp_path: Path) -> None:
    labelmap = np.zeros((1, 2, 3), np.uint8)
    with pytest.raises(MaskSAMError, match="grid"):
        write_labelmap(labelmap, oblique_volume(), tmp_path / "x.nrrd", LABELS)


def test_an_existing_image_is_replaced_on_request_only(tmp_path: Path) -> None:
    volume = oblique_volume()
    write_volume(volume, tmp_path / "x.nrrd")
    with pytest.raises(MaskSAMError, match="exists"):
        write_volume(volume, tmp_path / "x.nrrd")
    write_volume(volume, tmp_path / "x.nrrd", overwrite=True)


@pytest.mark.parametrize("name", ["x.png", "nowhere/x.nrrd"])
def test_an_unknown_suffix_or_a_missing_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MaskSAMError, match="cannot write"):
        write_volume(oblique_volume(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


LIMITED = """
import os, resource, sys
import numpy as np
from MaskSAMCore.errors import describe
from MaskSAMCore.geometry import Volume
from MaskSAMCore.io import read_volume, write_volume

def limit():
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)

path = sys.argv[2]
try:
    if sys.argv[1] == "read":
        limit()
        read_volume(path)
    else:
        volume = Volume(np.zeros((512, 512, 512), np.uint8), np.eye(4))
        limit()
        write_volume(volume, path)
except Exception as error:
    print(describe(error))
print(os.listdir(os.path.dirname(path)))
"""


needs_statm = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="needs Linux's /proc"
)


@needs_statm
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_too_little_memory_is_not_taken_for_a_damaged_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"large{suffix}"
    sitk.WriteImage(sitk.Image([512, 512, 512], sitk.sitkUInt8), path, useCompression=True)
    reason = "it needs more memory than there is: close other programs"
    assert limited("read", path) == [f"{path} cannot be read: {reason}", f"['{path.name}']"]


@needs_statm
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_too_little_memory_is_not_taken_for_a_full_disk(tmp_path: Path, suffix: str) -> None:
    reason = "the memory ran out: close other programs, or give a smaller volume"
    assert limited("write", tmp_path / f"large{suffix}") == [reason, "[]"]


def limited(action: str, path: Path) -> list[str]:
    """Return the output of a process that may use 64 MiB more to read or write an image."""
    command = [sys.executable, "-c", LIMITED, action, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()

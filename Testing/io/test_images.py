"""Images, segmentations and DICOM folders: what is written is where it was, what is bad is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.io import read_volume, write_labelmap, write_volume
from MaskSAMCore.io.images import to_image
from MaskSAMCore.labels import Code, Label, Terminology

_LABELS = [
    Label(
        1,
        "Anterior",
        (1.0, 0.5, 0.25),
        Terminology(
            Code("SCT", "123037004", "Anatomical Structure"), Code("SCT", "4958002", "Amygdala")
        ),
    ),
    Label(2, "Postérieur", (0.0, 1.0, 0.0)),
    Label(300, "Rare", (0.0, 0.0, 1.0)),
]


def _volume(mirrored: bool = False) -> Volume:
    """Oblique and anisotropic, where asked left-handed."""
    matrix = np.eye(4)
    turn = Rotation.from_euler("xyz", [20, 30, 10], degrees=True).as_matrix()
    matrix[:3, :3] = turn @ np.diag([-0.7 if mirrored else 0.7, 0.8, 2.5])
    matrix[:3, 3] = 11, -22, 33
    array = np.random.default_rng(0).normal(size=(9, 11, 13)).astype(np.float32)
    return Volume(array, matrix, "case")


def _exactness(suffix: str) -> float:
    """Millimetres; NIfTI holds places as float32."""
    return 1e-4 if suffix.startswith(".nii") else 1e-6


def _labelmap(shape: tuple[int, int, int]) -> np.ndarray:
    labelmap = np.zeros(shape, dtype=np.int64)
    labelmap[2:4, 3:7, 5:9] = 1
    labelmap[5, 5, 5] = 2
    labelmap[6, 6, 6] = 300
    return labelmap


def _series(folder: Path, positions: list[tuple[float, float, float]], uid: str = "1.2.9") -> None:
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, position in enumerate(positions, 1):
        image = sitk.GetImageFromArray(np.full((1, 5, 7), number, dtype=np.int16))
        image.SetSpacing((0.7, 0.8, 2))
        tags = {
            "0008|0060": "MR",
            "0008|0018": f"{uid}.{number}",
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0020|0013": str(number),
            "0020|0032": "\\".join(str(v) for v in position),
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid}-{number}.dcm"))
        writer.Execute(image)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_an_image_comes_back_where_it_was(tmp_path: Path, suffix: str, mirrored: bool) -> None:
    volume = _volume(mirrored)
    write_volume(volume, tmp_path / f"brain{suffix}")
    again = read_volume(tmp_path / f"brain{suffix}")
    assert again.name == "brain"
    assert np.array_equal(again.array, volume.array)
    assert np.abs(again.ijk_to_ras - volume.ijk_to_ras).max() < _exactness(suffix)
    assert (np.linalg.det(again.ijk_to_ras[:3, :3]) < 0) == mirrored


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_volume_of_one_slice_along_any_axis_is_a_volume(
    tmp_path: Path, suffix: str, axis: int
) -> None:
    volume = _volume(mirrored=True)
    slab = Volume(volume.array.take([4], axis), volume.ijk_to_ras)
    write_volume(slab, tmp_path / f"slab{suffix}")
    again = read_volume(tmp_path / f"slab{suffix}")
    assert again.shape[axis] == 1
    assert np.array_equal(again.array, slab.array)
    assert np.abs(again.ijk_to_ras - slab.ijk_to_ras).max() < _exactness(suffix)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_time_series_of_one_frame_is_a_volume(tmp_path: Path, suffix: str) -> None:
    volume = _volume(mirrored=True)
    series = sitk.JoinSeries([to_image(volume.array, volume.ijk_to_ras)])
    sitk.WriteImage(series, str(tmp_path / f"series{suffix}"))
    again = read_volume(tmp_path / f"series{suffix}")
    assert np.array_equal(again.array, volume.array)
    assert np.abs(again.ijk_to_ras - volume.ijk_to_ras).max() < _exactness(suffix)


def test_space_is_ras_and_files_are_lps(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), dtype=np.int16))
    image.SetOrigin((1, 2, 3))
    image.SetSpacing((4, 5, 6))
    sitk.WriteImage(image, str(tmp_path / "lps.nrrd"))
    expected = [[-4, 0, 0, -1], [0, -5, 0, -2], [0, 0, 6, 3], [0, 0, 0, 1]]
    assert np.array_equal(read_volume(tmp_path / "lps.nrrd").ijk_to_ras, expected)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".seg.nrrd"])
def test_a_labelmap_comes_back_on_the_volumes_grid(tmp_path: Path, suffix: str) -> None:
    volume = _volume(mirrored=True)
    labelmap = _labelmap(volume.shape)
    write_labelmap(labelmap, volume, tmp_path / f"case{suffix}", _LABELS)
    again = read_volume(tmp_path / f"case{suffix}")
    assert again.array.dtype == np.uint16
    assert np.array_equal(again.array, labelmap)
    assert volume.same_grid(again)


def test_a_segmentation_names_colours_and_codes_its_segments(tmp_path: Path) -> None:
    volume = _volume()
    write_labelmap(_labelmap(volume.shape), volume, tmp_path / "case.seg.nrrd", _LABELS)
    image = sitk.ReadImage(str(tmp_path / "case.seg.nrrd"))
    fields = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    assert fields["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    assert fields["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert fields["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"
    names = [fields[f"Segment{n}_Name"] for n in range(3)]
    assert names == ["Anterior", "Postérieur", "Rare"]
    assert [fields[f"Segment{n}_LabelValue"] for n in range(3)] == ["1", "2", "300"]
    assert fields["Segment0_Color"] == "1 0.5 0.25"
    assert fields["Segment0_Extent"] == "0 12 0 10 0 8"
    assert "~SCT^123037004^Anatomical Structure~SCT^4958002^Amygdala~" in fields["Segment0_Tags"]


def test_a_dicom_series_is_read_as_a_volume(tmp_path: Path) -> None:
    _series(tmp_path / "head", [(1, 2, 10 + 2 * k) for k in range(6)])
    volume = read_volume(tmp_path / "head")
    assert volume.shape == (6, 5, 7)
    assert np.allclose(volume.spacing, (0.7, 0.8, 2))
    assert np.allclose(volume.ijk_to_ras[:3, 3], (-1, -2, 10))
    assert volume.array[:, 0, 0].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "positions",
    [[(0, 0, z) for z in (0, 2, 4, 8, 10)], [(0, z / 2, z) for z in (0, 2, 4, 6)]],
    ids=["missing", "tilted"],
)
def test_a_dicom_series_that_is_no_grid_is_refused(
    tmp_path: Path, positions: list[tuple[float, float, float]], capfd: pytest.CaptureFixture[str]
) -> None:
    _series(tmp_path / "head", positions)
    with pytest.raises(MaskSAMError, match="missing, unevenly spaced or tilted"):
        read_volume(tmp_path / "head")
    assert capfd.readouterr() == ("", "")


def test_several_dicom_series_in_a_folder_are_refused(tmp_path: Path) -> None:
    for uid in ("1.2.9", "1.2.10"):
        _series(tmp_path / "head", [(0, 0, 2 * k) for k in range(3)], uid)
    with pytest.raises(MaskSAMError, match="2 DICOM series"):
        read_volume(tmp_path / "head")


def _write(path: Path, array: np.ndarray, vector: bool = False) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path))


def _cut(path: Path) -> None:
    _write(path, np.random.default_rng(0).normal(size=(20, 30, 40)))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


_BAD = {
    "missing.nii.gz": ("does not exist", lambda path: None),
    "empty.nii.gz": ("empty", lambda path: path.write_bytes(b"")),
    "text.nrrd": ("cannot be read", lambda path: path.write_text("hello")),
    "cut.nii.gz": ("incomplete", _cut),
    "cut.nii": ("incomplete", _cut),
    "cut.nrrd": ("incomplete", _cut),
    "cut.mha": ("incomplete", _cut),
    "folder": ("no DICOM series", lambda path: path.mkdir()),
    "flat.nii.gz": ("2D", lambda path: _write(path, np.zeros((5, 6)))),
    "time.nii.gz": ("4D", lambda path: _write(path, np.zeros((2, 4, 5, 6), np.int16))),
    "color.nrrd": ("3 values", lambda path: _write(path, np.zeros((4, 5, 6, 3), np.uint8), True)),
    "complex.nrrd": ("complex", lambda path: _write(path, np.zeros((4, 5, 6), np.complex64))),
    "nan.nrrd": ("1 voxels", lambda path: _write(path, _with(np.nan))),
    "infinite.mha": ("1 voxels", lambda path: _write(path, _with(np.inf))),
}


def _with(value: float) -> np.ndarray:
    array = np.zeros((4, 5, 6), np.float32)
    array[1, 2, 3] = value
    return array


@pytest.mark.parametrize("name", _BAD)
def test_a_bad_input_is_one_clear_line(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    told, make = _BAD[name]
    make(tmp_path / name)
    capfd.readouterr()
    with pytest.raises(MaskSAMError, match=told) as caught:
        read_volume(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_without_a_value_are_zero_in_nifti(tmp_path: Path, value: float) -> None:
    _write(tmp_path / "outside.nii.gz", _with(value))
    assert not read_volume(tmp_path / "outside.nii.gz").array.any()


def test_an_image_scaled_by_its_header_is_complete(tmp_path: Path) -> None:
    _write(tmp_path / "scaled.nii.gz", np.arange(120, dtype=np.int16).reshape(4, 5, 6))
    from gzip import compress, decompress

    content = bytearray(decompress((tmp_path / "scaled.nii.gz").read_bytes()))
    content[112:116] = np.float32(0.5).tobytes()  # scl_slope
    (tmp_path / "scaled.nii.gz").write_bytes(compress(bytes(content)))
    assert read_volume(tmp_path / "scaled.nii.gz").array.max() == 59.5

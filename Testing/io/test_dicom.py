"""Folders with a DICOM series."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io import read_volume
from MaskSAMCore.io.dicom_files import is_dicom
from Testing.helpers.dicom import (
    oblique_matrix,
    position,
    stored_values,
    write_enhanced,
    write_series,
    write_slices,
)


def write_constant_slices(
    folder: Path, positions: list[tuple[float, float, float]], uid: str = "1.2.9"
) -> None:
    """Write a series of axial slices at the given positions (LPS mm); slice n has intensity n."""
    array = np.arange(1, len(positions) + 1, dtype=np.int16)[:, None, None]
    write_series(folder, array.repeat(5, 1).repeat(7, 2), positions, (0.7, 0.8, 2), uid=uid)


def test_a_series_is_read_as_a_volume(tmp_path: Path) -> None:
    write_constant_slices(tmp_path / "head", [(1, 2, 10 + 2 * k) for k in range(6)])
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
def test_a_series_with_missing_or_tilted_slices_is_refused(
    tmp_path: Path, positions: list[tuple[float, float, float]], capfd: pytest.CaptureFixture[str]
) -> None:
    write_constant_slices(tmp_path / "head", positions)
    with pytest.raises(MaskSAMError, match="missing, unevenly spaced or tilted"):
        read_volume(tmp_path / "head")
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes in folders")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    ends = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        os.write(ends, bytes(128) + b"DICM")
        assert not is_dicom(tmp_path / "pipe")
    finally:
        os.close(ends)


def test_several_series_in_a_folder_are_refused(tmp_path: Path) -> None:
    for uid in ("1.2.9", "1.2.10"):
        write_constant_slices(tmp_path / "head", [(0, 0, 2 * k) for k in range(3)], uid)
    with pytest.raises(MaskSAMError, match="2 DICOM series"):
        read_volume(tmp_path / "head")


def test_a_volume_has_the_name_of_its_folder_and_the_modality_of_its_series(tmp_path: Path) -> None:
    write_slices(tmp_path / "chest", stored_values(), oblique_matrix(), modality="CT")
    volume = read_volume(tmp_path / "chest")
    assert (volume.name, volume.modality, volume.notes) == ("chest", "CT", ())


def jpeg_2000(plane: np.ndarray, path: Path) -> bytes:
    """Return a losslessly compressed plane; ``path`` is used for a temporary file."""
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG2000")
    writer.SetFileName(str(path))
    writer.Execute(sitk.GetImageFromArray(plane[None]))
    (frame,) = generate_frames(dcmread(path).PixelData, number_of_frames=1)
    path.unlink()
    return frame


@pytest.mark.parametrize("signed", [False, True])
def test_compressed_frames_are_scaled_once_and_each_by_its_own_slope(
    tmp_path: Path, signed: bool
) -> None:
    # GDCM does not compress very small images.
    stored = stored_values((4, 16, 12)).astype(np.int16 if signed else np.uint16)
    if signed:
        stored -= 300
    slopes = 0.5 * np.arange(1, 5)
    frames = [jpeg_2000(plane, tmp_path / "plane.dcm") for plane in stored]

    def change(group: Dataset, number: int) -> None:
        scale = Dataset()
        scale.RescaleSlope, scale.RescaleIntercept = slopes[number], -number
        group.PixelValueTransformationSequence = [scale]

    def edit(header: Dataset) -> None:
        header.file_meta.TransferSyntaxUID = JPEG2000Lossless
        header.PixelRepresentation = int(signed)
        header.PixelData = encapsulate(frames)
        header["PixelData"].VR = "OB"

    write_enhanced(tmp_path / "a.dcm", stored, oblique_matrix(), change=change, edit=edit)
    expected = stored * slopes[:, None, None] - np.arange(4)[:, None, None]
    np.testing.assert_array_equal(read_volume(tmp_path / "a.dcm").array, expected)


@pytest.mark.parametrize(
    ("name", "keyword", "values"),
    [
        ("image type", "ImageType", [["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]]),
        ("echo time", "EchoTime", [4.9, 7.4]),
        ("b-value", "DiffusionBValue", [0.0, 1000.0]),
        ("inversion time", "InversionTime", [900, 1100]),
        ("flip angle", "FlipAngle", [5, 20]),
        ("time point", "TemporalPositionIdentifier", [1, 2]),
        ("trigger time", "TriggerTime", [0, 40]),
        ("acquisition number", "AcquisitionNumber", [1, 2]),
    ],
)
def test_the_message_says_what_tells_the_volumes_of_a_series_apart(
    tmp_path: Path, name: str, keyword: str, values: list[object]
) -> None:
    stored = stored_values()
    for number, value in enumerate(values):
        write_slices(
            tmp_path / "head",
            stored + number,
            oblique_matrix(),
            lambda header, k, value=value: setattr(header, keyword, value),
            name=f"{number}" + "-{}",
        )
    with pytest.raises(MaskSAMError, match=f"holds 2 volumes that differ in {name}: load"):
        read_volume(tmp_path / "head")


def test_volumes_at_positions_between_one_another_are_not_joined(tmp_path: Path) -> None:
    def change(header: Dataset, k: int) -> None:
        header.EchoTime = 5 + k % 2

    write_slices(tmp_path / "head", stored_values(), oblique_matrix(), change)
    with pytest.raises(MaskSAMError, match="2 volumes that differ in echo time"):
        read_volume(tmp_path / "head")


def test_different_images_of_a_single_slice_are_refused(tmp_path: Path) -> None:
    stored = stored_values()
    paths = write_slices(tmp_path / "head", stored, oblique_matrix())
    changed = dcmread(paths[2])
    changed.PixelData = (stored[2] + 1).tobytes()
    changed.save_as(tmp_path / "head" / "IM002b")
    with pytest.raises(MaskSAMError, match=r"up to 2 images of the same slice.*IM002 and IM002b"):
        read_volume(tmp_path / "head")


def test_a_whole_copy_of_a_multi_frame_file_is_left_out(tmp_path: Path) -> None:
    stored = stored_values()
    write_enhanced(tmp_path / "a.dcm", stored, oblique_matrix())
    shutil.copy(tmp_path / "a.dcm", tmp_path / "b.dcm")
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.array, stored)
    assert len(volume.notes) == 1


def test_positions_off_by_rounding_are_even(tmp_path: Path) -> None:
    matrix = oblique_matrix()

    def change(header: Dataset, k: int) -> None:
        header.ImagePositionPatient = [round(value, 1) for value in position(matrix, k)]

    write_slices(tmp_path / "head", stored_values(), matrix, change)
    assert np.allclose(read_volume(tmp_path / "head").ijk_to_ras, matrix, atol=0.1)

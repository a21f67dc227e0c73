"""DICOM series for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    NuclearMedicineImageStorage,
    SegmentationStorage,
)
from scipy.spatial.transform import Rotation

Change = Callable[[Dataset, int], None]

SOP_CLASSES = {
    "MR": MRImageStorage,
    "CT": CTImageStorage,
    "NM": NuclearMedicineImageStorage,
    "SEG": SegmentationStorage,
    "enhanced MR": EnhancedMRImageStorage,
}
SERIES = "1.2.9"


def oblique_matrix(spacing: Sequence[float] = (0.7, 0.8, 2.5)) -> np.ndarray:
    """Return an oblique IJK-to-RAS matrix whose slices are in order along their normal."""
    matrix = np.eye(4)
    rotation = Rotation.from_euler("xyz", [20, 30, 10], degrees=True).as_matrix()
    matrix[:3, :3] = rotation @ np.diag(spacing)
    matrix[:3, 3] = 11, -22, 33
    return matrix


def stored_values(shape: tuple[int, int, int] = (6, 5, 4)) -> np.ndarray:
    """Return uint16 voxels [K, J, I], all different."""
    values = np.random.default_rng(0).permutation(np.prod(shape)) + 1
    return values.reshape(shape).astype(np.uint16)


def write_slices(
    folder: Path,
    array: np.ndarray,
    ijk_to_ras: np.ndarray,
    change: Change | None = None,
    modality: str = "MR",
    series: str = SERIES,
    name: str = "IM{:03}",
) -> list[Path]:
    """Write a file for each slice; return the files in order.

    Args:
        folder: folder of the files; created if it does not exist.
        array: stored values [K, J, I], uint16.
        ijk_to_ras: (4, 4) matrix.
        change: function that edits the header of slice k before it is written, or None.
        modality: DICOM modality.
        series: UID of the series.
        name: pattern of the file names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k, plane in enumerate(array):
        header = _header(plane, SOP_CLASSES[modality], modality, series, f"{series}.{k + 1}")
        header.ImagePositionPatient = position(ijk_to_ras, k)
        header.ImageOrientationPatient = orientation(ijk_to_ras)
        header.PixelSpacing, header.SliceThickness = _spacing(ijk_to_ras)
        header.InstanceNumber = k + 1
        if change is not None:
            change(header, k)
        paths.append(folder / name.format(k))
        header.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_enhanced(
    path: Path,
    array: np.ndarray,
    ijk_to_ras: np.ndarray,
    places: Sequence[int] | None = None,
    change: Change | None = None,
    edit: Callable[[Dataset], None] | None = None,
    series: str = SERIES,
) -> None:
    """Write an enhanced MR file, which has all slices and functional groups.

    Args:
        path: file to write; its folder is created.
        array: stored values of the frames (frames, rows, columns), uint16.
        ijk_to_ras: (4, 4) matrix.
        places: slice index k of each frame; None if the frames are in order.
        change: function that edits the functional groups of a frame before the file is written, or
            None.
        edit: function that edits the header before the file is written, or None.
        series: UID of the series.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    header = _header(
        array,
        EnhancedMRImageStorage,
        "MR",
        series,
        f"{series}.{len(list(path.parent.iterdir())) + 1}",
    )
    header.NumberOfFrames = len(array)
    measures, plane, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = _spacing(ijk_to_ras)
    plane.ImageOrientationPatient = orientation(ijk_to_ras)
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [plane]
    header.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for number, k in enumerate(range(len(array)) if places is None else places):
        group, place, content = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = position(ijk_to_ras, k)
        content.InStackPositionNumber = k + 1
        group.PlanePositionSequence = [place]
        group.FrameContentSequence = [content]
        if change is not None:
            change(group, number)
        groups.append(group)
    header.PerFrameFunctionalGroupsSequence = groups
    if edit is not None:
        edit(header)
    header.save_as(path, enforce_file_format=True)


def write_nuclear(
    path: Path,
    array: np.ndarray,
    ijk_to_ras: np.ndarray,
    slices: Sequence[int],
    edit: Callable[[Dataset], None] | None = None,
) -> None:
    """Write a nuclear medicine file with all slices.

    Args:
        path: file to write; its folder is created.
        array: stored values of the frames (frames, rows, columns), uint16.
        ijk_to_ras: (4, 4) matrix of the stack whose slice k has the number k + 1.
        slices: slice number of each frame, from 1.
        edit: function that edits the header before the file is written, or None.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    header = _header(array, NuclearMedicineImageStorage, "NM", SERIES, f"{SERIES}.1")
    header.NumberOfFrames = len(array)
    header.PixelSpacing, header.SpacingBetweenSlices = _spacing(ijk_to_ras)
    detector = Dataset()
    detector.ImagePositionPatient = position(ijk_to_ras, slices[0] - 1)
    detector.ImageOrientationPatient = orientation(ijk_to_ras)
    header.DetectorInformationSequence = [detector]
    header.SliceVector = list(slices)
    if edit is not None:
        edit(header)
    header.save_as(path, enforce_file_format=True)


def position(ijk_to_ras: np.ndarray, k: float) -> list[float]:
    """Return the centre of the first pixel of slice k in LPS mm, as headers store it."""
    place = ijk_to_ras[:3, 3] + k * ijk_to_ras[:3, 2]
    return [round(float(value), 6) for value in place * (-1, -1, 1)]


def orientation(ijk_to_ras: np.ndarray) -> list[float]:
    """Return the LPS directions along a row and down a column, as headers store them."""
    axes = ijk_to_ras[:3, :2] / np.linalg.norm(ijk_to_ras[:3, :2], axis=0)
    return [round(float(value), 9) for value in (axes.T * (-1, -1, 1)).ravel()]


def _spacing(ijk_to_ras: np.ndarray) -> tuple[list[float], float]:
    """Return the spacing of rows and of columns, and the spacing of slices, in mm."""
    i, j, k = (round(float(value), 6) for value in np.linalg.norm(ijk_to_ras[:3, :3], axis=0))
    return [j, i], k


def _header(array: np.ndarray, sop_class: str, modality: str, series: str, uid: str) -> Dataset:
    """Return the header of a grey-level image with the given pixels (..., rows, columns)."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = sop_class
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = uid
    header.Modality = modality
    header.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    header.PatientName, header.PatientID = "Invented^Name", "0"
    header.StudyInstanceUID, header.SeriesInstanceUID = "1.2.3", series
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.Rows, header.Columns = array.shape[-2:]
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PixelRepresentation = 15, 0
    header.PixelData = np.ascontiguousarray(array, "<u2").tobytes()
    return header


def write_series(
    folder: Path,
    array: np.ndarray,
    positions: Sequence[Sequence[float]],
    spacing: Sequence[float],
    axes: np.ndarray | None = None,
    uid: str = "1.2.9",
) -> list[str]:
    """Write a series with one slice per file, as scanners do; return the files in order.

    Args:
        folder: folder of the files; created if it does not exist.
        array: intensities (slices, rows, columns).
        positions: centre of the first pixel of each slice, LPS in mm.
        spacing: mm between columns, rows and slices.
        axes: (3, 2 or 3), LPS unit vectors along a row and a column; None for axial slices.
        uid: UID of the series.
    """
    axes = np.eye(3) if axes is None else axes
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    names = []
    for number, (plane, position) in enumerate(zip(array, positions, strict=True), 1):
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing([float(step) for step in spacing])
        tags = {
            "0008|0060": "MR",
            "0008|0018": f"{uid}.{number}",
            "0018|0050": f"{spacing[2]:.6f}",
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0020|0013": str(number),
            "0020|0032": "\\".join(f"{value:.6f}" for value in position),
            "0020|0037": "\\".join(f"{value:.9f}" for value in (*axes[:, 0], *axes[:, 1])),
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        names.append(str(folder / f"{uid}-{number:03}.dcm"))
        writer.SetFileName(names[-1])
        writer.Execute(image)
    return names

"""Reading and writing images through SimpleITK, which works in LPS; everything here is RAS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.io.complete import require_complete
from MaskSAMCore.io.dicom import read_series
from MaskSAMCore.io.files import atomic_path
from MaskSAMCore.io.quiet import quiet
from MaskSAMCore.io.segmentations import segment_metadata
from MaskSAMCore.labels import Label

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_ORTHONORMAL = 1e-4
_WRITTEN = (".nii.gz", ".nii", ".nrrd", ".mha")
# What number types that no format knows are written as.
_STORED: dict[str, np.dtype[Any]] = {
    "bool": np.dtype(np.uint8),
    "float16": np.dtype(np.float32),
}


def read_volume(path: Path | str) -> Volume:
    """Reads an image file, or a folder that holds one DICOM series.

    Voxels of a NIfTI file that are no finite numbers, which some programs put outside the body, are
    read as 0; in other formats they are refused.

    Returns:
        The volume, its array in the file's own number type, its name that of the file.

    Raises:
        MaskSAMError: nothing there, not an image, not 3D, colour, or voxels that are no numbers.
    """
    path = Path(path)
    if not path.exists():
        raise MaskSAMError(f"{path} does not exist")
    with quiet():
        image = _read_series(path) if path.is_dir() else _read_file(path)
    if image.GetNumberOfComponentsPerPixel() != 1:
        parts = image.GetNumberOfComponentsPerPixel()
        raise MaskSAMError(f"{path} has {parts} values a voxel (colour?): give a grey-level image")
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3:
        what = "2D image" if image.GetDimension() == 2 else f"{image.GetDimension()}D image"
        raise MaskSAMError(f"{path} is a {what}: give a single 3D volume")
    require_complete(path, image)
    array = sitk.GetArrayFromImage(image)
    if array.dtype.kind == "c":
        raise MaskSAMError(f"{path} has complex numbers: give its magnitude")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise MaskSAMError(
            f"{path} has {bad} voxels that are no finite numbers (NaN or infinite): replace them"
        )
    name = path.name
    for suffix in (".nii.gz", ".seg.nrrd", path.suffix):
        if suffix and name.lower().endswith(suffix.lower()):
            name = name[: -len(suffix)]
            break
    return Volume(array, _ijk_to_ras(image), name)


def _read_file(path: Path) -> sitk.Image:
    if path.stat().st_size == 0:
        raise MaskSAMError(f"{path} is an empty file")
    # SimpleITK finds out formats by itself, but knows that of MetaImage in lower case only.
    meta_image = path.suffix.lower() in (".mha", ".mhd")
    try:
        return sitk.ReadImage(str(path), imageIO="MetaImageIO" if meta_image else "")
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise MaskSAMError(
                f"{path} has sheared axes: resample it to a rectangular grid"
            ) from error
        raise MaskSAMError(
            f"{path} cannot be read as an image (NIfTI, NRRD, MetaImage or DICOM): it may be"
            " damaged, incomplete or of another kind"
        ) from error


def _read_series(folder: Path) -> sitk.Image:
    try:
        return read_series(folder)
    except RuntimeError as error:
        raise MaskSAMError(f"the DICOM series in {folder} cannot be read") from error


def _ijk_to_ras(image: sitk.Image) -> NDArray[np.float64]:
    direction = np.array(image.GetDirection(), dtype=float).reshape(3, 3)
    matrix = np.eye(4)
    matrix[:3, :3] = _LPS_TO_RAS @ direction @ np.diag(image.GetSpacing())
    matrix[:3, 3] = _LPS_TO_RAS @ np.array(image.GetOrigin())
    return matrix


def to_image(array: NDArray[Any], ijk_to_ras: NDArray[np.float64], vector: bool = False) -> Any:
    """A SimpleITK image of [K, J, I] (with ``vector``, [K, J, I, parts]) where it is in space.

    Raises:
        MaskSAMError: axes that are not at right angles or voxels that are no finite numbers, which
            image files cannot all hold; no voxels.
    """
    if array.size == 0:
        raise MaskSAMError("the volume has no voxels: there is nothing to write")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise MaskSAMError("the volume has voxels that are no finite numbers (NaN or infinite)")
    spacing = np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    direction = _LPS_TO_RAS @ ijk_to_ras[:3, :3] / spacing
    if np.abs(direction.T @ direction - np.eye(3)).max() > _ORTHONORMAL:
        raise MaskSAMError("the volume's axes are sheared, which image files cannot hold")
    native = array.dtype.newbyteorder("=")
    stored = _STORED.get(array.dtype.name, native)
    array = array.astype(stored, copy=False)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=vector)
    image.SetSpacing([float(v) for v in spacing])
    image.SetDirection([float(v) for v in direction.ravel()])
    image.SetOrigin([float(v) for v in _LPS_TO_RAS @ ijk_to_ras[:3, 3]])
    return image


def write_volume(volume: Volume, path: Path | str, overwrite: bool = False) -> None:
    """Writes a volume in the format of the suffix, complete or not at all.

    Raises:
        MaskSAMError: it exists, or cannot be written.
    """
    _write(to_image(volume.array, volume.ijk_to_ras), Path(path), overwrite)


def write_labelmap(
    labelmap: NDArray[np.integer],
    volume: Volume,
    path: Path | str,
    labels: Sequence[Label],
    overwrite: bool = False,
) -> None:
    """Writes a labelmap [K, J, I] on the grid of ``volume``.

    A name ending in ``.seg.nrrd`` becomes a segmentation with names, colours and terminology, as
    3D Slicer itself writes it; other suffixes give the plain labelmap.

    Raises:
        MaskSAMError: it exists, cannot be written, does not lie on the volume's grid, or has values
            that are no labels.
    """
    path = Path(path)
    if labelmap.shape != volume.array.shape:
        raise MaskSAMError(f"labelmap {labelmap.shape} is not on the grid {volume.array.shape}")
    lowest, highest = labelmap.min(initial=0), labelmap.max(initial=0)
    if lowest < 0 or highest > np.iinfo(np.uint16).max:
        raise MaskSAMError(f"labels must lie in 0 to 65535, these go from {lowest} to {highest}")
    small = np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16
    image = to_image(labelmap.astype(small, copy=False), volume.ijk_to_ras)
    if path.name.lower().endswith(".seg.nrrd"):
        for key, value in segment_metadata(labelmap, labels).items():
            image.SetMetaData(key, value)
    _write(image, path, overwrite)


def write_probabilities(
    probabilities: NDArray[np.float32], volume: Volume, path: Path | str, overwrite: bool = False
) -> None:
    """Writes probabilities [K + 1, K, J, I] as one image with a value a class in each voxel.

    Raises:
        MaskSAMError: it exists, or cannot be written.
    """
    image = to_image(np.moveaxis(probabilities, 0, -1), volume.ijk_to_ras, vector=True)
    _write(image, Path(path), overwrite)


def _write(image: sitk.Image, path: Path, overwrite: bool) -> None:
    if not path.name.lower().endswith(_WRITTEN):
        raise MaskSAMError(f"cannot write {path}: its name must end in {', '.join(_WRITTEN)}")
    with atomic_path(path, overwrite) as beside, quiet():
        # Some writers do not notice a disk that is full, so the file is read back.
        lower_case = beside.with_name(beside.name.lower())  # the only suffixes that writers know
        try:
            sitk.WriteImage(image, str(lower_case), useCompression=True)
            again = sitk.ReadImage(str(lower_case))
        except RuntimeError as error:
            raise MaskSAMError(f"cannot write {path}: the disk may be full") from error
        if sitk.Hash(again) != sitk.Hash(image):
            raise MaskSAMError(f"cannot write {path}: the disk may be full or damaged")
        lower_case.replace(beside)
